"""Requests of peers and their answers, against a recording host and a scripted kernel."""

from __future__ import annotations

import asyncio

import pytest

from daemon.fakes import (
    stream,
)
from daemon.stage import Stage, staged, turn, until
from runtimed_ffi.daemon.rooms import requests


@staged
async def test_without_kernel_every_request_has_its_recorded_answer(s: Stage) -> None:
    """golden requests-no-kernel"""
    s.ask("get_kernel_info")
    s.ask("get_queue_state")
    s.execute("nope", "md", "a")
    s.ask("queue_cell", cell_id="a", code="1")
    s.ask("interrupt_execution")
    s.ask("shutdown_kernel")
    s.ask("run_all_cells")
    s.ask("send_comm", message={})
    s.ask("get_history", pattern=None, n=5, unique=True)
    s.ask("complete", code="pri", cursor_pos=3)
    s.ask("clear_outputs", cell_id="nope")
    s.ask("save_notebook", format_cells=False)
    await turn()
    info, queue = s.host.responses()[:2]
    none = {"kernel_type": None, "env_source": None, "status": "not_started"}
    assert info == {"result": "kernel_info", "token": 1, **none}
    assert queue == {"result": "queue_state", "executing": None, "queued": [], "token": 2}
    by_token = sorted(s.host.responses(), key=lambda item: item["token"])[2:]
    texts = [item.get("error", item["result"]) for item in by_token]
    assert texts == [
        "Cell not found in document: nope",
        "Cannot execute non-code cell: md (type: markdown)",
        "no_kernel",
        "no_kernel",
        "no_kernel",
        "no_kernel",
        "no_kernel",
        "no_kernel",
        "no_kernel",
        "no_kernel",
        "outputs_cleared",
        "Failed to save notebook: the room has no file: nb is no normalised absolute path that ends in .ipynb",
    ]


@staged
async def test_broken_requests_are_answered(s: Stage) -> None:
    for payload in (b"[]", b"\xff", b'{"action":"explode"}', b'{"action":5}', b'{"action":"execute_cell","cell_id":7}'):
        s.requests.handle("nb", 1, 1, payload)
    s.requests.handle("unknown room", 1, 1, b'{"action":"get_queue_state"}')
    assert [item["result"] for item in s.host.responses()] == ["error"] * 6


@staged
async def test_source_is_that_of_the_request(s: Stage) -> None:
    await s.launch()
    s.execute("a", "b")
    s.host.documents["nb"][1]["source"] = "changed"
    s.play(1)
    assert s.kernel.executed[1] == "code b"


@staged
async def test_run_all_cells(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.host.log.clear()
    s.ask("run_all_cells")
    assert s.host.responses()[0]["count"] == 5
    assert s.host.brief()[1:] == ["queue a [b c d e]"]


@staged
async def test_queue_cell_runs_given_code_for_any_id(s: Stage) -> None:
    await s.launch()
    s.ask("queue_cell", cell_id="zz", code="print(1)")
    assert s.kernel.executed == ["print(1)"]
    s.play(1, stream("m1", "1\n"))
    assert s.host.brief()[-3:] == ["status idle zz", "done zz ok", "queue - []"]


@staged
async def test_completion_and_history(s: Stage) -> None:
    await s.launch()
    s.ask("complete", code="pri", cursor_pos=3)
    s.ask("get_history", pattern=None, n=2, unique=True)
    s.ask("get_queue_state")
    await turn()
    assert s.host.brief() == ["-> queue_state"]
    s.kernel.replies["complete_request"].set_result({"matches": ["print"], "cursor_start": 0, "cursor_end": 3})
    s.kernel.replies["history_request"].set_result({"history": [[1, 2, "x"]]})
    await turn()
    completion, history = s.host.responses()
    assert completion["items"] == [{"label": "print", "source": "kernel"}]
    assert history["entries"] == [{"session": 1, "line": 2, "source": "x"}]


def test_completion_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "KERNEL_ANSWER_LIMIT", 0.01)

    async def body() -> None:
        s = Stage()
        await s.launch()
        s.ask("complete", code="pri", cursor_pos=3)
        s.ask("get_history", pattern=None, n=2, unique=True)
        await until(lambda: len(s.host.responses()) == 2)
        assert s.host.brief() == [
            "-> error Failed to get completions: Completion request timed out",
            "-> error Failed to get history: History request timed out",
        ]

    asyncio.run(body())


@staged
async def test_a_refused_change_does_not_take_the_rest_with_it(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.host.refuse_ops = ["set_execution_count"]
    s.play(1, stream("m1", "kept"))
    assert s.host.outputs("nb", "a")[0]["text"] == "kept"
    assert s.host.brief()[-2:] == ["done a ok", "queue - []"]


@pytest.mark.parametrize("excess", [0, 1])
def test_an_answer_may_be_as_large_as_a_broadcast(monkeypatch: pytest.MonkeyPatch, excess: int) -> None:
    async def body() -> None:
        s = Stage()
        await s.launch()
        s.ask("complete", code="pri", cursor_pos=3)
        await turn()
        expected = {"result": "completion_result", "items": [], "cursor_start": 3, "cursor_end": 3}
        monkeypatch.setattr(requests, "BROADCAST_LIMIT", requests.json_size(expected) - excess)
        s.kernel.replies["complete_request"].set_result({})
        await turn()
        (answer,) = s.host.responses()
        assert answer["result"] == ("error" if excess else "completion_result")

    asyncio.run(body())
