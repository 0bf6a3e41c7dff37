"""The outputs of cells, put together from events: positions of stream pieces, and what was dropped in between."""

from __future__ import annotations

from runtimed_ffi._binding.events import OutputChange
from runtimed_ffi._client.output_list import OutputList, StreamPositions
from runtimed_ffi.output import Output


def stream(text, name="stdout"):
    return Output("stream", name=name, text=text)


def test_every_piece_of_a_stream_has_the_position_of_the_first():
    positions = StreamPositions()
    pieces = [(index, stream(str(index))) for index in range(2, 6)]
    placed = [positions.place("c", OutputChange.APPENDED, index, piece) for index, piece in pieces]
    assert placed == [(2, False), (2, True), (2, True), (2, True)]
    assert positions.place("c", OutputChange.APPENDED, 6, stream("e", "stderr")) == (6, False)
    assert positions.place("c", OutputChange.APPENDED, 7, stream("x")) == (7, False), "another stream came in between"
    assert positions.place("d", OutputChange.APPENDED, 8, stream("x")) == (8, False), "another cell"


def test_catching_up_begins_where_the_events_began():
    outputs = OutputList()
    outputs.apply(OutputChange.APPENDED, 2, stream("c"))
    document = [stream("a"), Output("display_data", data={}), stream("cd"), stream("e", "stderr")]
    assert [output.text for output in outputs.catch_up(document)] == ["d", "e"]
    assert [output.text for output in outputs.current()] == ["cd", "e"]
    assert list(outputs.catch_up(document)) == [], "the second time it changes nothing"
