"""Rules of frames, handshakes and the two versions.

Storey: testing. Source: protocol 2, sections 2, 3 and 6.
"""

from __future__ import annotations

import struct

from runtimed_ffi.testing.conformance.rules import World, expect, first_heads, insert, rule
from runtimed_ffi.testing.replicas import Replica, SyncState, announced_heads
from runtimed_ffi.testing.wire import (
    BROADCAST,
    CONTROL_LIMIT,
    DATA_LIMIT,
    REQUEST,
    RESPONSE,
    SYNC,
    encode,
    frame,
    notebook_handshake,
    typed,
)

_PING = frame(encode({"type": "ping"}))


@rule("2.1", "Frames may arrive in any pieces, one byte at a time as well")
def any_pieces(world: World) -> None:
    link = world.link()
    data = frame(encode({"channel": "pool"})) + _PING
    for at in range(len(data)):
        link.send(data[at : at + 1])
    expect(link.json() == {"type": "pong"}, "ping is not answered by pong")


@rule("2.1", "Several frames in one write are taken one after the other")
def one_write(world: World) -> None:
    link = world.link(frame(encode({"channel": "pool"})) + 3 * _PING)
    for _ in range(3):
        expect(link.json() == {"type": "pong"}, "ping is not answered by pong")


def _padded(size: int) -> bytes:
    empty = len(encode({"channel": "pool", "x": ""}))
    return frame(encode({"channel": "pool", "x": "y" * (size - empty)}))


@rule("2.2", "A first frame of 65536 bytes is accepted")
def first_frame_at_limit(world: World) -> None:
    link = world.link(_padded(CONTROL_LIMIT) + _PING)
    expect(link.json() == {"type": "pong"}, "ping is not answered by pong")


@rule("2.2", "A first frame of 65537 bytes ends the connection without an answer")
def first_frame_over_limit(world: World) -> None:
    link = world.link(_padded(CONTROL_LIMIT + 1)[:4])
    link.end("a length of 65537 bytes")


@rule("2.2", "Later frames may be longer than 64 KiB")
def later_frames_are_longer(world: World) -> None:
    link = world.pool()
    link.send_json({"type": "ping", "x": "y" * (3 * CONTROL_LIMIT)})
    expect(link.json() == {"type": "pong"}, "a ping of 192 KiB is not answered by pong")


@rule("2.2", "A later frame of more than 100 MiB ends the connection as soon as its length is there")
def later_frame_over_limit(world: World) -> None:
    link = world.link(frame(encode({"channel": "pool"})) + _PING)
    link.json()
    link.send(struct.pack(">I", DATA_LIMIT + 1))
    link.end("a length of 104857601 bytes")


@rule("2.3", "An empty frame and an unknown type end a notebook connection without an answer")
def typed_garbage(world: World) -> None:
    for garbage in (frame(b""), typed(4, b"{}"), typed(0xFF, b"")):
        peer = world.peer()
        received = peer.frames
        peer.send_raw(garbage)
        world.ended(peer, repr(garbage))
        expect(peer.frames == received, f"{garbage!r} was answered")
    world.alive()


@rule("2.3", "A connection that ends inside a frame harms no other")
def torn_frame(world: World) -> None:
    for data in (
        b"\0",
        b"\0\0\0\x20{",
        notebook_handshake(world.room())[:-1],
        frame(encode({"channel": "pool"})) + b"\0\0",
    ):
        world.link(data).close()
    world.alive()


@rule("2.4", "A first frame that is no handshake ends the connection without an answer")
def bad_first_frames(world: World) -> None:
    for first in (
        b"",
        b"ping",
        b"\xff",
        b"{}",
        b'{"channel":"pool"}x',
        b'{"channel":"Pool"}',
        b'{"channel":"nothing"}',
        b'{"channel":7}',
        b'{"channel":"notebook_sync","protocol":"v2"}',
        b'{"channel":"notebook_sync","notebook_id":7,"protocol":"v2"}',
        b'{"channel":"notebook_sync","notebook_id":"n","protocol":2}',
    ):
        world.link(frame(first)).end(repr(first))
    world.alive()


@rule("3", "A handshake is strict JSON: no duplicate member, no unpaired surrogate, no byte order mark")
def strict_json(world: World) -> None:
    for first in (
        b'{"channel":"pool","channel":"pool"}',
        b'{"channel":"pool","x":"\\ud83d"}',
        b'\xef\xbb\xbf{"channel":"pool"}',
    ):
        world.link(frame(first)).end(repr(first))


