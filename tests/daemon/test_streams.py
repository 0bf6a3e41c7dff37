"""Stream text in pieces: merged as nbformat has it, once it has ended, at a cost linear in what was printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.fakes import FakeBlobs, FakeHost, busy, display, idle, iopub, reply, started, stream
from daemon.stage import Stage, staged
from runtimed_ffi.daemon.ports import Message
from runtimed_ffi.daemon.rooms import streams
from runtimed_ffi.daemon.rooms.outputs import Publication
from runtimed_ffi.daemon.rooms.writer import OutputTarget, OutputWriter

Json = dict[str, Any]


def texts(outputs: Sequence[Json]) -> list[Any]:
    return [output.get("text") or output.get("data", {}).get("text/plain") for output in outputs]


def merged(outputs: Sequence[Json]) -> list[Json]:
    """As nbformat has them: neighbouring stream outputs of one name are one."""
    result: list[Json] = []
    for output in outputs:
        last = result[-1] if result else {}
        if output["output_type"] == "stream" and last.get("name") == output["name"]:
            result[-1] = {**last, "text": last["text"] + output["text"]}
        else:
            result.append(output)
    return result


@staged
async def test_pieces_are_appended_and_one_output_at_the_end(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.kernel.say(busy("m1"), started("m1", 1))
    for number in range(10):
        s.kernel.say(stream("m1", f"{number}\n"))
        assert "".join(texts(s.host.outputs("nb", "a"))) == "".join(f"{n}\n" for n in range(number + 1))
    assert len(s.host.outputs("nb", "a")) > 1
    s.kernel.say(idle("m1"), reply("m1"))
    assert texts(s.host.outputs("nb", "a")) == ["0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"]
    broadcast = [json.loads(item["output_json"])["text"] for item in s.host.take("output")]
    assert broadcast == [f"{number}\n" for number in range(10)], "broadcasts stay one per piece"


@staged
async def test_another_output_ends_a_run(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.kernel.say(busy("m1"), started("m1", 1))
    for message in (
        *[stream("m1", text) for text in "ab"],
        *[stream("m1", text, "stderr") for text in "cde"],
        display("m1", "0%", "d"),
        *[stream("m1", text) for text in "fg"],
    ):
        s.kernel.say(message)
        outputs = s.host.outputs("nb", "a")
        whole = merged(outputs)
        assert outputs[: len(whole) - 1] == whole[:-1], "only the last run is in pieces"
    # The display stands where it is found, although what is before it was once more than one output.
    s.kernel.say(display("m1", "50%", "d", "update_display_data"), idle("m1"), reply("m1"))
    assert texts(s.host.outputs("nb", "a")) == ["ab", "cde", "50%", "fg"]


@staged
async def test_text_of_threads_is_appended_to_the_text_of_the_run(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.play(1, stream("m1", "main "))
    s.execute("b")
    for text in ("t1 ", "t2 ", "t3 ", "t4 "):
        s.kernel.say(stream("m1", text))
        assert texts(merged(s.host.outputs("nb", "a"))) == ["".join(texts(s.host.outputs("nb", "a")))]
    s.kernel.say(stream("m1", "e", "stderr"))
    assert texts(s.host.outputs("nb", "a")) == ["main t1 t2 t3 t4 ", "e"]
    s.kernel.say(stream("m1", "f", "stderr"), stream("m2", "other"))
    s.kernel.die()
    assert texts(s.host.outputs("nb", "a")) == ["main t1 t2 t3 t4 ", "ef"], "a kernel that ends sends no more"


@staged
async def test_after_a_clear_a_new_output_begins(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.kernel.say(busy("m1"), started("m1", 1), stream("m1", "one"))
    s.kernel.say(stream("m1", "two"), iopub("clear_output", "m1", wait=True))
    assert "".join(texts(s.host.outputs("nb", "a"))) == "onetwo"
    s.kernel.say(stream("m1", "3"))
    s.kernel.say(stream("m1", "4"))
    s.ask("clear_outputs", cell_id="a")
    s.kernel.say(stream("m1", "5"))
    s.kernel.say(stream("m1", "6"), idle("m1"), reply("m1"))
    assert texts(s.host.outputs("nb", "a")) == ["56"]


@staged
async def test_a_peer_that_changes_outputs_meanwhile_loses_nothing_else(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.kernel.say(busy("m1"), started("m1", 1), display("m1", "0%", "d"), stream("m1", "long text"))
    s.kernel.say(stream("m1", "1"))
    foreign = json.dumps({"output_type": "stream", "name": "stderr", "text": "mine"})
    # A peer inserts an output in front: display and stream are one further on now.
    s.host.documents["nb"][0]["outputs"].insert(0, foreign)
    s.kernel.say(stream("m1", "2"), display("m1", "50%", "d", "update_display_data"), stream("m1", "3"))
    s.kernel.say(display("m1", "end"))
    assert texts(s.host.outputs("nb", "a")) == ["mine", "50%", "long text123", "end"]
    # A peer removes all outputs; later ones are merged among themselves.
    s.kernel.say(stream("m1", "gone"))
    s.host.documents["nb"][0]["outputs"].clear()
    for text in ("x", "y", "z"):
        s.kernel.say(stream("m1", text))
    s.kernel.say(display("m1", "75%", "d", "update_display_data"), idle("m1"), reply("m1"))
    assert texts(s.host.outputs("nb", "a")) == ["xyz"]


FOREIGN = json.dumps({"output_type": "stream", "name": "stderr", "text": "mine"})


@staged
async def test_a_run_that_is_no_longer_at_the_end_is_merged_where_it_is(s: Stage) -> None:
    await s.launch()
    for behind in (1, 2, 3):
        s.execute("a")
        m = f"m{behind}"
        s.kernel.say(busy(m), started(m, behind), stream(m, "long text"))
        s.kernel.say(stream(m, "1"))
        outputs = s.host.documents["nb"][0]["outputs"]
        outputs[:] = [FOREIGN, *outputs, *[FOREIGN] * behind]
        s.kernel.say(idle(m), reply(m))
        assert texts(s.host.outputs("nb", "a")) == ["mine", "long text1"] + ["mine"] * behind


@staged
async def test_the_last_merge_is_rebased_when_the_kernel_has_ended(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.kernel.say(busy("m1"), started("m1", 1), stream("m1", "long text"))
    s.kernel.say(stream("m1", "1"))
    s.host.documents["nb"][0]["outputs"].insert(0, FOREIGN)
    s.kernel.die()
    assert texts(s.host.outputs("nb", "a"))[:2] == ["mine", "long text1"]


@staged
async def test_positions_are_found_again_after_a_change_of_a_peer(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.kernel.say(busy("m1"), started("m1", 1), display("m1", "0%", "d"))
    s.host.documents["nb"][0]["outputs"].insert(0, FOREIGN)
    s.kernel.say(display("m1", "1%", "d", "update_display_data"))
    before = s.host.publications
    s.kernel.say(stream("m1", "x"))
    s.kernel.say(stream("m1", "y"))
    assert s.host.publications == before + 2, "no change was refused and rebased"
    assert texts(s.host.outputs("nb", "a")) == ["mine", "1%", "xy"]


@staged
async def test_a_piece_that_cannot_be_stored_or_merged_stays(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    s.kernel.say(busy("m1"), started("m1", 1), stream("m1", "a"))
    s.blobs.full = True
    s.kernel.say(stream("m1", "b"))
    s.kernel.say(stream("m1", "c"), display("m1", "d"), display("m1", "x" * (1 << 21)))
    s.kernel.say(idle("m1"), reply("m1"))
    outputs = texts(s.host.outputs("nb", "a"))
    assert outputs[:4] == ["a", "b", "c", "d"] and "could not be kept" in outputs[4]
    assert s.host.brief()[-2:] == ["done a ok", "queue - []"]


def test_outputs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "OUTPUT_LIMIT", 100)
    host, writer = FakeHost(), OutputWriter(FakeBlobs(), list)
    host.add_cell("nb", "a", "")
    target, publication = OutputTarget("a", "x"), Publication()
    writer.begin(target, publication)
    text = "".join(map(str, range(200)))
    for start in range(0, 300, 30):
        writer.stream(target, "stdout", text[start : start + 30], publication)
        writer.flush(publication)
    writer.stream(target, "stdout", text[300:], publication)
    writer.finish(target, publication)
    host.publish("nb", publication.ops)
    outputs = texts(host.outputs("nb", "a"))
    assert "".join(outputs) == text and max(map(len, outputs)) <= 100 and len(outputs) <= 7


def test_the_cost_is_linear() -> None:
    """Characters written into the document for a text that comes in small pieces."""
    written = {}
    for pieces in (1000, 4000):
        writer, target, publication = OutputWriter(FakeBlobs(), list), OutputTarget("a", "x"), Publication()
        writer.begin(target, publication)
        for _ in range(pieces):
            writer.stream(target, "stdout", "0123456789" * 5, publication)
            writer.flush(publication)
        writer.finish(target, publication)
        outputs = [element for op in publication.ops for element in op.get("outputs", ())]
        written[pieces] = sum(len(json.loads(element)["text"]) for element in outputs) / (50 * pieces)
    assert all(factor <= 4 for factor in written.values()), written


STEP = st.one_of(
    st.tuples(st.sampled_from(["stdout", "stdout", "stderr"]), st.text("ab\n🐍", max_size=4)),
    st.tuples(st.sampled_from(["display", "update"]), st.sampled_from(["d", "e"])),
    st.tuples(st.just("clear"), st.booleans()),
    st.tuples(st.just("batch"), st.none()),
)


def messages(steps: Sequence[Any]) -> list[list[Message]]:
    """The batches of an execution ``m1``."""
    batches: list[list[Message]] = [[busy("m1"), started("m1", 1)]]
    for number, (kind, value) in enumerate(steps):
        if kind == "batch":
            batches.append([])
        elif kind == "clear":
            batches[-1].append(iopub("clear_output", "m1", wait=value))
        elif kind == "display":
            batches[-1].append(display("m1", str(number), value))
        elif kind == "update":
            batches[-1].append(display("m1", str(number), value, "update_display_data"))
        else:
            batches[-1].append(stream("m1", value, kind))
    return [*batches, [idle("m1"), reply("m1")]]


class Model:
    """A front end's reading of the messages: nbformat outputs in a plain list."""

    def __init__(self) -> None:
        self.outputs: list[Json] = []
        self.clear_pending = False

    def take(self, message: Message) -> None:
        content = message.content
        if message.msg_type == "clear_output":
            self.clear_pending = content["wait"]
            if not content["wait"]:
                self.outputs.clear()
        elif message.msg_type == "update_display_data":
            for output in self.outputs:
                if output.get("transient") == content["transient"]:
                    output["data"] = content["data"]
        elif message.msg_type in ("stream", "display_data") and content.get("text") != "":
            if self.clear_pending:
                self.outputs.clear()
                self.clear_pending = False
            output = {"output_type": message.msg_type, **content}
            if message.msg_type == "stream":
                output = {"output_type": "stream", "name": content["name"], "text": content["text"]}
            self.outputs.append(output)
            self.outputs = merged(self.outputs)


@settings(deadline=None)
@given(st.lists(STEP, max_size=40))
def test_the_document_is_what_a_plain_model_has(steps: list[Any]) -> None:
    async def body(s: Stage) -> None:
        await s.launch()
        s.execute("a")
        model = Model()
        for batch in messages(steps):
            s.kernel.say(*batch)
            for message in batch:
                model.take(message)
            outputs = s.host.outputs("nb", "a")
            assert merged(outputs) == model.outputs
        assert s.host.outputs("nb", "a") == model.outputs

    staged(body)()


def test_an_output_is_filled_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "OUTPUT_LIMIT", 10)
    run = streams.StreamRun("a", "stdout", 0)
    run.add("1234", "x", FakeBlobs(), Publication())  # type: ignore[arg-type]
    assert run.takes("stdout", "567890") and not run.takes("stdout", "5678901")
    assert not run.takes("stderr", "5")
    assert [len(part) for part in streams.portions("x" * 25)] == [10, 10, 5]
