"""First frames through the C ABI, both sides. Source: protocol 2, sections 2.2, 2.4 and 3."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from properties.connections import Conn, frames, pair
from properties.documented import call
from runtimed_ffi._binding.ffi import ffi, lib, text_in
from runtimed_ffi.testing import strategies
from runtimed_ffi.testing.profiles import examples
from runtimed_ffi.testing.replicas import Replica, SyncState
from runtimed_ffi.testing.strategies import Sloppy
from runtimed_ffi.testing.wire import CONTROL_LIMIT, Json, encode, frame

CHANNELS = {
    "pool": lib.RTD_CHANNEL_POOL,
    "blob": lib.RTD_CHANNEL_BLOB,
    "pool_state_subscribe": lib.RTD_CHANNEL_POOL_STATE,
    "settings_sync": lib.RTD_CHANNEL_SETTINGS,
}


@examples()
@given(st.data(), strategies.sloppy_message("handshake"))
def test_a_server_reads_every_handshake_in_any_split(data: st.DataObject, case: Sloppy) -> None:
    server, meaning, left = Conn.server(), case.meaning, frame(case.sent)
    for piece in data.draw(strategies.split(left)):
        assert not left or server.next()[0] == lib.RTD_E_AGAIN
        server.receive(piece)
        left = left[len(piece) :]
    (event,) = server.events()
    assert json.loads(event.payload) == meaning
    if meaning["channel"] == "notebook_sync":
        assert (event.kind, event.id) == (lib.RTD_EV_ROOM_WANTED, meaning["notebook_id"])
    else:
        assert (event.kind, event.code, event.token) == (lib.RTD_EV_REQUEST, CHANNELS[meaning["channel"]], 0)
    assert server.output() == b""


@examples()
@given(strategies.broken_message("handshake"))
def test_a_server_does_not_answer_an_invalid_handshake(data: bytes) -> None:
    server = Conn.server(data)
    assert server.failure() == lib.RTD_E_PROTOCOL
    assert server.output() == b""


@pytest.mark.parametrize("excess", [-1, 0, 1])
def test_the_first_frame_has_the_control_limit_and_the_next_has_not(excess: int) -> None:
    hello = encode({"channel": "pool", "x": ""})
    padded = encode({"channel": "pool", "x": "y" * (CONTROL_LIMIT + excess - len(hello))})
    assert len(padded) == CONTROL_LIMIT + excess
    server = Conn.server(padded)
    if excess > 0:
        assert server.failure() == lib.RTD_E_TOO_BIG
        return
    assert server.next()[0] == lib.RTD_OK
    server.receive(frame(encode({"type": "ping", "x": "y" * (2 * CONTROL_LIMIT)})))
    assert server.next()[0] == lib.RTD_OK


@pytest.mark.parametrize("excess", [0, 1])
def test_a_client_refuses_an_id_that_does_not_fit_the_control_limit(excess: int) -> None:
    overhead = len(frames(Conn.client("").output())[0])
    notebook_id = "é" * ((CONTROL_LIMIT - overhead) // 2) + "a" * ((CONTROL_LIMIT - overhead) % 2) + "b" * excess
    out = ffi.new("rtd_conn **")
    code = call("rtd_conn_client", *text_in(notebook_id), out)
    assert code == (lib.RTD_E_TOO_BIG if excess else lib.RTD_OK)
    assert (out[0] == ffi.NULL) == bool(excess)
    lib.rtd_conn_free(out[0])


@examples()
@given(strategies.text())
def test_a_client_asks_for_version_2_of_any_room(notebook_id: str) -> None:
    (hello,) = frames(Conn.client(notebook_id).output())
    asked = json.loads(hello)
    assert list(asked)[:3] == ["channel", "notebook_id", "protocol"]
    assert (asked["channel"], asked["notebook_id"], asked["protocol"]) == ("notebook_sync", notebook_id, "v2")
    pair(notebook_id)


@examples()
@given(st.one_of(st.none(), st.sampled_from(["v2", "v1", "V2", "v2 ", ""]), strategies.text(2)))
def test_only_exactly_v2_is_version_2(protocol: str | None) -> None:
    server = Conn.server(encode({"channel": "notebook_sync", "notebook_id": "n", "protocol": protocol}))
    server.document = Replica("n")
    assert server.events()[0].kind == lib.RTD_EV_ROOM_WANTED
    assert server.output() == b""
    assert server.join({"more": [1]}) == lib.RTD_OK
    sent = frames(server.output())
    replica = Replica()
    if protocol == "v2":
        assert json.loads(sent.pop(0)) == {"protocol": "v2", "more": [1]}
        assert sent[0][0] == 0
        sent[0] = sent[0][1:]
    SyncState().receive(replica, sent[0])
    assert len(sent) == 1


@examples()
@given(
    st.one_of(strategies.json_value().map(encode), st.binary(max_size=40), strategies.broken_message("capabilities"))
)
def test_a_first_frame_other_than_version_2_is_a_version_1_sync_message_or_an_error(first: bytes) -> None:
    client = Conn.client()
    client.receive(frame(first))
    code, _ = client.next()
    if code == lib.RTD_E_AGAIN:
        assert first[:1] in (b"\x42", b"\x43") or json.loads(first)["protocol"] == "v2"
    else:
        assert client.failure() == lib.RTD_E_PROTOCOL
        assert client.document is not None and client.document.cells() == []


@examples()
@given(st.dictionaries(strategies.text(3).map("x-{}".format), strategies.json_value(), max_size=3))
def test_capabilities_reach_the_program(members: Json) -> None:
    client, room = Conn.client(), Replica("n")
    message = SyncState().generate(room)
    assert message is not None
    client.receive(frame(encode({"protocol": "v2", **members})) + frame(b"\0" + message))
    # The room's content was announced, not sent: READY comes when it has arrived.
    assert client.next()[0] == lib.RTD_E_AGAIN
    sync = SyncState()
    sync.generate(room)
    for asked in [sent for sent in frames(client.output())[1:] if sent[0] == 0]:
        sync.receive(room, asked[1:])
    content = sync.generate(room)
    assert content is not None
    client.receive(frame(b"\0" + content))
    (event,) = client.events()
    assert event.kind == lib.RTD_EV_READY
    assert json.loads(event.payload) == {"protocol": "v2", **members}
