"""Events of merged stream text at sessions: each piece once, and in the end what the document has.

A real host and real sessions over a socket, without a kernel: the writer gets what a kernel would print.
"""

from __future__ import annotations

import itertools
import os
import select
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtimed_ffi import Output, Session
from runtimed_ffi._binding.events import Event, EventKind, OutputChange
from runtimed_ffi._binding.native_session import NativeSession
from runtimed_ffi._client.output_list import OutputList, StreamPositions
from runtimed_ffi.blobs import Blobs
from runtimed_ffi.daemon.rooms.outputs import Publication
from runtimed_ffi.daemon.rooms.writer import OutputTarget, OutputWriter
from runtimed_ffi.host import Host

SECONDS = 20


class Scene:
    """A room with one cell, whose output a test writes."""

    numbers = itertools.count()

    def __init__(self, host: Host, blobs: Blobs) -> None:
        self.host = host
        self.blobs = blobs
        self.room = f"room-{next(self.numbers)}"
        host.open_room(self.room)
        cell = {"op": "insert_cell", "cell_id": "a", "cell_type": "code", "source": ""}
        host.publish(self.room, [cell])
        self.writer = OutputWriter(blobs, lambda: host.cells(self.room))
        self.target = OutputTarget("a", "x")
        self.publication = Publication()
        self.writer.begin(self.target, self.publication)
        self.publish()

    def publish(self) -> None:
        """What has been written since becomes one change."""
        self.host.publish(self.room, self.publication.ops, self.publication.broadcasts)
        self.publication = Publication()

    def print(self, text: str, name: str = "stdout") -> None:
        """A piece of its own."""
        self.writer.stream(self.target, name, text, self.publication)
        self.writer.flush(self.publication)

    def display(self, text: str, display_id: str | None = None) -> None:
        output = {"output_type": "display_data", "data": {"text/plain": text}, "metadata": {}}
        if display_id is not None:
            output["transient"] = {"display_id": display_id}
        self.writer.output(self.target, output, self.publication, display_id)

    def finish(self) -> None:
        self.writer.finish(self.target, self.publication)
        self.publish()

    def document(self) -> list[Output]:
        return [Output.from_nbformat(self.blobs.resolve_output(e)) for e in self.host.cell(self.room, "a")["outputs"]]


class Listener:
    """A session that repeats the outputs of all cells from events."""

    def __init__(self, host: Host, room: str) -> None:
        self.native = NativeSession(host.socket_path, room, connect_timeout_ms=SECONDS * 1000)
        self.outputs = OutputList()
        self.news: list[Output] = []
        self.placed: dict[int, Output] = {}
        self._positions = StreamPositions()
        self._tokens = itertools.count(1)
        self._take_until(EventKind.READY)
        self.native.watch(True)

    def receive(self) -> None:
        """Everything that was published until now."""
        self.native.sync(next(self._tokens), SECONDS * 1000)
        self._take_until(EventKind.SYNCED)

    def _take_until(self, kind: int) -> None:
        while True:
            event = self.native.next_event()
            if event is None:
                assert select.select([self.native.fd], [], [], SECONDS)[0], "nothing came"
                continue
            self.native.confirm(event.seq)
            self._take(event)
            if event.kind == kind:
                return
            assert event.kind != EventKind.CLOSED

    def _take(self, event: Event) -> None:
        if event.kind == EventKind.CLEARED:
            self.outputs.clear()
            self.news.append(Output("cleared"))
            self.placed.clear()
        elif event.kind == EventKind.OUTPUT:
            output = Output.from_nbformat(event.json())
            news = self.outputs.apply(event.code, event.number, output)
            if news is not None:
                self.news.append(news)
            index, continued = self._positions.place(event.id, event.code, event.number, output)
            old = self.placed.get(index)
            if continued and old is not None:
                output = Output("stream", name=output.name, text=(old.text or "") + (output.text or ""))
            self.placed[index] = output

    def close(self) -> None:
        self.native.stop()
        self._take_until_end()
        self.native.close()

    def _take_until_end(self) -> None:
        while True:
            event = self.native.next_event()
            if event is None:
                assert select.select([self.native.fd], [], [], SECONDS)[0]
                continue
            self.native.confirm(event.seq)
            if event.kind == EventKind.CLOSED:
                return


@pytest.fixture(scope="module")
def host_and_blobs() -> Iterator[tuple[Host, Blobs]]:
    with tempfile.TemporaryDirectory(prefix="rtd-") as directory:
        place = os.path.join(directory, "blobs")
        with Host(os.path.join(directory, "s"), capabilities={"blobs": place}) as host, Blobs(place) as blobs:
            yield host, blobs


STEP = st.one_of(
    st.tuples(st.sampled_from(["stdout", "stdout", "stderr"]), st.sampled_from(["a", "bé\n", "🐍" * 30, "x" * 9000])),
    st.tuples(st.sampled_from(["display", "update"]), st.sampled_from(["d", "e"])),
    st.tuples(st.sampled_from(["clear", "publish", "publish", "receive"]), st.booleans()),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.lists(STEP, max_size=30), st.booleans())
