"""Requests, queue, outputs, launches and ends of a room, against a recording host and a scripted kernel."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Callable

import pytest

from runtimed_ffi.daemon.channels.settings import Values
from runtimed_ffi.daemon.environments.plans import LaunchRequest, automatic
from runtimed_ffi.daemon.files.paths import set_aside
from runtimed_ffi.daemon.ports import Launching, Message
from runtimed_ffi.daemon.rooms import execution, requests
from runtimed_ffi.daemon.rooms import rooms as rooms_module
from runtimed_ffi.daemon.rooms.requests import NotebookRequests
from runtimed_ffi.daemon.rooms.rooms import Rooms

from .fakes import (
    FakeBlobs,
    FakeHost,
    KernelFactory,
    ScriptedKernel,
    busy,
    display,
    error,
    idle,
    iopub,
    reply,
    started,
    stream,
)

LAUNCH = {"action": "launch_kernel", "kernel_type": "python", "env_source": "uv:prewarmed", "notebook_path": None}


def by_default(notebook_id: str) -> LaunchRequest | None:
    return automatic(notebook_id, Values(), "/nonexistent")


class Stage:
    """One room ``nb`` with cells ``a`` to ``e`` (code) and ``md``; peers 1 and 2."""

    def __init__(self, eviction_delay: float | None = None) -> None:
        self.host = FakeHost()
        self.blobs = FakeBlobs()
        self.factory = KernelFactory()
        self.rooms = Rooms(self.host, self.blobs, self.factory, None, eviction_delay)
        self.requests = NotebookRequests(self.host, self.rooms)
        self.rooms.wanted("nb")
        self.rooms.joined("nb", 1, 1)
        self.rooms.joined("nb", 2, 2)
        for name in "abcde":
            self.host.add_cell("nb", name, f"code {name}")
        self.host.add_cell("nb", "md", "# text", "markdown")
        self._token = 0

    @property
    def kernel(self) -> ScriptedKernel:
        return self.factory.kernels[-1]

    def ask(self, action: str, peer: int = 1, **members: Any) -> int:
        self._token += 1
        payload = json.dumps({"action": action, **members}).encode()
        self.requests.handle("nb", self._token, peer, payload)
        return self._token

    def execute(self, *cells: str, peer: int = 1) -> None:
        for cell in cells:
            self.ask("execute_cell", peer, cell_id=cell)

    async def launch(self) -> None:
        self.ask(**LAUNCH)
        await until(lambda: bool(self.factory.kernels))
        await turn()
        self.host.log.clear()

    def play(self, number: int, *middle: Message, status: str = "ok", **content: Any) -> None:
        """A whole execution in one batch."""
        m = f"m{number}"
        self.kernel.say(busy(m), started(m, number), *middle, idle(m), reply(m, status, **content))


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen")


async def settled() -> None:
    """Wait until nothing is going on any more."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:  # type: ignore[arg-type]
        _, open_ones = await asyncio.wait(others, timeout=60.0)
        assert not open_ones


def staged(test: Callable[[Stage], Awaitable[None]]) -> Callable[[], None]:
    """Run a coroutine test with a stage."""

    def run() -> None:
        async def body() -> None:
            await asyncio.wait_for(test(Stage()), 30)

        asyncio.run(body())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


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
async def test_a_launch_has_the_wishes_of_the_document(s: Stage) -> None:
    snapshot = {"runt": {"schema_version": "1", "uv": {"dependencies": ["pandas"]}}}
    s.host.metadata_of["nb"] = {"runtime": "python", "notebook_metadata": json.dumps(snapshot)}
    s.ask("launch_kernel", kernel_type="python", env_source="auto", notebook_path="/n/a.ipynb")
    await until(lambda: bool(s.factory.requests))
    assert s.factory.requests == [LaunchRequest("python", "auto", "/n/a.ipynb", "nb", snapshot)]


@staged
async def test_progress_of_a_launch_is_told_to_the_room(s: Stage) -> None:
    s.factory.gate.clear()
    s.ask(**dict(LAUNCH, env_source="auto"))
    await turn()
    s.rooms.get("nb").on_progress(Launching("python", "uv:inline"))
    s.rooms.get("nb").on_progress(Launching("python", "uv:inline", "preparing environment: installing pandas"))
    s.ask("get_kernel_info")
    assert s.host.responses()[0]["env_source"] == "uv:inline"
    s.factory.gate.set()
    await until(lambda: len(s.host.take("kernel_status")) == 3)
    assert s.host.brief() == [
        "status starting -",
        "status preparing environment: installing pandas -",
        "-> kernel_info",
        "-> kernel_launched",
        "status idle -",
    ]
    s.rooms.get("nb").on_progress(Launching("python", "uv:inline", "late"))
    assert s.host.brief() == []


