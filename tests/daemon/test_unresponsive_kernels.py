"""Requests that wait for a kernel which is dead, unresponsive or odd: each has an answer and delays no other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daemon.fakes import busy, idle, iopub, started
from daemon.stage import LAUNCH, Stage, staged, turn, until
from runtimed_ffi.daemon.ports import KernelGone
from runtimed_ffi.daemon.rooms import requests

QUESTIONS: list[dict[str, Any]] = [
    {"action": "complete", "code": "pri", "cursor_pos": 3},
    {"action": "get_history", "pattern": None, "n": 5, "unique": True},
]


@staged
async def test_a_request_to_a_silent_kernel_delays_no_other(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.kernel.say(busy("m1"), started("m1", 1))
    for question in QUESTIONS:
        s.ask(**question)
    await turn()
    # The same peer, another peer, another room, an interrupt: all are answered while the kernel is silent.
    s.ask("get_kernel_info")
    s.ask("interrupt_execution", 2)
    s.ask("execute_cell", 2, cell_id="b")
    s.ask("clear_outputs", 2, cell_id="c")
    s.ask("send_comm", 2, message={})
    s.rooms.wanted("other")
    s.rooms.joined("other", 9, 1)
    s.requests.handle("other", 90, 9, b'{"action":"get_queue_state"}')
    results = [item["result"] for item in s.host.responses()][1:]
    assert results == ["kernel_info", "interrupt_sent", "cell_queued", "outputs_cleared", "error", "queue_state"]
    assert s.kernel.interrupts == 1
    s.ask("shutdown_kernel", 2)
    assert s.host.responses()[-1]["result"] == "kernel_shutting_down"
    s.requests.close()
    await turn()
    assert len(s.host.responses()) == len(results) + 4, "requests that still waited are answered too"


@staged
async def test_a_launch_that_hangs_delays_no_other_request(s: Stage) -> None:
    s.factory.gate.clear()
    s.ask(**LAUNCH)
    for question in QUESTIONS:
        s.ask(**question)
    s.ask("interrupt_execution", 2)
    s.ask("execute_cell", 2, cell_id="a")
    s.ask("get_queue_state", 2)
    await turn()
    by_token = {item["token"]: item["result"] for item in s.host.responses()}
    assert by_token == {2: "no_kernel", 3: "no_kernel", 4: "no_kernel", 5: "cell_queued", 6: "queue_state"}
    s.ask("shutdown_kernel", 2)
    await turn()
    assert [item["result"] for item in s.host.responses()][-2:] == ["kernel_shutting_down", "error"]


@staged
async def test_a_request_to_a_dying_kernel_is_answered_at_once(s: Stage) -> None:
    await s.launch()
    for question in QUESTIONS:
        s.ask(**question)
    await turn()
    for reply in s.kernel.replies.values():
        reply.set_exception(KernelGone("dead"))
    s.kernel.die()
    await turn()
    assert [item["error"] for item in s.host.responses()] == [
        "Failed to get completions: Completion request cancelled",
        "Failed to get history: History request cancelled",
    ]
    for action in ("interrupt_execution", "shutdown_kernel", "run_all_cells"):
        s.ask(action)
    for question in QUESTIONS:
        s.ask(**question)
    await turn()
    assert [item["result"] for item in s.host.responses()][2:] == ["no_kernel"] * 5


@staged
async def test_odd_answers_lose_only_what_is_odd(s: Stage) -> None:
    await s.launch()
    for reply, expected in (
        ({"matches": 5, "cursor_start": "x"}, []),
        ({"status": "error"}, []),
        ({"matches": ["a", 7]}, [{"label": "a", "source": "kernel"}, {"label": "7", "source": "kernel"}]),
    ):
        s.ask(**QUESTIONS[0])
        await turn()
        s.kernel.replies["complete_request"].set_result(reply)
        await turn()
        answer = s.host.responses()[-1]
        assert answer["items"] == expected and (answer["cursor_start"], answer["cursor_end"]) == (3, 3)
    s.ask(**QUESTIONS[1])
    await turn()
    s.kernel.replies["history_request"].set_result({"history": [[1], 7, [1, 2, "x"], ["a", 2, "y"], [3, 4, 5]]})
    await turn()
    assert [entry["source"] for entry in s.host.responses()[-1]["entries"]] == ["x", "5"]


def test_an_answer_that_is_too_large_keeps_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BROADCAST_LIMIT", 1000)

    async def body() -> None:
        s = Stage()
        await s.launch()
        s.ask(**QUESTIONS[0])
        await turn()
        s.kernel.replies["complete_request"].set_result({"matches": ["x" * 1000]})
        await until(lambda: bool(s.host.responses()))
        assert "too large" in s.host.responses()[0]["error"]

    asyncio.run(body())


@staged
async def test_status_messages_of_a_kernel(s: Stage) -> None:
    """protocol 2, section 5.8"""
    await s.launch()
    for state in ("starting", "busy", "idle", "restarting", "terminating", "dead", "levitating", None):
        s.kernel.say(iopub("status", "x", execution_state=state))
    statuses = [item["status"] for item in s.host.take("kernel_status")]
    assert statuses == ["starting", "busy", "idle", "restarting", "shutdown", "shutdown", "unknown", "unknown"]


@staged
async def test_messages_of_unknown_types_and_shapes_cost_nothing_else(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    odd = [
        iopub("debug_event", "m1", event=1),
        iopub("stream", "m1"),
        iopub("stream", "m1", name=7, text=None),
        iopub("clear_output", "m1"),
        iopub("clear_output", "m1", wait="yes"),
        iopub("update_display_data", "m1", data=5, transient={"display_id": ["d"]}),
        iopub("update_display_data", "m1", transient=None),
        iopub("execute_input", "m1", execution_count="many"),
        iopub("status", "m1"),
        iopub("comm_msg", "m1", comm_id=None),
        idle("unknown"),
    ]
    for message in odd:
        s.kernel.say(message)
    s.host.documents["nb"][0]["outputs"].clear()
    s.play(1, iopub("display_data", "m1", data={"text/plain": "fine"}))
    assert s.host.outputs("nb", "a")[-1]["data"] == {"text/plain": "fine"}
    assert s.host.brief()[-2:] == ["done a ok", "queue - []"]
