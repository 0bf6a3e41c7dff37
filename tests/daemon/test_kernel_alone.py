"""One kernel without a process: the delivery of interrupts, and which messages reach the listener."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Callable

import pytest

pytest.importorskip("zmq", reason="pyzmq is missing")

from daemon.fakes import busy, idle
from runtimed_ffi.daemon.environments.plans import LaunchPlan
from runtimed_ffi.daemon.kernels import kernel_directory
from runtimed_ffi.daemon.kernels.kernel import Kernel
from runtimed_ffi.daemon.ports import Message


class SlowProvisioned:
    """Delivers an interrupt when the test opens the gate."""

    interrupted_by_message = False

    def __init__(self) -> None:
        self.begun = 0
        self.gate = asyncio.Event()

    async def interrupt(self) -> None:
        self.begun += 1
        await self.gate.wait()


class Sockets:
    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, channel: str, msg_type: str, content: Any) -> str:
        self.sent.append(msg_type)
        return f"m{len(self.sent)}"


class Listener:
    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_death(self, kernel: Kernel, reason: str) -> None:
        self.messages.append(reason)

    def on_messages(self, kernel: Kernel, batch: list[Message]) -> None:
        self.messages += [f"{message.msg_type} {message.parent_id}" for message in batch]


def with_kernel(test: Callable[[Kernel, SlowProvisioned], Awaitable[None]]) -> Callable[[Path], None]:
    def run(tmp_path: Path) -> None:
        async def body() -> None:
            plan = LaunchPlan("python", "x", [sys.executable], str(tmp_path))
            kernel = Kernel(plan, Listener(), kernel_directory.make(str(tmp_path)))  # type: ignore[arg-type]
            provisioned = SlowProvisioned()
            kernel._provisioned, kernel._sockets = provisioned, Sockets()  # type: ignore[assignment]
            await asyncio.wait_for(test(kernel, provisioned), 30)

        asyncio.run(body())

    run.__name__ = test.__name__
    return run


async def delivered(kernel: Kernel, provisioned: SlowProvisioned) -> int:
    """Open the gate; returns the number of signals sent in the end."""
    provisioned.gate.set()
    assert kernel._interrupting is not None
    await kernel._interrupting
    return provisioned.begun


@with_kernel
async def test_interrupts_of_one_cell_during_a_delivery_are_one(kernel: Kernel, provisioned: SlowProvisioned) -> None:
    kernel.execute("1")
    for _ in range(3):
        kernel.interrupt()
        await asyncio.sleep(0)
    assert await delivered(kernel, provisioned) == 1
    kernel.interrupt()
    assert await delivered(kernel, provisioned) == 2, "a later one is sent again"


@with_kernel
async def test_the_next_cell_gets_its_own(kernel: Kernel, provisioned: SlowProvisioned) -> None:
    kernel.execute("1")
    kernel.interrupt()
    await asyncio.sleep(0)
    kernel.execute("2")
    kernel.interrupt()
    assert await delivered(kernel, provisioned) == 2


@with_kernel
async def test_an_interrupt_of_another_cell_is_not_sent(kernel: Kernel, provisioned: SlowProvisioned) -> None:
    kernel.execute("1")
    kernel.interrupt()
    await asyncio.sleep(0)
    kernel.execute("2")
    kernel.interrupt()
    kernel.execute("3")
    assert await delivered(kernel, provisioned) == 1, "the interrupt of 2 would meet 3"


@with_kernel
async def test_by_message_each_is_sent_at_once(kernel: Kernel, provisioned: SlowProvisioned) -> None:
    provisioned.interrupted_by_message = True  # type: ignore[misc]
    kernel.execute("1")
    kernel.interrupt()
    kernel.interrupt()
    assert kernel._sockets.sent == ["execute_request", "interrupt_request", "interrupt_request"]  # type: ignore[union-attr]
    assert provisioned.begun == 0


@with_kernel
async def test_what_the_probes_of_a_start_cause_does_not_reach_the_listener(
    kernel: Kernel, provisioned: SlowProvisioned
) -> None:
    start = asyncio.ensure_future(kernel._until_ready(kernel._sockets))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    kernel._on_batch([busy("m1"), Message("shell", "kernel_info_reply", "m1", {}, {}, [])])
    await start
    kernel._open_up()
    kernel._on_batch([idle("m1"), busy("m2"), idle("m1"), busy("")])
    assert kernel._listener.messages == ["status m2", "status "]  # type: ignore[attr-defined]


@with_kernel
async def test_what_a_dying_kernel_has_sent_comes_before_its_death(
    kernel: Kernel, provisioned: SlowProvisioned
) -> None:
    class Drained(Sockets):
        def __init__(self) -> None:
            super().__init__()
            self.disconnected = asyncio.get_running_loop().create_future()

        def drain(self) -> None:
            kernel._on_batch([busy("m1")])

        def close(self) -> None:
            self.sent.append("closed")

    async def release() -> None:
        pass

    kernel._sockets = sockets = Drained()  # type: ignore[assignment]
    provisioned.release = release  # type: ignore[attr-defined]
    kernel._open_up()
    kernel._on_exit(3)
    kernel._on_batch([idle("m0")])
    sockets.disconnected.set_result(None)
    assert kernel._ended is not None
    await kernel._ended
    kernel._on_batch([idle("m2")])
    assert kernel._listener.messages == ["status m0", "status m1", "Kernel died: exit code 3"]  # type: ignore[attr-defined]
    assert sockets.sent == ["closed"]