def test_events_repeat_the_document(host_and_blobs: tuple[Host, Blobs], steps: list[Any], late: bool) -> None:
    host, blobs = host_and_blobs
    scene = Scene(host, blobs)
    listener = None if late else Listener(host, scene.room)
    try:
        for number, (kind, value) in enumerate(steps):
            if kind == "publish":
                scene.publish()
            elif kind == "receive" and listener is not None:
                listener.receive()
            elif kind == "clear":
                scene.writer.clear(scene.target, value, scene.publication)
            elif kind == "display":
                scene.display(str(number), value)
            elif kind == "update":
                data = {"text/plain": str(number)}
                scene.writer.update_display(value, data, {}, scene.publication)
            elif kind in ("stdout", "stderr"):
                scene.print(f"{number} {value}", kind)
        if listener is None:
            # A session that joins amid a run reads what is there from the document and gets the rest as events.
            scene.publish()
            listener = Listener(host, scene.room)
            for index, output in enumerate(scene.document()):
                listener.outputs.apply(OutputChange.APPENDED, index, output)
            scene.print("more ")
            scene.publish()
            scene.print("and more")
        scene.finish()
        listener.receive()
        document = scene.document()
        assert listener.outputs.current() == document
        if late:
            # Events repeat no text that was in the document before, even if later text was merged with it.
            text = "".join(output.text or "" for output in listener.news if output.output_type == "stream")
            assert text == "more and more"
        else:
            assert [listener.placed[index] for index in range(len(document))] == document
            streams = [output for output in listener.news if output.output_type in ("stream", "cleared")]
            last = max([i for i, output in enumerate(streams) if output.output_type == "cleared"], default=-1)
            for name in ("stdout", "stderr"):
                text = "".join(output.text or "" for output in streams[last + 1 :] if output.name == name)
                assert text == "".join(output.text or "" for output in document if output.name == name)
    finally:
        if listener is not None:
            listener.close()
        host.close_room(scene.room)
        host.drain()


def test_subscribers_get_each_piece_once(host_and_blobs: tuple[Host, Blobs]) -> None:
    host, blobs = host_and_blobs
    scene = Scene(host, blobs)
    events: list[Any] = []
    session = Session(scene.room, socket_path=host.socket_path)
    session.connect()
    try:
        session.on_output(events.append)
        pieces = [f"{number} " + "x" * 700 + "\n" for number in range(40)]
        for piece in pieces:
            scene.print(piece)
            scene.publish()
        scene.display("end")
        scene.finish()
        session.sync()
        session.sync()  # What the first one brought is delivered by now.
        assert "".join(event.output.text or "" for event in events) == "".join(pieces)
        assert [event.index for event in events] == [0] * (len(events) - 1) + [1]
        assert [event.continued for event in events] == [False] + [True] * (len(events) - 2) + [False]
        assert not any(event.replaced for event in events) and all(event.output.text != "" for event in events)
        assert session.get_outputs("a") == scene.document()
        assert [output.output_type for output in scene.document()] == ["stream", "display_data"]
    finally:
        session.disconnect()
        host.close_room(scene.room)
        host.drain()


@pytest.mark.slow
def test_what_ten_megabytes_cost(host_and_blobs: tuple[Host, Blobs]) -> None:
    """Bytes that reach the disk for text that comes in small pieces: at most three times the text, and few files."""
    host = host_and_blobs[0]
    with tempfile.TemporaryDirectory(prefix="rtd-") as directory, Blobs(directory) as own:
        scene = Scene(host, own)
        piece = "x" * 999 + "\n"
        for number in range(10_000):
            scene.print(piece)
            if number % 100 == 99:
                scene.publish()
        scene.finish()
        written, files = _disk(directory)
        (output,) = scene.document()
        assert output.text == piece * 10_000
        assert written <= 3 * 10_000_000 + 100_000 and files <= 100, (written, files)
    host.close_room(scene.room)
    host.drain()


def _disk(directory: str) -> tuple[int, int]:

    sizes: Sequence[int] = [
        os.path.getsize(os.path.join(place, name)) for place, _, names in os.walk(directory) for name in names
    ]
    return sum(sizes), len(sizes)


def test_a_stream_without_its_blobs_is_reported_whole(host_and_blobs: tuple[Host, Blobs]) -> None:
    """Without blobs the texts cannot be compared; the outputs are still right."""
    outputs = OutputList()
    for index, text in enumerate("ab"):
        outputs.apply(OutputChange.APPENDED, index, Output("stream", name="stdout", text=text))
    whole = Output("stream", name="stdout", text="abc")
    news = outputs.apply(OutputChange.REPLACED_ALL, 0, whole)
    assert news == Output("stream", name="stdout", text="c") and outputs.current() == [whole]
    assert outputs.apply(OutputChange.REPLACED_ALL, 0, whole) is None
    other = Output("stream", name="stdout", text="other")
    assert outputs.apply(OutputChange.REPLACED_ALL, 0, other) == other
