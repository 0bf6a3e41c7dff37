"""Connections through the C ABI: any state and any call, and whole conversations in any pieces.

Source: protocol 2, sections 2.4, 4, 5.1 to 5.6, 8.6; anchors of the header for results.
"""

from __future__ import annotations

import json
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from properties.connections import Conn, bodies, kinds, pair, settle
from properties.documented import CODES, call
from runtimed_ffi._binding.events import new_event
from runtimed_ffi._binding.ffi import bytes_in, ffi, lib, new_buffer, take_buf
from runtimed_ffi.testing import strategies
from runtimed_ffi.testing.profiles import examples
from runtimed_ffi.testing.replicas import Replica, announcement, saturate
from runtimed_ffi.testing.wire import BROADCAST, REQUEST, RESPONSE, SYNC, Json, encode, frame, typed

NOTEBOOK = encode({"channel": "notebook_sync", "notebook_id": "n", "protocol": "v2"})


def _server(*frames: bytes, join: bool = False) -> Conn:
    server = Conn.server(*frames)
    while server.next()[0] == lib.RTD_OK:
        pass
    if join:
        server.document = Replica("n")
        assert server.join() == lib.RTD_OK
        server.output()
    return server


def _failed(conn: Conn) -> Conn:
    conn.receive(b"\xff\xff\xff\xff")
    while conn.next()[0] == lib.RTD_OK:
        pass
    return conn


def _ended(conn: Conn) -> Conn:
    conn.eof()
    return conn


def _with_requests() -> Conn:
    client, server = pair()
    for number in range(3):
        client.request(number + 1, {"action": "get_queue_state"})
    server.receive(client.output())
    server.events()
    return server


def _asking() -> Conn:
    client, _ = pair()
    client.request(1, {"action": "get_queue_state"})
    client.output()
    return client


STATES: dict[str, Callable[[], Conn]] = {
    "client, new": Conn.client,
    "client, joined": lambda: pair()[0],
    "client, asking": _asking,
    "client, failed": lambda: _failed(Conn.client()),
    "client, ended": lambda: _ended(pair()[0]),
    "server, new": Conn.server,
    "server, waiting": lambda: _server(NOTEBOOK),
    "server, joined": lambda: _server(NOTEBOOK, join=True),
    "server, version 1": lambda: _server(NOTEBOOK.replace(b"v2", b"v1"), join=True),
    "server, asked": _with_requests,
    "server, pool": lambda: _server(encode({"channel": "pool"})),
    "server, pool, asked": lambda: _server(encode({"channel": "pool"}), encode({"type": "ping"})),
    "server, blob": lambda: _server(encode({"channel": "blob"})),
    "server, blob, body": lambda: _server(encode({"channel": "blob"}), encode({"action": "store", "media_type": "x"})),
    "server, pool state": lambda: _server(encode({"channel": "pool_state_subscribe"})),
    "server, settings": lambda: _server(encode({"channel": "settings_sync"})),
    "server, failed": lambda: _failed(_server(NOTEBOOK, join=True)),
    "server, ended": lambda: _ended(_server(NOTEBOOK, join=True)),
}

_notebook = Replica("n")
_notebook.edit({"op": "insert_cell", "cell_id": "c", "cell_type": "code", "source": "x"})
_SYNC = [announcement(_notebook), b"", b"\x42", b"\x43\x00\x00\x00\x00", saturate(announcement(_notebook)), b"{}"]