@rule("3", "Unknown members of a handshake are ignored; order and white space are free")
def unknown_members(world: World) -> None:
    for first in (
        b'{"x":[{"y":null}],"channel":"pool","protocol":"v2"}',
        b' {\n\t"z" : 1.5e3 ,\r\n "channel" : "pool" } ',
    ):
        link = world.link(frame(first) + _PING)
        expect(link.json() == {"type": "pong"}, f"{first!r} is no pool connection")


@rule("3", "A notebook id may be any text, the empty one as well")
def any_notebook_id(world: World) -> None:
    for suffix in ("\0", "👩\u200d👩", "e\u0301", '"\\', "../x", "a b"):
        room = world.room() + suffix
        link = world.link(notebook_handshake(room))
        expect(link.json("the capabilities").get("protocol") == "v2", f"no capabilities for {room!r}")
    link = world.link(notebook_handshake(""))
    expect(link.json("the capabilities").get("protocol") == "v2", "no capabilities for the empty id")


@rule("3.1", "Version 2 begins with untyped capabilities; the first sync message follows without being asked for")
def version_2(world: World) -> None:
    link = world.link(notebook_handshake(world.room()))
    capabilities = link.json("the capabilities")
    expect(isinstance(capabilities, dict) and capabilities.get("protocol") == "v2", f"capabilities are {capabilities}")
    expect(first_heads(link.frame("the first sync message")), "the first sync message announces no heads")


@rule("3.1", "Any other version is version 1: raw sync messages, no capabilities")
def version_1_by_default(world: World) -> None:
    for members in ({}, {"protocol": None}, {"protocol": "v1"}, {"protocol": "V2"}, {"protocol": "v3"}):
        hello = {"channel": "notebook_sync", "notebook_id": world.room(), **members}
        first = world.link(frame(encode(hello))).frame("the first sync message")
        expect(first[:1] in (b"\x42", b"\x43"), f"{members}: the first frame begins with {first[:1]!r}")
        expect(announced_heads(first), f"{members}: the first sync message announces no heads")


@rule("5.1", "Responses and broadcasts of a client are ignored, whatever is in them")
def daemon_frames_from_a_client(world: World) -> None:
    peer = world.peer()
    for kind in (RESPONSE, BROADCAST):
        peer.send_raw(typed(kind, b'{"result":') + typed(kind, b""))
    expect(world.ask(peer, "get_queue_state")["result"] == "queue_state", "get_queue_state is not answered")


@rule("5.1", "A request that does not parse, or of an unknown action, ends the connection without an answer")
def bad_requests(world: World) -> None:
    for body in (b"", b"{", b'{"action":"restart_kernel"}', b'{"action":"execute_cell"}', b'{"result":"ok"}'):
        peer = world.peer()
        peer.send_raw(typed(REQUEST, body))
        world.ended(peer, repr(body))
        expect(not peer.responses, f"{body!r} was answered")


@rule("5.1", "A sync message that does not decode ends the connection and changes nothing")
def bad_sync_messages(world: World) -> None:
    witness = world.peer()
    witness.edit(insert("c", "x"))
    world.settle(witness)
    for body in (b"", b"\x41", b"\x42", b"\x42\x01", b"{}"):
        peer = world.peer(witness.notebook_id)
        peer.send_raw(typed(SYNC, body))
        world.ended(peer, repr(body))
    world.settle(witness)
    expect([cell["id"] for cell in witness.document.cells()] == ["c"], "the document has changed")


@rule("6", "Peers of version 1 share the room with those of version 2, in raw sync frames")
def version_1_shares_the_room(world: World) -> None:
    modern = world.peer()
    modern.edit(insert("c", "x"))
    world.settle(modern)
    old, replica, state = world.link(notebook_handshake(modern.notebook_id, None)), Replica(), SyncState()
    while not replica.cells():
        state.receive(replica, old.frame("a sync message"))
        message = state.generate(replica)
        if message is not None:
            old.send(frame(message))
    expect(replica.cells()[0]["source"] == "x", "version 1 sees another cell")
    replica.edit({"op": "set_source", "cell_id": "c", "source": "xy"})
    message = state.generate(replica)
    old.send(frame(message or b""))
    world.wait([modern], lambda: modern.document.cells()[0]["source"] == "xy", "the edit of version 1")