@staged
async def test_an_unknown_kernel_type_is_an_answer_and_nothing_else(s: Stage) -> None:
    s.factory.failure = "Failed to launch kernel: Unsupported kernel type: julia"
    s.ask(**dict(LAUNCH, kernel_type="julia"))
    await until(lambda: bool(s.host.responses()))
    await turn()
    assert s.host.brief() == ["-> error Failed to launch kernel: Unsupported kernel type: julia"]


@staged
async def test_broken_requests_are_answered(s: Stage) -> None:
    for payload in (b"[]", b"\xff", b'{"action":"explode"}', b'{"action":5}', b'{"action":"execute_cell","cell_id":7}'):
        s.requests.handle("nb", 1, 1, payload)
    s.requests.handle("unknown room", 1, 1, b'{"action":"get_queue_state"}')
    assert [item["result"] for item in s.host.responses()] == ["error"] * 6


@staged
async def test_launch_answers_before_its_broadcasts(s: Stage) -> None:
    s.ask(**LAUNCH)
    await until(lambda: bool(s.factory.kernels))
    await turn()
    assert s.host.brief() == ["status starting -", "-> kernel_launched", "status idle -"]
    s.ask("launch_kernel", kernel_type="deno", env_source="conda:prewarmed")
    s.ask("get_kernel_info")
    launched, info = s.host.responses()
    assert (launched["result"], launched["kernel_type"]) == ("kernel_already_running", "python")
    assert (info["env_source"], info["status"]) == ("uv:prewarmed", "idle")


@staged
async def test_concurrent_launches_are_one(s: Stage) -> None:
    s.factory.gate.clear()
    s.ask(**LAUNCH)
    s.ask("launch_kernel", 2, kernel_type="deno", env_source="x")
    await turn()
    s.ask("get_kernel_info")
    assert s.host.responses()[0]["status"] == "starting"
    s.factory.gate.set()
    await until(lambda: len(s.host.responses()) == 3)
    assert [item["result"] for item in s.host.responses()[1:]] == ["kernel_launched", "kernel_already_running"]
    assert len(s.factory.kernels) == 1


@staged
async def test_execution_waits_for_the_launch_and_shares_its_failure(s: Stage) -> None:
    s.factory.gate.clear()
    s.factory.failure = "Failed to launch kernel: boom"
    s.ask(**LAUNCH)
    s.execute("a", "b")
    s.factory.gate.set()
    await until(lambda: len(s.host.take("execution_done")) == 2)
    assert s.host.brief() == [
        "status starting -",
        "-> cell_queued",
        "queue - [a]",
        "-> cell_queued",
        "queue - [a b]",
        "-> error Failed to launch kernel: boom",
        "status error: Failed to launch kernel: boom -",
        "done a launch_failed",
        "done b launch_failed",
        "queue - []",
    ]
    s.factory.failure = None
    await s.launch()
    s.execute("a")
    assert s.kernel.executed == ["code a"]


@staged
async def test_queued_during_the_launch_runs_after_it(s: Stage) -> None:
    s.factory.gate.clear()
    s.ask(**LAUNCH)
    s.execute("a")
    s.factory.gate.set()
    await until(lambda: bool(s.factory.kernels) and s.kernel.executed == ["code a"])
    assert s.host.brief()[-2:] == ["status idle -", "queue a []"]


def test_a_launch_that_takes_too_long_is_answered_and_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "LAUNCH_ANSWER_LIMIT", 0.01)

    async def body() -> None:
        s = Stage()
        s.factory.gate.clear()
        s.ask(**LAUNCH)
        await until(lambda: bool(s.host.responses()))
        assert s.host.responses()[0]["result"] == "error"
        s.factory.gate.set()
        await until(lambda: bool(s.factory.kernels))
        s.ask(**LAUNCH)
        await turn()
        assert [item["result"] for item in s.host.responses()] == ["error", "kernel_already_running"]

    asyncio.run(body())