_json = st.one_of(
    strategies.json_value().map(encode),
    st.sampled_from(["request", "response", "broadcast", "pool_request"]).flatmap(strategies.message).map(encode),
    st.binary(max_size=10),
    st.just(b""),
)
_frames = st.one_of(
    st.builds(typed, st.integers(0, 5), st.one_of(_json, st.sampled_from(_SYNC))),
    st.sampled_from(["handshake", "request", "response", "broadcast", "pool_request", "blob_request", "capabilities"])
    .flatmap(strategies.message)
    .map(encode)
    .map(frame),
    st.just(frame(b"")),
)
_tokens = st.sampled_from([0, 1, 2, 3, 2**64 - 1])
_call = st.one_of(
    st.tuples(st.just("rtd_conn_receive"), st.one_of(_frames, _frames, strategies.garbage())),
    st.tuples(st.just("rtd_conn_next_event"), st.sampled_from(["own", "own", "none"]), st.integers(0, 2**64 - 1)),
    st.tuples(
        st.just("rtd_conn_output"), st.sampled_from(["own", "none"]), st.integers(-1, 2), st.integers(0, 2**64 - 1)
    ),
    st.tuples(st.just("rtd_conn_request"), _tokens, _json),
    st.tuples(st.just("rtd_conn_respond"), _tokens, _json),
    st.tuples(st.just("rtd_conn_broadcast"), _json),
    st.tuples(st.just("rtd_conn_join"), _json),
    st.tuples(st.just("rtd_conn_eof")),
)


def _do(conn: Conn, name: str, *arguments: Any) -> int:
    """One call of those above; the code must be one that the header names for the function."""
    if name == "rtd_conn_output":
        which, moved, now = arguments
        out = new_buffer()
        code = call(name, conn.handle, conn._doc if which == "own" else ffi.NULL, moved, now, out)
        take_buf(out)
        return code
    if name == "rtd_conn_next_event":
        which, now = arguments
        return call(name, conn.handle, conn._doc if which == "own" else ffi.NULL, now, new_event())
    raw = [part for each in arguments for part in (bytes_in(each) if isinstance(each, bytes) else (each,))]
    return call(name, conn.handle, *raw)


@pytest.mark.parametrize("state", STATES)
def test_any_call_in_any_state_gives_a_documented_code(state: str) -> None:
    @examples(0.6)
    @given(st.lists(_call, max_size=8))
    def run(calls: list[tuple[Any, ...]]) -> None:
        conn = STATES[state]()
        broken = state.endswith(("failed", "ended"))
        for one in calls:
            code = _do(conn, *one)
            if one[0] == "rtd_conn_eof":
                broken = True
            if one[0] == "rtd_conn_next_event":
                # A failed connection stays failed; events from before it may still come.
                assert not broken or code in (lib.RTD_OK, lib.RTD_E_PROTOCOL, lib.RTD_E_TOO_BIG, lib.RTD_E_NULL)
                broken = broken or code in (lib.RTD_E_PROTOCOL, lib.RTD_E_TOO_BIG)
            if code == lib.RTD_E_STATE:
                wrong_side = state.startswith("client") == (one[0] != "rtd_conn_request")
                assert wrong_side or one[0] == "rtd_conn_join"

    run()


def test_every_function_of_a_connection_refuses_null() -> None:
    conn, out, event = Conn.client(), new_buffer(), new_event()
    assert call("rtd_conn_server", ffi.NULL) == call("rtd_conn_client", ffi.NULL, 0, ffi.NULL) == lib.RTD_E_NULL
    null_handle = {
        "rtd_conn_receive": (ffi.NULL, 0),
        "rtd_conn_eof": (),
        "rtd_conn_next_event": (ffi.NULL, 0, event),
        "rtd_conn_request": (1, ffi.NULL, 0),
        "rtd_conn_join": (ffi.NULL, 0),
        "rtd_conn_respond": (1, ffi.NULL, 0),
        "rtd_conn_broadcast": (ffi.NULL, 0),
        "rtd_conn_output": (ffi.NULL, 0, 0, out),
    }
    assert {name for name in CODES if name.startswith("rtd_conn_")} == {
        *null_handle,
        "rtd_conn_client",
        "rtd_conn_server",
    }
    for name, arguments in null_handle.items():
        assert call(name, ffi.NULL, *arguments) == lib.RTD_E_NULL
    assert call("rtd_conn_next_event", conn.handle, conn._doc, 0, ffi.NULL) == lib.RTD_E_NULL
    assert call("rtd_conn_output", conn.handle, conn._doc, 0, 0, ffi.NULL) == lib.RTD_E_NULL
    event.struct_size = 8
    assert call("rtd_conn_next_event", conn.handle, conn._doc, 0, event) == lib.RTD_E_VERSION


