"""Stream text that comes in pieces and is merged: what callbacks, iteration, results and subscribers see of it."""

from __future__ import annotations

import json

import pytest
from fakes import FakeNative

import runtimed_ffi
from runtimed_ffi import Output
from runtimed_ffi._binding.events import Event, EventKind, OutputChange


def text(value, name="stdout"):
    return Output("stream", name=name, text=value)


def shown(value):
    return Output("display_data", data={"text/plain": value})


def nbformat(output):
    if output.output_type == "stream":
        return {"output_type": "stream", "name": output.name, "text": output.text}
    return {"output_type": "display_data", "data": output.data, "metadata": {}}


def event(index, output, change=OutputChange.APPENDED, token=0, cell_id="a"):
    payload = json.dumps(nbformat(output)).encode()
    return Event(EventKind.OUTPUT, code=change, token=token, id=cell_id, number=index, payload=payload)


JOINED = OutputChange.JOINED
PIECES = [
    (0, text("a")),
    (1, text("b")),
    (0, text(""), JOINED),
    (1, text("c")),
    (0, text("d"), JOINED),
    (1, shown("x")),
    (2, text("e", "stderr")),
    (1, shown("y"), OutputChange.REPLACED),
    (3, text("f", "stderr")),
    (2, text("", "stderr"), JOINED),
]


@pytest.fixture(params=[True, False], ids=["ours", "reference"])
def ready(monkeypatch, request):
    """A session on a stand-in, with our daemon and with one that is not ours."""

    class Native(FakeNative):
        def info(self):
            return {**super().info(), "stream_pieces": request.param}

    made = []
    monkeypatch.setattr(
        "runtimed_ffi._client.connection.NativeSession", lambda *a, **n: made.append(Native(*a, **n)) or made[-1]
    )
    session = runtimed_ffi.Session("room", socket_path="nowhere", autostart=False)
    session.start_kernel()
    session.fake = made[-1]
    session.ours = request.param
    yield session
    session.disconnect()


def play(session, *steps):
    """An execution of these events."""

    def execute(token, cell_id):
        session.fake.push(
            *(event(*step[:2], *step[2:], token=token, cell_id=cell_id) for step in steps),
            Event(EventKind.DONE, token=token, id=cell_id, number=1),
        )

    session.fake.on_execute = execute


def test_each_piece_arrives_once_and_the_result_is_merged(ready):
    play(ready, *PIECES)
    seen = []
    execution = ready.submit_cell(ready.create_cell(), on_output=seen.append)
    pieces = [
        text("a"),
        text("b"),
        text("c"),
        text("d"),
        shown("x"),
        text("e", "stderr"),
        shown("y"),
        text("f", "stderr"),
    ]
    assert list(execution) == pieces == seen
    assert execution.result().outputs == [text("abcd"), shown("y"), text("ef", "stderr")] == execution.outputs
    assert (execution.result().stdout, execution.result().stderr) == ("abcd", "ef")


def test_pieces_show_while_the_cell_prints(ready):
    cell = ready.create_cell()
    play(ready, (0, text("a")), (1, text("b")), (0, text("c"), JOINED))
    execution = ready.submit_cell(cell)
    stages = []
    for _ in execution:
        stages.append(execution.outputs)
    assert stages == [[text("a")], [text("a"), text("b")], [text("abc")]]


def test_a_fragment_of_the_reference_stays_an_output(ready):
    play(ready, (0, text("a")), (1, text("b")), (2, shown("x")))
    assert ready.execute_cell(ready.create_cell()).outputs == [text("a"), text("b"), shown("x")]


def test_subscribers_get_the_position_a_piece_will_have(ready):
    got = []
    ready.on_output(got.append)
    ready.fake.push(*(event(*step) for step in PIECES))
    ready.interrupt()
    if not ready.ours:
        # It merges nothing; the positions are those of its document.
        assert [(e.index, e.continued) for e in got[:2]] == [(0, False), (1, False)]
        return
    assert [(e.index, e.output, e.continued, e.replaced) for e in got] == [
        (0, text("a"), False, False),
        (0, text("b"), True, False),
        (0, text("c"), True, False),
        (0, text("d"), True, False),
        (1, shown("x"), False, False),
        (2, text("e", "stderr"), False, False),
        (1, shown("y"), False, True),
        (2, text("f", "stderr"), True, False),
    ]


def test_a_run_begins_anew_after_a_clear_and_in_another_cell(ready):
    got = []
    ready.on_output(got.append)
    steps = [event(0, text("a")), event(1, text("b")), Event(EventKind.CLEARED, id="a"), event(0, text("c"))]
    ready.fake.push(*steps, event(0, text("d"), cell_id="b"), event(1, text("e", "stderr"), cell_id="b"))
    ready.interrupt()
    assert [e.index for e in got] == [0, 0 if ready.ours else 1, 0, 0, 1]


def test_dropped_events_cost_no_text_and_bring_none_twice(ready):
    cell = ready.create_cell()
    whole = [text("abcdef"), shown("x"), text("g")]
    ready.fake.document[cell]["outputs"] = [json.dumps(nbformat(output)) for output in whole]

    def execute(token, cell_id):
        ready.fake.push(
            event(0, text("ab"), token=token),
            event(1, text("c"), token=token),
            Event(EventKind.RESYNC),
            Event(EventKind.DONE, token=token, id=cell_id, number=1),
        )

    ready.fake.on_execute = execute
    seen = []
    assert ready.execute_cell(cell, on_output=seen.append).outputs == whole
    assert seen == [text("ab"), text("c"), text("def"), shown("x"), text("g")]