@staged
async def test_order_of_a_successful_execution(s: Stage) -> None:
    """protocol 2, section 5.9"""
    await s.launch()
    s.execute("a")
    assert s.host.brief() == ["-> cell_queued", "queue - [a]", "queue a []"]
    s.play(1, stream("m1", "hi\n"))
    assert s.host.cell("nb", "a")["execution_count"] == 1
    assert s.host.outputs("nb", "a") == [{"output_type": "stream", "name": "stdout", "text": "hi\n"}]
    assert s.host.brief() == [
        "status busy a",
        "started a 1",
        "output a stream",
        "status idle a",
        "done a ok",
        "queue - []",
    ]


@staged
async def test_a_kernel_that_says_twice_that_it_begins_is_told_once(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.kernel.say(busy("m1"), started("m1", 1), started("m1", 1))
    s.kernel.say(started("m1", 2), reply("m1"), idle("m1"))
    assert [told["execution_count"] for told in s.host.take("execution_started")] == [1]
    assert len(s.host.take("execution_done")) == 1


@staged
async def test_done_needs_reply_and_idle_in_any_order(s: Stage) -> None:
    await s.launch()
    for number, first, second in ((1, reply("m1"), idle("m1")), (2, idle("m2"), reply("m2"))):
        s.execute("a")
        s.kernel.say(busy(f"m{number}"), started(f"m{number}", number))
        s.kernel.say(first)
        assert not s.host.take("execution_done")
        s.kernel.say(stream(f"m{number}", "late"))
        s.kernel.say(second)
        (done,) = s.host.take("execution_done")
        assert done["status"] == "ok" and "reason" not in done and done["execution_count"] == number
        assert done["execution_id"] == s.host.responses()[0]["execution_id"]
        assert s.host.brief()[-2:] == ["done a ok", "queue - []"]


@staged
async def test_a_batch_is_one_publication_and_streams_merge(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    before = s.host.publications
    s.play(
        1,
        stream("m1", "1"),
        stream("m1", "2"),
        stream("m1", "e", "stderr"),
        stream("m1", "3"),
        display("m1", "d"),
        stream("m1", "4"),
    )
    assert s.host.publications == before + 1
    texts = [output.get("text") for output in s.host.outputs("nb", "a")]
    assert texts == ["12", "e", "3", None, "4"]
    assert len(s.host.take("output")) == 5


@staged
async def test_idempotent_while_executing_or_queued(s: Stage) -> None:
    """golden requests-kernel"""
    await s.launch()
    s.execute("a", "b")
    s.host.log.clear()
    s.execute("a", "b")
    assert [response.get("joined") for response in s.host.responses()] == [True, None]
    assert s.host.brief() == ["-> cell_queued", "-> cell_queued"]
    s.ask("get_queue_state")
    (state,) = s.host.responses()
    assert (state["executing"], state["queued"]) == ("a", ["b"])
    s.host.log.clear()
    s.play(1)
    assert s.host.brief()[-3:] == ["done a ok", "queue - [b]", "queue b []"]
    assert s.kernel.executed == ["code a", "code b"]


@staged
async def test_source_is_that_of_the_request(s: Stage) -> None:
    await s.launch()
    s.execute("a", "b")
    s.host.documents["nb"][1]["source"] = "changed"
    s.play(1)
    assert s.kernel.executed[1] == "code b"


@staged
async def test_outputs_of_a_rerun_replace_the_old(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.play(1, stream("m1", "old"))
    s.execute("a")
    cell = s.host.cell("nb", "a")
    assert cell["outputs"] == [] and cell["execution_count"] is None
    s.play(2, stream("m2", "new"))
    assert [output["text"] for output in s.host.outputs("nb", "a")] == ["new"]


@staged
async def test_stop_on_error_drops_only_what_the_same_peer_queued(s: Stage) -> None:
    await s.launch()
    s.execute("a", "b")
    s.execute("c", peer=2)
    s.execute("d")
    s.host.log.clear()
    s.play(1, error("m1"), status="error", ename="ValueError", evalue="x")
    assert s.host.brief() == [
        "status busy a",
        "started a 1",
        "output a error",
        "status idle a",
        "queue a [c]",
        "done b cancelled",
        "done d cancelled",
        "done a error",
        "queue - [c]",
        "queue c []",
    ]
    assert s.kernel.executed == ["code a", "code c"]


@staged
async def test_reason_of_a_failure(s: Stage) -> None:
    await s.launch()
    s.execute("a", "b")
    s.play(1, error("m1"), status="error", ename="ValueError", evalue="x")
    cancelled, failed = s.host.take("execution_done")
    assert cancelled["reason"] == "cell a failed before it" and failed["reason"] == "ValueError: x"


@staged
async def test_run_all_cells(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.host.log.clear()
    s.ask("run_all_cells")
    assert s.host.responses()[0]["count"] == 5
    assert s.host.brief()[1:] == ["queue a [b c d e]"]


@staged
async def test_a_kernel_that_publishes_late_is_asked_before_the_end(s: Stage) -> None:
    await s.launch()
    s.kernel.publishes_late = True
    s.execute("a")
    s.execute("b")
    s.kernel.say(busy("m1"), started("m1", 1), reply("m1"), idle("m1"))
    assert s.kernel.fences == 1 and s.kernel.executed == ["code a"]
    s.kernel.say(busy("f1"), stream("m1", "late"), Message("shell", "kernel_info_reply", "f1", {}, {}, []))
    assert s.host.brief()[-1] == "output a stream"
    s.kernel.say(idle("f1"))
    assert s.host.brief() == ["done a ok", "queue - [b]", "queue b []"]
    assert s.kernel.fences == 1 and s.kernel.executed == ["code a", "code b"]


@staged
async def test_queue_cell_runs_given_code_for_any_id(s: Stage) -> None:
    await s.launch()
    s.ask("queue_cell", cell_id="zz", code="print(1)")
    assert s.kernel.executed == ["print(1)"]
    s.play(1, stream("m1", "1\n"))
    assert s.host.brief()[-3:] == ["status idle zz", "done zz ok", "queue - []"]


@staged
async def test_so_many_executions_wait_and_no_more(s: Stage) -> None:
    await s.launch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "QUEUE_LIMIT", 3)
        patch.setattr(execution, "QUEUE_CODE_LIMIT", 100)

        def queue(cell: str, characters: int = 10) -> str:
            token = s.ask("queue_cell", cell_id=cell, code="x" * characters)
            (answer,) = [answer for answer in s.host.responses() if answer["token"] == token]
            return str(answer.get("error", answer.get("execution_id")))

        queue("at the kernel", 1000)
        first = queue("one", 1000)  # One of any size.
        assert queue("two", 1) == "the queue is full: 1 executions wait"
        assert queue("one") == first, "it is there already"
        s.play(1)
        queue("two", 50)
        queue("three", 50)
        assert queue("four", 1) == "the queue is full: 2 executions wait"
        assert queue("four", 0) != "the queue is full: 2 executions wait"
        assert queue("five", 0) == "the queue is full: 3 executions wait"
        s.execute("a")
        assert s.host.responses()[-1]["error"] == "the queue is full: 3 executions wait"
        s.ask("run_all_cells")
        assert s.host.responses()[-1]["count"] == 5, "all cells of the document always fit"
        for number in range(2, 11):
            s.play(number)
        assert s.kernel.executed[1:] == ["x" * 1000, "x" * 50, "x" * 50, "", *(f"code {name}" for name in "abcde")]


@staged
async def test_of_deleted_cells_nothing_is_remembered_for_ever(s: Stage) -> None:
    await s.launch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "REMEMBERED_CELLS", 3)
        s.rooms.get("nb").queue._remembered = 3
        for number, cell in enumerate(["a", "gone", "b", "c", "a"], 1):
            s.ask("queue_cell", cell_id=cell, code="1")
            s.play(number, display(f"m{number}", cell, display_id=f"of {cell}"))
        s.host.log.clear()
        for message in ("m1", "m2", "m3", "m4", "m5"):
            s.kernel.say(busy(message))
        # The cell that is not in the document was forgotten when the fourth began; others keep their last run.
        assert s.host.brief() == [f"status busy {cell}" for cell in ("-", "-", "b", "c", "a")]
        s.kernel.say(stream("m3", "late"), stream("m2", "lost"))
        assert [output["text"] for output in s.host.outputs("nb", "b") if "text" in output] == ["late"]
        assert not s.rooms.get("nb").writer._displays.find("of gone")
        assert s.rooms.get("nb").writer._displays.find("of b")
        # It looks again when there are twice as many.
        for number, cell in enumerate(["d", "e", "md", "x", "y", "z"], 6):
            s.ask("queue_cell", cell_id=cell, code="1")
            s.play(number)
        s.host.log.clear()
        for number in range(9, 12):
            s.kernel.say(busy(f"m{number}"))
        assert s.host.brief() == ["status busy -", "status busy -", "status busy z"]


@staged
async def test_background_output_after_the_end_reaches_the_cell(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.play(1)
    s.execute("b")
    s.kernel.say(stream("m1", "thread"))
    assert [output["text"] for output in s.host.outputs("nb", "a")] == ["thread"]
    s.play(2)
    s.execute("a")
    s.kernel.say(stream("m1", "too late"))
    assert s.host.outputs("nb", "a") == []


@staged
async def test_display_updates_reach_every_match(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.play(1, display("m1", "0%", "d"), stream("m1", "x"), display("m1", "0%", "d"), display("m1", "other"))
    s.execute("b")
    s.kernel.say(display("m2", "0%", "d"), display("m2", "50%", "d", "update_display_data"))
    texts = [output.get("data", {}).get("text/plain") for output in s.host.outputs("nb", "a")]
    assert texts == ["50%", None, "50%", "other"]
    (updated,) = s.host.outputs("nb", "b")
    assert updated["data"] == {"text/plain": "50%"} and updated["transient"] == {"display_id": "d"}
    assert s.host.take("display_update") == [
        {"event": "display_update", "display_id": "d", "data": {"text/plain": "50%"}, "metadata": {}}
    ]


@staged
async def test_display_of_an_earlier_run_is_forgotten(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.play(1, display("m1", "0%", "d"))
    s.execute("a")
    s.play(2, stream("m2", "x"), display("m2", "50%", "d", "update_display_data"))
    assert [output["output_type"] for output in s.host.outputs("nb", "a")] == ["stream"]
    s.ask("clear_outputs", cell_id="a")
    assert s.host.outputs("nb", "a") == []
    s.kernel.say(display("m2", "1", "e"), display("m2", "2", "e", "update_display_data"))
    assert s.host.outputs("nb", "a")[0]["data"] == {"text/plain": "2"}


@staged
async def test_clear_output(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.kernel.say(busy("m1"), started("m1", 1), stream("m1", "one"), iopub("clear_output", "m1", wait=False))
    assert s.host.cell("nb", "a") == {**s.host.cell("nb", "a"), "outputs": [], "execution_count": 1}
    s.kernel.say(stream("m1", "two"), iopub("clear_output", "m1", wait=True))
    assert [output["text"] for output in s.host.outputs("nb", "a")] == ["two"]
    s.kernel.say(stream("m1", "three"), display("m1", "0", "d"))
    assert len(s.host.outputs("nb", "a")) == 2
    s.kernel.say(display("m1", "1", "d", "update_display_data"), idle("m1"), reply("m1"))
    assert s.host.outputs("nb", "a")[0]["text"] == "three"
    assert s.host.outputs("nb", "a")[1]["data"] == {"text/plain": "1"}
    assert s.host.cell("nb", "a")["execution_count"] == 1


@staged
async def test_a_request_to_clear_does_what_a_pending_clear_output_would(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.kernel.say(busy("m1"), started("m1", 1), stream("m1", "one"), iopub("clear_output", "m1", wait=True))
    s.host.log.clear()
    s.ask("clear_outputs", cell_id="a")
    s.kernel.say(stream("m1", "two"))
    assert s.host.brief() == ["-> outputs_cleared", "outputs_cleared a", "output a stream"]


@staged
async def test_clear_output_in_one_batch_with_outputs_around(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    steps: list[Message] = []
    for number in range(50):
        steps += [iopub("clear_output", "m1", wait=True), stream("m1", str(number))]
    s.play(1, *steps)
    assert [output["text"] for output in s.host.outputs("nb", "a")] == ["49"]


@staged
async def test_errors_are_outputs_of_nbformat_however_odd(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    odd = iopub("error", "m1", ename=None, evalue=5, traceback="no list")
    lines = iopub("error", "m1", ename="E", evalue="v", traceback=["one", 2])
    s.play(1, error("m1"), odd, lines)
    assert s.host.outputs("nb", "a") == [
        {"output_type": "error", "ename": "ValueError", "evalue": "x", "traceback": ["line"]},
        {"output_type": "error", "ename": "", "evalue": "5", "traceback": []},
        {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["one", "2"]},
    ]


@staged
async def test_page_output_comes_before_the_end(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.play(1, payload=[{"source": "page", "data": {"text/plain": ["he", "lp"]}, "start": 0}, {"source": "other"}, 7])
    assert s.host.outputs("nb", "a")[0]["data"] == {"text/plain": "help"}
    assert s.host.brief()[-3:] == ["output a display_data", "done a ok", "queue - []"]


@staged
async def test_comm_messages(s: Stage) -> None:
    await s.launch()
    s.kernel.say(iopub("comm_open", "x", [b"\x00\xff"], comm_id="c", target_name="t", data={}))
    (comm,) = s.host.take("comm")
    assert comm["buffers"] == [[0, 255]] and comm["msg_type"] == "comm_open" and comm["content"]["comm_id"] == "c"
    s.host.log.clear()
    s.ask("send_comm", message={"content": {}})
    s.ask("send_comm", message={"header": {}})
    header = {"msg_id": "1", "username": "u", "session": "s", "msg_type": "comm_msg"}
    s.ask("send_comm", message={"header": header, "content": {}})
    s.ask("send_comm", message={"header": dict(header, version="5.3"), "content": {}})
    assert s.host.brief() == [
        "-> error Failed to send comm message: Missing header in comm message",
        "-> error Failed to send comm message: Missing content in comm message",
        "-> error Failed to send comm message: missing field `version`",
        "-> ok",
    ]


@staged
async def test_one_malformed_message_costs_nothing_else(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.play(
        1,
        iopub("display_data", "m1", data=5, metadata="x", transient=[1]),
        iopub("stream", "m1", text={"no": "text"}),
        iopub("error", "m1", traceback=7),
        iopub("display_data", "m1", data={"text/html": 3, "application/json": [1]}),
        stream("m1", "fine"),
    )
    assert s.host.brief()[-2:] == ["done a ok", "queue - []"]
    outputs = s.host.outputs("nb", "a")
    assert outputs[-1]["text"] == "fine"
    assert outputs[-2]["data"] == {"text/html": "3", "application/json": [1]}


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
async def test_death_of_an_idle_kernel_is_no_error_of_anybody(s: Stage) -> None:
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
async def test_shutdown_while_launching_answers_the_launch(s: Stage) -> None:
    s.factory.gate.clear()
    s.ask(**LAUNCH)
    await turn()
    s.ask("shutdown_kernel")
    await turn()
    assert s.host.brief() == [
        "status starting -",
        "-> kernel_shutting_down",
        "-> error Failed to launch kernel: kernel was shut down",
        "status shutdown -",
    ]
    s.factory.gate.set()
    await s.launch()
    assert len(s.factory.kernels) == 1


@staged
async def test_interrupt(s: Stage) -> None:
    await s.launch()
    s.ask("interrupt_execution")
    assert s.kernel.interrupts == 1
    s.execute("a", "b")
    s.ask("interrupt_execution", 2)
    assert s.kernel.interrupts == 1, "too early: the kernel has not begun"
    s.kernel.say(busy("m1"), started("m1", 1))
    assert s.kernel.interrupts == 2
    s.kernel.say(error("m1", "KeyboardInterrupt"), reply("m1", "error", ename="KeyboardInterrupt"), idle("m1"))
    assert [done["status"] for done in s.host.take("execution_done")] == ["cancelled", "interrupted"]


@staged
async def test_interrupt_of_something_else_in_front_is_sent_at_once(s: Stage) -> None:
    await s.launch()
    s.kernel.say(busy("comm"))
    s.execute("a")
    s.ask("interrupt_execution")
    assert s.kernel.interrupts == 1


@staged
async def test_keyboard_interrupt_of_its_own_is_an_error(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.play(1, status="error", ename="KeyboardInterrupt", evalue="")
    assert s.host.take("execution_done")[0]["status"] == "error"


@staged
async def test_an_execution_that_cannot_be_sent_does_not_block_the_queue(s: Stage) -> None:
    await s.launch()
    s.kernel.fail_next = True
    s.execute("a")
    assert s.host.brief()[-2:] == ["done a error", "queue - []"]
    s.execute("b")
    assert s.kernel.executed == ["code b"]


def test_a_lost_reply_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "FENCE_DELAY", 0.01)

    async def body() -> None:
        s = Stage()
        await s.launch()
        s.execute("a")
        s.kernel.say(busy("m1"), started("m1", 1), idle("m1"))
        await until(lambda: s.kernel.fences == 1)
        s.host.log.clear()
        s.kernel.say(busy("f1"), Message("shell", "kernel_info_reply", "f1", {}, {}, []))
        assert s.host.brief() == []
        s.kernel.say(idle("f1"))
        assert s.host.brief() == ["queue a []", "done a error", "queue - []"]
        s.execute("a")
        s.kernel.say(busy("m2"), started("m2", 2), reply("m2"))
        await until(lambda: s.kernel.fences == 2)
        s.kernel.say(idle("m2"))
        assert s.host.brief()[-2:] == ["done a ok", "queue - []"]

    asyncio.run(body())


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


# -- rooms


class Evictions:
    """The timers of an hour that a loop is asked for: they expire when the test says so."""

    DELAY = 3600.0

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._set: list[tuple[asyncio.TimerHandle, Callable[[], None]]] = []
        real = loop.call_later

        def call_later(delay: float, callback: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
            timer = real(delay, callback, *args)
            if delay == self.DELAY:
                self._set.append((timer, lambda: callback(*args)))
            return timer

        loop.call_later = call_later  # type: ignore[method-assign,assignment]

    def expire(self) -> int:
        """Let an hour go by; how many timers that were."""
        due = [(timer, call) for timer, call in self._set if not timer.cancelled()]
        self._set.clear()
        for timer, call in due:
            timer.cancel()
            call()
        return len(due)


def test_an_empty_room_is_evicted_with_its_kernel_but_not_while_it_works() -> None:
    async def body() -> None:
        evictions = Evictions()
        s = Stage(eviction_delay=Evictions.DELAY)
        await s.launch()
        s.execute("a")
        s.rooms.left("nb", 1)
        assert evictions.expire() == 0
        s.rooms.left("nb", 2)
        assert not s.rooms.get("nb").peers
        assert evictions.expire() == 1
        assert s.rooms.get("nb") is not None and s.rooms.active
        s.play(1)
        await turn()
        assert s.rooms.get("nb") is not None
        assert evictions.expire() == 1
        await until(lambda: s.rooms.get("nb") is None and s.kernel.stopped)
        assert s.host.closed == ["nb"]
        assert evictions.expire() == 0

    asyncio.run(body())


def test_a_room_that_nobody_entered_is_evicted() -> None:
    async def body() -> None:
        evictions = Evictions()
        host = FakeHost()
        rooms = Rooms(host, FakeBlobs(), KernelFactory(), None, Evictions.DELAY)
        rooms.wanted("nb")
        rooms.wanted("/nowhere/slow.ipynb")
        await settled()
        assert len(host.opened) == 2
        rooms.wanted("entered")
        rooms.joined("entered", 1, 1)
        assert not rooms.active or rooms.get("entered").peers == {1}
        assert evictions.expire() == 2
        assert sorted(host.closed) == ["/nowhere/slow.ipynb", "nb"]
        assert rooms.get("nb") is None and rooms.get("entered") is not None

    asyncio.run(body())


def test_who_enters_while_a_room_is_evicted_is_not_turned_away() -> None:
    async def body() -> None:
        evictions = Evictions()
        s = Stage(eviction_delay=Evictions.DELAY)
        await s.launch()
        s.rooms.left("nb", 1)
        s.rooms.left("nb", 2)
        s.host.entered.append("nb")
        assert evictions.expire() == 1
        await until(lambda: s.kernel.stopped)
        assert s.rooms.get("nb") is not None and not s.host.closed
        s.rooms.joined("nb", 3, 1)
        assert evictions.expire() == 0
        s.host.entered.clear()
        s.rooms.left("nb", 3)
        assert evictions.expire() == 1
        assert s.rooms.get("nb") is None and s.host.closed == ["nb"]

    asyncio.run(body())


def test_so_many_empty_rooms_are_kept_and_those_with_kernels(tmp_path: Path) -> None:
    async def body() -> None:
        Evictions()
        host, factory = FakeHost(), KernelFactory()
        rooms = Rooms(host, FakeBlobs(), factory, str(tmp_path), Evictions.DELAY, by_default)
        calls = NotebookRequests(host, rooms)
        for number in range(6):
            rooms.wanted(f"nb{number}")
            rooms.joined(f"nb{number}", number, 1)
        calls.handle("nb1", 1, 1, json.dumps(LAUNCH).encode())
        await until(lambda: bool(factory.kernels))
        await settled()
        for number in (2, 1, 0, 3):
            rooms.left(f"nb{number}", number)
        assert host.closed == ["nb2"]
        # Who comes and goes again has been empty for the shortest time.
        rooms.joined("nb0", 0, 1)
        rooms.left("nb0", 0)
        rooms.left("nb4", 4)
        assert host.closed == ["nb2", "nb3"]
        assert [name for name in map("nb{}".format, range(6)) if rooms.get(name)] == ["nb0", "nb1", "nb4", "nb5"]
        await rooms.close("end", 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rooms_module, "EMPTY_LIMIT", 2)
        asyncio.run(body())


def test_who_returns_in_time_finds_the_room() -> None:
    async def body() -> None:
        evictions = Evictions()
        s = Stage(eviction_delay=Evictions.DELAY)
        s.rooms.left("nb", 1)
        s.rooms.left("nb", 2)
        s.rooms.joined("nb", 3, 1)
        assert evictions.expire() == 0
        assert s.rooms.get("nb") is not None and not s.host.closed

    asyncio.run(body())


@pytest.mark.parametrize(
    "notebook_id, launches",
    [
        ("3f2b8c1e-5a4d-4c6f-9b7a-0d1e2f3a4b5c", True),
        ("URN:UUID:3F2B8C1E-5A4D-4C6F-9B7A-0D1E2F3A4B5C", True),
        ("{3f2b8c1e-5a4d-4c6f-9b7a-0d1e2f3a4b5c}", True),
        ("3f2b8c1e5a4d4c6f9b7a0d1e2f3a4b5c", True),
        ("test-3f2b8c1e-5a4d-4c6f-9b7a-0d1e2f3a4b5c", False),
        ("nb1", False),
        ("", False),
    ],
)
def test_automatic_launch(notebook_id: str, launches: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        host, factory = FakeHost(), KernelFactory()
        rooms = Rooms(host, FakeBlobs(), factory, automatic=by_default)
        rooms.wanted(notebook_id)
        rooms.joined(notebook_id, 1, 1)
        if launches:
            await until(lambda: bool(factory.kernels))
            assert host.brief() == ["status starting -", "status idle -"]
        else:
            await settled()
            assert not factory.kernels
        await rooms.close("end", 1)
        assert not caplog.records

    asyncio.run(body())


@pytest.mark.parametrize("meanwhile", ["left", "launched", "closed"])
def test_what_happened_while_an_automatic_launch_was_planned_counts(meanwhile: str) -> None:
    async def body() -> None:
        host, factory = FakeHost(), KernelFactory()
        asked, go_on = threading.Event(), threading.Event()

        def slowly(notebook_id: str) -> LaunchRequest | None:
            asked.set()
            assert go_on.wait(60.0)
            return LaunchRequest("python", "uv:prewarmed", None)

        rooms = Rooms(host, FakeBlobs(), factory, automatic=slowly)
        ask = NotebookRequests(host, rooms)
        rooms.wanted("nb")
        rooms.joined("nb", 1, 1)
        assert await asyncio.get_running_loop().run_in_executor(None, asked.wait, 60.0)
        if meanwhile == "left":
            rooms.left("nb", 1)
        elif meanwhile == "closed":
            rooms.failed("nb", 1, "broken")
        else:
            ask.handle("nb", 1, 1, json.dumps(LAUNCH).encode())
            await until(lambda: bool(factory.kernels))
            await turn()
        go_on.set()
        await settled()
        assert len(factory.kernels) == (meanwhile == "launched")
        await rooms.close("end", 1)

    asyncio.run(body())


def test_journals_and_corrupt_files(tmp_path: Any) -> None:
    async def body() -> None:
        host = FakeHost()
        rooms = Rooms(host, FakeBlobs(), KernelFactory(), str(tmp_path))
        journal = rooms.journal("nb")
        assert journal is not None and journal.endswith(".automerge") and len(journal.split("/")[-1]) == 74
        with open(journal, "wb") as file:
            file.write(b"garbage")
        host.corrupt = [journal]
        rooms.wanted("nb")
        assert host.opened == [("nb", journal)]
        assert (tmp_path / (journal.split("/")[-1] + ".corrupt")).read_bytes() == b"garbage"
        with open(journal, "wb") as file:
            file.write(b"again")
        assert set_aside(journal).endswith(".corrupt.2")
        large = rooms.journal("large")
        with open(large, "wb") as file:
            file.truncate(2 << 20)
        rooms.wanted("large")
        await until(lambda: ("large", large) in host.opened)

    asyncio.run(body())


def test_a_failed_room_takes_only_its_kernel_with_it() -> None:
    async def body() -> None:
        s = Stage()
        await s.launch()
        s.rooms.failed("nb", -8, "No space left on device")
        assert s.rooms.get("nb") is not None, "a full disk does not end the room"
        s.rooms.failed("nb", -13, "panic")
        await turn()
        assert s.kernel.stopped and s.rooms.get("nb") is None

    asyncio.run(body())


def test_close_stops_all_kernels() -> None:
    async def body() -> None:
        s = Stage()
        await s.launch()
        s.execute("a")
        s.host.log.clear()
        await s.rooms.close("the daemon was stopped", 1)
        assert s.kernel.stopped
        assert s.host.brief() == ["status shutdown -", "done a cancelled", "queue - []"]

    asyncio.run(body())