_step = st.one_of(
    st.tuples(st.just("client edits"), strategies.text(4)),
    st.tuples(st.just("server edits"), strategies.text(4)),
    st.tuples(st.just("request"), strategies.message("request")),
    st.tuples(st.just("respond"), st.integers(0, 9)),
    st.tuples(st.just("broadcast"), strategies.message("broadcast")),
    st.tuples(st.just("up"), st.integers(0, 200)),
    st.tuples(st.just("down"), st.integers(0, 200)),
)


class Conversation:
    """A client in a room, with bytes under way in both directions."""

    def __init__(self) -> None:
        self.client, self.server = pair()
        self.under_way = {"up": b"", "down": b""}
        self.requests: list[Json] = []
        self.open: list[tuple[int, int]] = []
        self.answers: dict[int, Json] = {}
        self.answered: dict[int, Json] = {}
        self.broadcasts: list[Json] = []
        self.received: list[Json] = []
        self.asked: list[Json] = []
        self.cells = 0
        self.now = 0

    def step(self, name: str, argument: Any) -> None:
        self.now += 7
        getattr(self, "_" + name.replace(" ", "_"))(argument)
        self.under_way["up"] += self.client.output(moved=name == "client edits", now=self.now)
        self.under_way["down"] += self.server.output(moved=name == "server edits", now=self.now)

    def _edit(self, conn: Conn, source: str) -> None:
        self.cells += 1
        assert conn.document is not None
        conn.document.edit({"op": "insert_cell", "cell_id": str(self.cells), "cell_type": "code", "source": source})

    def _client_edits(self, source: str) -> None:
        self._edit(self.client, source)

    def _server_edits(self, source: str) -> None:
        self._edit(self.server, source)

    def _request(self, message: Json) -> None:
        self.requests.append(message)
        assert self.client.request(len(self.requests), message) == lib.RTD_OK

    def _respond(self, which: int) -> None:
        if self.open:
            token, number = self.open.pop(which % len(self.open))
            self.answers[number] = {"result": "error", "error": str(number)}
            assert self.server.respond(token, self.answers[number]) == lib.RTD_OK
            assert self.server.respond(token, self.answers[number]) == lib.RTD_E_NOT_FOUND

    def _broadcast(self, message: Json) -> None:
        self.broadcasts.append(message)
        assert self.server.broadcast(message) == lib.RTD_OK

    def _up(self, count: int) -> None:
        self.server.receive(self._move("up", count))
        for event in self.server.events():
            if event.kind == lib.RTD_EV_REQUEST:
                assert event.code == lib.RTD_CHANNEL_NOTEBOOK
                self.asked.append(json.loads(event.payload))
                self.open.append((event.token, len(self.asked)))

    def _down(self, count: int) -> None:
        self.client.receive(self._move("down", count))
        events = self.client.events()
        self.received += bodies(events, lib.RTD_EV_BROADCAST)
        for event in events:
            if event.kind == lib.RTD_EV_RESPONSE:
                assert event.token not in self.answered
                self.answered[event.token] = json.loads(event.payload)

    def _move(self, way: str, count: int) -> bytes:
        data, self.under_way[way] = self.under_way[way][:count], self.under_way[way][count:]
        return data

    def end(self) -> None:
        """Everything arrives."""
        for _ in range(30):
            self.step("up", 1 << 30)
            self.step("down", 1 << 30)
            self.step("respond", 0)
            self.now += 1000


@examples()
@given(st.lists(_step, max_size=25))
def test_a_conversation_in_any_pieces_loses_nothing(steps: list[tuple[str, Any]]) -> None:
    talk = Conversation()
    for name, argument in steps:
        talk.step(name, argument)
    talk.end()
    without_ids = [{key: value for key, value in asked.items() if key != "request_id"} for asked in talk.asked]
    assert without_ids == talk.requests
    assert talk.received == talk.broadcasts
    assert sorted(talk.answered) == list(range(1, len(talk.requests) + 1))
    for token, answer in talk.answered.items():
        assert answer["error"] == str(token)
    client, server = talk.client.document, talk.server.document
    assert client is not None and server is not None
    assert client.heads() == server.heads() and len(client.cells()) == talk.cells
    assert client.cells() == server.cells()


