"""Interrupts, death and shutdown of a room's kernel, against a recording host and a scripted kernel."""

from __future__ import annotations

import asyncio

import pytest

from daemon.fakes import (
    busy,
    error,
    idle,
    reply,
    started,
    stream,
)
from daemon.stage import Stage, staged, turn, until
from runtimed_ffi.daemon.ports import Message
from runtimed_ffi.daemon.rooms import execution


@staged
async def test_death_ends_everything_with_its_reason(s: Stage) -> None:
    await s.launch()
    s.execute("a", "b")
    s.kernel.say(busy("m1"), started("m1", 1), stream("m1", "x"))
    s.host.log.clear()
    s.kernel.die("Kernel died: exit code 3")
    assert {done["reason"] for done in s.host.take("execution_done")} == {"Kernel died: exit code 3"}
    assert s.host.brief() == [
        "kernel_error",
        "status error: Kernel died: exit code 3 -",
        "done a kernel_died",
        "done b kernel_died",
        "queue - []",
    ]
    s.execute("a")
    assert s.host.brief() == ["-> no_kernel"]
    await s.launch()
    s.execute("a")
    assert s.kernel.executed == ["code a"]


@staged
async def test_death_of_an_idle_kernel_fails_no_execution(s: Stage) -> None:
    await s.launch()
    s.kernel.die()
    assert s.host.brief() == ["status error: Kernel died: exit code 3 -"]


@staged
async def test_shutdown_finishes_what_waits(s: Stage) -> None:
    await s.launch()
    s.execute("a", "b")
    s.host.log.clear()
    old = s.kernel
    s.ask("shutdown_kernel")
    assert s.host.take("execution_done")[0]["reason"] == "kernel was shut down"
    assert s.host.brief() == [
        "-> kernel_shutting_down",
        "status shutdown -",
        "done a cancelled",
        "done b cancelled",
        "queue - []",
    ]
    await turn()
    assert old.stopped
    old.say(idle("m1"))
    old.die()
    assert s.host.brief() == []
    await s.launch()
    assert s.kernel is not old


@staged
async def test_interrupt(s: Stage) -> None:
    await s.launch()
    s.ask("interrupt_execution")
    assert s.kernel.interrupts == 0, "the kernel is idle, and would take the signal in the middle of the next cell"
    s.execute("a", "b")
    s.ask("interrupt_execution", 2)
    assert s.kernel.interrupts == 0, "too early: the kernel has not begun"
    s.kernel.say(busy("m1"), started("m1", 1))
    assert s.kernel.interrupts == 1
    s.kernel.say(error("m1", "KeyboardInterrupt"), reply("m1", "error", ename="KeyboardInterrupt"), idle("m1"))
    assert [done["status"] for done in s.host.take("execution_done")] == ["cancelled", "interrupted"]


@staged
async def test_interrupt_of_something_else_in_front_is_sent_at_once(s: Stage) -> None:
    await s.launch()
    s.kernel.say(busy("comm"))
    s.ask("interrupt_execution")
    assert s.kernel.interrupts == 1
    s.execute("a")
    s.ask("interrupt_execution", 2)
    assert s.kernel.interrupts == 2


@staged
async def test_keyboard_interrupt_of_its_own_is_an_error(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.play(1, status="error", ename="KeyboardInterrupt", evalue="")
    assert s.host.take("execution_done")[0]["status"] == "error"


def test_an_interrupt_that_costs_the_reply_stops_what_was_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    """ipykernel drops a request if the interrupt finds it before the cell has begun: idle comes, no reply, no error."""
    monkeypatch.setattr(execution, "FENCE_DELAY", 0.01)

    async def body() -> None:
        s = Stage()
        await s.launch()
        s.execute("a", "b")
        s.execute("c", peer=2)
        s.kernel.say(busy("m1"), started("m1", 1))
        s.ask("interrupt_execution")
        s.kernel.say(idle("m1"))
        await until(lambda: s.kernel.fences == 1)
        s.host.log.clear()
        s.kernel.say(busy("f1"), Message("shell", "kernel_info_reply", "f1", {}, {}, []), idle("f1"))
        assert s.host.brief() == ["queue a [c]", "done b cancelled", "done a interrupted", "queue - [c]", "queue c []"]
        assert s.kernel.executed == ["code a", "code c"]

    asyncio.run(body())


@staged
async def test_interrupts_before_the_start_are_sent_once_and_not_to_the_next(s: Stage) -> None:
    await s.launch()
    s.execute("a", "b")
    for peer in (1, 2):
        s.ask("interrupt_execution", peer)
    s.kernel.say(busy("m1"))
    s.ask("interrupt_execution")
    assert s.kernel.interrupts == 0, "busy, but not running the code yet: the interrupt would be lost"
    s.kernel.say(started("m1", 1), started("m1", 1))
    assert s.kernel.interrupts == 1
    s.kernel.say(reply("m1"), idle("m1"), busy("m2"), started("m2", 2))
    assert s.kernel.executed == ["code a", "code b"]
    assert s.kernel.interrupts == 1, "the interrupt is not for the next execution"
    s.kernel.say(reply("m2", "error", ename="KeyboardInterrupt"), idle("m2"))
    assert [done["status"] for done in s.host.take("execution_done")] == ["ok", "error"]


@staged
async def test_each_execution_can_be_interrupted_before_its_start(s: Stage) -> None:
    await s.launch()
    for number in range(1, 3):
        s.execute("a")
        s.ask("interrupt_execution")
        s.kernel.say(busy(f"m{number}"), started(f"m{number}", number))
        assert s.kernel.interrupts == number
        s.kernel.say(reply(f"m{number}", "error", ename="KeyboardInterrupt"), idle(f"m{number}"))
    assert [done["status"] for done in s.host.take("execution_done")] == ["interrupted", "interrupted"]


@staged
async def test_what_was_requested_after_an_interrupt_runs_and_stops_with_its_own_error(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.kernel.say(busy("m1"), started("m1", 1))
    s.ask("interrupt_execution")
    s.execute("b", "c")
    s.kernel.say(reply("m1", "error", ename="KeyboardInterrupt"), idle("m1"))
    assert s.kernel.executed == ["code a", "code b"], "requested after the interrupt: it runs"
    s.host.log.clear()
    s.play(2, status="error", ename="ValueError", evalue="")
    assert [(done["cell_id"], done["status"]) for done in s.host.take("execution_done")] == [
        ("c", "cancelled"),
        ("b", "error"),
    ], "the failure of b counts for what is queued behind it"
