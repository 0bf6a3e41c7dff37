"""A connection of the C ABI with Python types; every result is checked against the header."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from properties.documented import call
from runtimed_ffi._binding.events import Event, decode_event, new_event
from runtimed_ffi._binding.ffi import bytes_in, ffi, lib, new_buffer, take_buf, text_in
from runtimed_ffi.testing.replicas import Replica
from runtimed_ffi.testing.wire import encode, frame


@dataclass
class Conn:
    """One side; `document` is what it is given, if anything."""

    handle: Any
    document: Replica | None = None

    @classmethod
    def client(cls, notebook_id: str = "n") -> Conn:
        out = ffi.new("rtd_conn **")
        assert call("rtd_conn_client", *text_in(notebook_id), out) == lib.RTD_OK
        return cls(ffi.gc(out[0], lib.rtd_conn_free), Replica())

    @classmethod
    def server(cls, *first_frames: bytes) -> Conn:
        out = ffi.new("rtd_conn **")
        assert call("rtd_conn_server", out) == lib.RTD_OK
        conn = cls(ffi.gc(out[0], lib.rtd_conn_free))
        conn.receive(b"".join(map(frame, first_frames)))
        return conn

    @property
    def _doc(self) -> Any:
        return ffi.NULL if self.document is None else self.document.handle

    def receive(self, data: bytes) -> int:
        return call("rtd_conn_receive", self.handle, *bytes_in(data))

    def eof(self) -> int:
        return call("rtd_conn_eof", self.handle)

    def next(self, now: int = 0) -> tuple[int, Event | None]:
        event = new_event()
        code = call("rtd_conn_next_event", self.handle, self._doc, now, event)
        return code, decode_event(event) if code == lib.RTD_OK else None

    def events(self) -> list[Event]:
        """All there are; the peer must not have broken the protocol."""
        found = []
        while True:
            code, event = self.next()
            if event is None:
                assert code == lib.RTD_E_AGAIN
                return found
            found.append(event)

    def failure(self) -> int:
        """The error that comes after all events; it must stay."""
        code = lib.RTD_OK
        while code == lib.RTD_OK:
            code, _ = self.next()
        assert code in (lib.RTD_E_PROTOCOL, lib.RTD_E_TOO_BIG)
        self.receive(frame(encode({"channel": "pool"})))
        assert self.next()[0] in (lib.RTD_E_PROTOCOL, lib.RTD_E_TOO_BIG)
        return code

    def output(self, moved: bool = False, now: int = 0) -> bytes:
        out = new_buffer()
        assert call("rtd_conn_output", self.handle, self._doc, int(moved), now, out) == lib.RTD_OK
        return take_buf(out)

    def request(self, token: int, message: Any) -> int:
        return call("rtd_conn_request", self.handle, token, *bytes_in(encode(message)))

    def join(self, capabilities: Any = None) -> int:
        data = b"" if capabilities is None else encode(capabilities)
        return call("rtd_conn_join", self.handle, *bytes_in(data))

    def respond(self, token: int, message: Any) -> int:
        return call("rtd_conn_respond", self.handle, token, *bytes_in(encode(message)))

    def broadcast(self, message: Any) -> int:
        return call("rtd_conn_broadcast", self.handle, *bytes_in(encode(message)))


def frames(data: bytes) -> list[bytes]:
    """The payloads of a stream that ends between two frames."""
    found = []
    while data:
        length = int.from_bytes(data[:4], "big")
        assert len(data) >= 4 + length
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found


def settle(client: Conn, server: Conn) -> tuple[list[Event], list[Event]]:
    """Move bytes both ways until neither side has any to send; the server joins when a room is requested."""
    at_client: list[Event] = []
    at_server: list[Event] = []
    for now in range(0, 100_000, 1000):
        up = client.output(now=now)
        server.receive(up)
        for event in server.events():
            at_server.append(event)
            if event.kind == lib.RTD_EV_ROOM_WANTED:
                assert server.join() == lib.RTD_OK
                at_server += server.events()
        down = server.output(now=now)
        client.receive(down)
        at_client += client.events()
        if not up and not down and now > 1000:
            return at_client, at_server
    raise AssertionError("the connection does not become quiet")


def pair(notebook_id: str = "n") -> tuple[Conn, Conn]:
    """A client in a room."""
    client, server = Conn.client(notebook_id), Conn.server()
    server.document = Replica(notebook_id)
    seen, asked = settle(client, server)
    assert [event.kind for event in seen] == [lib.RTD_EV_READY]
    assert asked[0].kind == lib.RTD_EV_ROOM_WANTED and asked[0].id == notebook_id
    return client, server


def kinds(events: list[Event]) -> list[int]:
    return [event.kind for event in events]


def bodies(events: list[Event], kind: int) -> list[Any]:
    """The JSON of the events of a kind."""
    return [json.loads(event.payload) for event in events if event.kind == kind]