@examples()
@given(st.data(), st.integers(0, 3))
def test_broken_frames_end_a_joined_server_without_an_answer(data: st.DataObject, before: int) -> None:
    """All events before the broken frame come, the document is unchanged by it, and nothing is sent (2.4, 5.1)."""
    _, server = pair()
    broken = st.one_of(
        strategies.broken_message("request").map(lambda body: typed(REQUEST, body)),
        st.builds(typed, st.integers(4, 255), st.binary(max_size=5)),
        st.just(frame(b"")),
        st.sampled_from([b"", b"\x41", b"\x42", b"\x42\x01", b"{}", b"\x43\xff"]).map(lambda body: typed(SYNC, body)),
    )
    good = [typed(REQUEST, encode(data.draw(strategies.message("request")))) for _ in range(before)]
    assert server.document is not None
    heads = server.document.heads()
    for piece in data.draw(strategies.split(b"".join(good) + data.draw(broken))):
        server.receive(piece)
    events = 0
    while server.next()[0] == lib.RTD_OK:
        events += 1
    assert events == before
    assert server.failure() == lib.RTD_E_PROTOCOL
    assert server.output() == b"" and server.document.heads() == heads


@examples()
@given(st.lists(st.tuples(st.sampled_from([RESPONSE, BROADCAST]), st.binary(max_size=9)), max_size=4))
def test_a_server_ignores_what_only_daemons_send(sent: list[tuple[int, bytes]]) -> None:
    """Section 5.1: not parsed, ignored."""
    client, server = pair()
    for kind, body in sent:
        server.receive(typed(kind, body))
    assert server.events() == []
    client.request(9, {"action": "get_queue_state"})
    _, asked = settle(client, server)
    assert kinds(asked) == [lib.RTD_EV_REQUEST]


@examples()
@given(st.data(), st.lists(strategies.message("pool_request"), max_size=4))
def test_a_pool_connection_answers_in_order(data: st.DataObject, requests: list[Json]) -> None:
    server = Conn.server(encode({"channel": "pool"}))
    for piece in data.draw(strategies.split(b"".join(frame(encode(request)) for request in requests))):
        server.receive(piece)
    hello, *asked = server.events()
    assert (hello.code, hello.token) == (lib.RTD_CHANNEL_POOL, 0)
    assert [json.loads(event.payload) for event in asked] == requests
    answers = [{"type": "error", "message": str(number)} for number in range(len(asked))]
    for number in data.draw(st.permutations(range(len(asked)))):
        assert server.respond(asked[number].token, answers[number]) == lib.RTD_OK
    assert server.output() == b"".join(frame(encode(answer)) for answer in answers)


@examples()
@given(st.data(), st.lists(st.tuples(strategies.text(2), st.binary(max_size=50)) | st.none(), max_size=4))
def test_a_blob_connection_distinguishes_bytes_from_requests(
    data: st.DataObject, sent: list[tuple[str, bytes] | None]
) -> None:
    """Section 8.6: the frame behind a store request is the blob, whatever it looks like."""
    stream = frame(encode({"channel": "blob"}))
    for one in sent:
        if one is None:
            stream += frame(encode({"action": "get_port"}))
        else:
            stream += frame(encode({"action": "store", "media_type": one[0]})) + frame(one[1])
    server = Conn.server()
    for piece in data.draw(strategies.split(stream)):
        server.receive(piece)
    asked = server.events()[1:]
    assert len(asked) == len(sent)
    for event, one in zip(asked, sent):
        assert event.code == lib.RTD_CHANNEL_BLOB
        assert (event.id, event.payload) == (one if one is not None else ("", b'{"action":"get_port"}'))
