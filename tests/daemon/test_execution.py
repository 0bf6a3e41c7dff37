"""The queue of a room and the end of executions, against a recording host and a scripted kernel."""

from __future__ import annotations

import asyncio

import pytest

from daemon.fakes import (
    busy,
    display,
    error,
    idle,
    iopub,
    reply,
    started,
    stream,
)
from daemon.stage import Stage, staged, until
from runtimed_ffi.daemon.ports import Message
from runtimed_ffi.daemon.rooms import execution


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
async def test_a_repeated_start_is_broadcast_once(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.kernel.say(busy("m1"), started("m1", 1), started("m1", 1))
    s.kernel.say(started("m1", 2), reply("m1"), idle("m1"))
    assert [item["execution_count"] for item in s.host.take("execution_started")] == [1]
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
async def test_the_queue_is_bounded(s: Stage) -> None:
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
        assert queue("one") == first, "it is queued already"
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
async def test_runs_of_deleted_cells_are_forgotten(s: Stage) -> None:
    await s.launch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "REMEMBERED_CELLS", 3)
        s.rooms.get("nb").queue._remembered = 3
        writer, searches = s.rooms.get("nb").writer, []
        search = writer.forget_deleted
        patch.setattr(writer, "forget_deleted", lambda cells: searches.append(len(cells)) or search(cells))
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
        # The next search comes when there are twice as many.
        for number, cell in enumerate(["d", "e", "md", "x", "y", "z"], 6):
            s.ask("queue_cell", cell_id=cell, code="1")
            s.play(number)
        s.host.log.clear()
        for number in range(9, 12):
            s.kernel.say(busy(f"m{number}"))
        assert s.host.brief() == ["status busy -", "status busy -", "status busy z"]
        assert searches == [3, 4, 8], "and not at every start in between"


@staged
async def test_a_malformed_message_affects_no_other(s: Stage) -> None:
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


def test_every_lost_half_of_an_end_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "FENCE_DELAY", 0.01)

    async def body() -> None:
        s = Stage()
        await s.launch()
        for number in range(1, 4):
            s.execute("a")
            half = idle(f"m{number}") if number % 2 else reply(f"m{number}")
            s.kernel.say(busy(f"m{number}"), started(f"m{number}", number), half)
            await until(lambda number=number: s.kernel.fences == number)
            fence = f"f{number}"
            s.kernel.say(busy(fence), Message("shell", "kernel_info_reply", fence, {}, {}, []), idle(fence))
        assert [done["status"] for done in s.host.take("execution_done")] == ["error", "ok", "error"]

    asyncio.run(body())
