"""Outputs with display ids: every one of them is updated, also those a room had before it was opened."""

from __future__ import annotations

import json
from typing import Any

from daemon.fakes import FakeBlobs, FakeHost, busy, display, idle, iopub, reply, started
from daemon.stage import Stage, staged
from runtimed_ffi.daemon.rooms.outputs import Publication
from runtimed_ffi.daemon.rooms.writer import OutputTarget, OutputWriter


class Manifests(FakeBlobs):
    """A store in which large outputs lie outside the document."""

    def __init__(self) -> None:
        self.blobs: dict[str, Any] = {}

    def get(self, name: str) -> bytes:
        return json.dumps(self.blobs[name]).encode()

    def store_output(self, output: Any) -> str:
        if len(str(output)) < 1000:
            return super().store_output(output)
        name = f"{len(self.blobs):064x}"
        transient = {"transient": output["transient"]} if "transient" in output else {}
        self.blobs[name] = {
            "output_type": output["output_type"],
            "data": {"image/png": {"blob": "f" * 64}},
            **transient,
        }
        return name


def shown(text: str, display_id: str | None = None) -> dict[str, Any]:
    output: dict[str, Any] = {"output_type": "display_data", "data": {"text/plain": text}, "metadata": {}}
    return output if display_id is None else {**output, "transient": {"display_id": display_id}}


def test_a_reopened_room_knows_its_displays() -> None:
    host, blobs = FakeHost(), Manifests()
    for cell_id in "ab":
        host.add_cell("nb", cell_id, "")
    large = shown("x" * 1000, "d")
    elements = [blobs.store_output(output) for output in (shown("0%", "d"), shown("1", "e"), large, shown("2"))]
    host.documents["nb"][0]["outputs"] = ["not json", *elements, "f" * 64]
    writer, publication = OutputWriter(blobs, lambda: host.cells("nb")), Publication()
    target = OutputTarget("b", "x")
    writer.begin(target, publication)
    writer.output(target, shown("new", "f"), publication, "f")
    writer.update_display("d", {"text/plain": "50%"}, {}, publication)
    writer.update_display("d", {"text/plain": "99%"}, {"k": 1}, publication)
    writer.update_display("f", {"text/plain": "newer"}, {}, publication)
    host.publish("nb", publication.ops)
    outputs = host.documents["nb"][0]["outputs"]
    expected = {**shown("99%", "d"), "metadata": {"k": 1}}
    assert [json.loads(outputs[place]) for place in (1, 3)] == [expected] * 2
    assert json.loads(outputs[2]) == shown("1", "e") and outputs[0] == "not json"
    assert host.outputs("nb", "b") == [shown("newer", "f")]


def test_outputs_that_a_run_replaces_are_not_found_again() -> None:
    host, blobs = FakeHost(), Manifests()
    host.add_cell("nb", "a", "")
    host.documents["nb"][0]["outputs"] = [blobs.store_output(shown("old", "d"))]
    writer, publication = OutputWriter(blobs, lambda: host.cells("nb")), Publication()
    writer.begin(OutputTarget("a", "x"), publication)
    # The document still has the outputs that the pending clear will remove; nothing may be written to them.
    writer.update_display("d", {"text/plain": "new"}, {}, publication)
    assert [op["op"] for op in publication.ops] == ["clear_outputs"]


@staged
async def test_a_value_with_a_display_id_is_updated_too(s: Stage) -> None:
    await s.launch()
    s.execute("a")
    result = iopub(
        "execute_result", "m1", data={"text/plain": "1"}, execution_count=1, transient={"display_id": "d"}, metadata={}
    )
    s.kernel.say(busy("m1"), started("m1", 1), result)
    s.kernel.say(display("m1", "2", "d", "update_display_data"), idle("m1"), reply("m1"))
    (output,) = s.host.outputs("nb", "a")
    assert output["data"] == {"text/plain": "2"} and output["execution_count"] == 1
    assert output["output_type"] == "execute_result" and "transient" not in output


@staged
async def test_the_document_is_searched_for_displays_once(s: Stage) -> None:
    await s.launch()
    reads: list[str] = []
    cells = s.host.cells
    s.host.cells = lambda notebook_id: reads.append(notebook_id) or cells(notebook_id)  # type: ignore[method-assign]
    for number in range(3):
        s.kernel.say(iopub("update_display_data", "m0", data={}, metadata={}, transient={"display_id": str(number)}))
    assert reads == ["nb"]
