"""Outputs of executions in the document and as broadcasts."""

from __future__ import annotations

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
from daemon.stage import Stage, staged
from runtimed_ffi.daemon.ports import Message


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
