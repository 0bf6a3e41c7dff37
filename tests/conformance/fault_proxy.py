"""A daemon that breaks a rule: a relay in front of a real one, with one fault.

A fault gets the frames of both directions and returns the frames to pass on in their place. So every rule that a fault
names must fail, while everything else is correct.
"""

from __future__ import annotations

import json
import selectors
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from runtimed_ffi.testing.wire import REQUEST, RESPONSE, SYNC, Json, encode, frame


@dataclass
class Talk:
    """One connection through the relay, as a fault sees it."""

    number: int
    hello: Json = field(default_factory=dict)
    """The handshake; empty if it did not parse."""
    up: int = 0
    """Frames of the client so far."""
    down: int = 0
    """Frames of the daemon so far."""
    kept: list[bytes] = field(default_factory=list)
    """Frames that a fault has held back."""

    @property
    def typed(self) -> bool:
        return self.hello.get("channel") == "notebook_sync"

    def swapped(self, payload: bytes, hold: bool) -> list[bytes]:
        """The frames to pass on now: none if the frame is held back, else the frame and then those held back before."""
        if hold:
            self.kept.append(payload)
            return []
        kept, self.kept = self.kept, []
        return [payload, *kept]


class Fault:
    """Changes nothing; subclasses do."""

    largest = 1 << 30
    """Longer frames of clients close the connection."""
    keeps_open = False
    """When the daemon closes a connection, the client's connection stays open."""
    last_words = b""
    """What a client receives when the daemon closes a connection."""

    def up(self, talk: Talk, payload: bytes) -> Iterable[bytes]:
        return [payload]

    def down(self, talk: Talk, payload: bytes) -> Iterable[bytes]:
        return [payload]


class Json_(Fault):
    """Changes one JSON message of the daemon: all that have these members, by a function."""

    def __init__(self, change: Callable[[Json], Any], **members: Any) -> None:
        self._change, self._members = change, members

    def down(self, talk: Talk, payload: bytes) -> Iterable[bytes]:
        kind, body = (payload[:1], payload[1:]) if talk.typed and talk.down > 1 else (b"", payload)
        try:
            message = json.loads(body)
        except ValueError:
            return [payload]
        if isinstance(message, dict) and all(message.get(name) == value for name, value in self._members.items()):
            message = self._change(message)
            return [] if message is None else [kind + encode(message)]
        return [payload]


class FaultProxy:
    """Listens, and relays each connection to a daemon; a context manager."""

    def __init__(self, path: Path, target: str, fault: Fault) -> None:
        self.path = str(path)
        self._target, self._fault = target, fault
        self._connections: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(10)
        self._listener.close()
        for pair in self._connections:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            daemon = socket.socket(socket.AF_UNIX)
            daemon.connect(self._target)
            self._connections.append((client, daemon))
            thread = threading.Thread(target=self._relay, args=(client, daemon, Talk(len(self._threads))), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _relay(self, client: socket.socket, daemon: socket.socket, talk: Talk) -> None:
        waiting = {client: b"", daemon: b""}
        with client, daemon, selectors.DefaultSelector() as selector:
            for end in (client, daemon):
                selector.register(end, selectors.EVENT_READ)
            try:
                while self._step(selector, client, daemon, talk, waiting):
                    continue
            except OSError:
                return

    def _step(self, selector: Any, client: Any, daemon: Any, talk: Talk, waiting: dict[Any, bytes]) -> bool:
        for key, _ in selector.select():
            data = key.fileobj.recv(1 << 16)
            if not data and key.fileobj is daemon:
                if self._fault.keeps_open:
                    selector.unregister(daemon)
                    return True
                client.sendall(self._fault.last_words)
            if not data:
                return False
            waiting[key.fileobj] += data
            if not self._forward(key.fileobj, client, daemon, talk, waiting):
                return False
        return True

    def _forward(self, source: Any, client: Any, daemon: Any, talk: Talk, waiting: dict[Any, bytes]) -> bool:
        while len(waiting[source]) >= 4:
            length = int.from_bytes(waiting[source][:4], "big")
            if source is client and length > self._fault.largest:
                return False
            if len(waiting[source]) < 4 + length:
                if length > 1 << 27:
                    daemon.sendall(waiting[source])  # More than the daemon reads: it closes.
                    waiting[source] = b""
                break
            payload, waiting[source] = waiting[source][4 : 4 + length], waiting[source][4 + length :]
            if source is client:
                if talk.up == 0:
                    talk.hello = _object(payload)
                talk.up += 1
                daemon.sendall(b"".join(map(frame, self._fault.up(talk, payload))))
            else:
                talk.down += 1
                client.sendall(b"".join(map(frame, self._fault.down(talk, payload))))
        return True


def _object(payload: bytes) -> Json:
    try:
        value = json.loads(payload)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


# -- the faults


class ShortFrames(Fault):
    largest = 65536


class StaysOpen(Fault):
    keeps_open = True


class SaysWhy(Fault):
    last_words = frame(b'{"error":"bad frame"}')


class SyncFirst(Fault):
    """The first sync message before the capabilities."""

    def down(self, talk: Talk, payload: bytes) -> Iterable[bytes]:
        return talk.swapped(payload, hold=talk.typed and talk.down == 1)


class AlwaysVersion2(Fault):
    def up(self, talk: Talk, payload: bytes) -> Iterable[bytes]:
        return [encode({**talk.hello, "protocol": "v2"})] if talk.up == 1 and talk.typed else [payload]


class SwapsResponses(Fault):
    def down(self, talk: Talk, payload: bytes) -> Iterable[bytes]:
        if not talk.typed or talk.down == 1 or payload[0] != RESPONSE:
            return [payload]
        return talk.swapped(payload, hold=not talk.kept)


class ResponsesLast(Fault):
    """A response is sent after the broadcast that follows it."""

    def down(self, talk: Talk, payload: bytes) -> Iterable[bytes]:
        return talk.swapped(payload, hold=talk.typed and talk.down > 1 and payload[0] == RESPONSE)


class LateEdits(Fault):
    """A client's edit is sent after the request that follows it."""

    def up(self, talk: Talk, payload: bytes) -> Iterable[bytes]:
        return talk.swapped(payload, hold=talk.typed and talk.up > 3 and payload[0] == SYNC)


class LosesEdits(Fault):
    def up(self, talk: Talk, payload: bytes) -> Iterable[bytes]:
        return [] if talk.typed and talk.up > 3 and payload[0] == SYNC else [payload]


class LosesPushes(Fault):
    """Edits of other clients do not arrive."""

    def down(self, talk: Talk, payload: bytes) -> Iterable[bytes]:
        return [] if talk.typed and talk.down > 3 and payload[:1] == b"\0" else [payload]


class RefusesResponses(Fault):
    """Frames that only daemons send close the connection."""

    def up(self, talk: Talk, payload: bytes) -> Iterable[bytes]:
        return [b"\xff"] if talk.typed and payload[:1] in (b"\2", b"\3") else [payload]


class StrictRequests(Fault):
    """Unknown members close the connection."""

    def up(self, talk: Talk, payload: bytes) -> Iterable[bytes]:
        odd = talk.typed and payload[:1] == bytes([REQUEST]) and b'"x":' in payload
        return [b"\xff"] if odd else [payload]


class ForgetsRooms(Fault):
    def up(self, talk: Talk, payload: bytes) -> Iterable[bytes]:
        if talk.up == 1 and talk.typed and isinstance(talk.hello.get("notebook_id"), str):
            return [encode({**talk.hello, "notebook_id": f"{talk.hello['notebook_id']}-{talk.number}"})]
        return [payload]


class LowersIds(Fault):
    def up(self, talk: Talk, payload: bytes) -> Iterable[bytes]:
        if talk.up == 1 and talk.typed and isinstance(talk.hello.get("notebook_id"), str):
            return [encode({**talk.hello, "notebook_id": talk.hello["notebook_id"].lower()})]
        return [payload]


class TrimsBlobs(Fault):
    """Stores other bytes than it was given."""

    def up(self, talk: Talk, payload: bytes) -> Iterable[bytes]:
        blob = talk.hello.get("channel") == "blob" and talk.up == 3
        return [payload + b"\n"] if blob else [payload]


class OldTyped(Fault):
    """Version 1 with type bytes."""

    def down(self, talk: Talk, payload: bytes) -> Iterable[bytes]:
        old = talk.typed and talk.hello.get("protocol") != "v2"
        return [b"\0" + payload] if old else [payload]


FAULTS: dict[str, tuple[Fault, tuple[str, ...]]] = {
    "64 KiB for all frames": (ShortFrames(), ("later-frames-are-longer",)),
    "connections stay open": (
        StaysOpen(),
        ("first-frame-over-limit", "later-frame-over-limit", "bad-requests", "bad-sync-messages"),
    ),
    "says why it closes": (SaysWhy(), ("bad-first-frames", "strict-json", "bad-pool-requests", "typed-garbage")),
    "sync before capabilities": (SyncFirst(), ("version-2", "any-notebook-id")),
    "version 2 for all": (AlwaysVersion2(), ("version-1-by-default", "version-1-shares-the-room")),
    "version 1 with type bytes": (OldTyped(), ("version-1-by-default",)),
    "responses in pairs": (SwapsResponses(), ("responses-in-order",)),
    "responses last": (ResponsesLast(), ("broadcasts-behind-responses",)),
    "requests overtake edits": (LateEdits(), ("requests-see-edits",)),
    "edits are lost": (LosesEdits(), ("acknowledgement", "structure")),
    "pushes are lost": (LosesPushes(), ("fan-out", "concurrent-edits")),
    "frames of daemons close": (RefusesResponses(), ("daemon-frames-from-a-client",)),
    "unknown members close": (StrictRequests(), ("lenient-requests",)),
    "rooms are forgotten": (ForgetsRooms(), ("room-outlives-its-peers", "late-joiner")),
    "ids in lower case": (LowersIds(), ("rooms-by-id",)),
    "other bytes in blobs": (TrimsBlobs(), ("store-blob",)),
    "no pong": (
        Json_(lambda message: {"type": "ok"}, type="pong"),
        ("pool-in-order", "one-write", "first-frame-at-limit"),
    ),
    "no numbers": (Json_(lambda message: {**message, "stats": {}}, type="stats"), ("status",)),
    "peers are not counted": (
        Json_(
            lambda message: {**message, "rooms": [{**room, "active_peers": 1} for room in message["rooms"]]},
            type="rooms_list",
        ),
        ("list-rooms",),
    ),
    "other texts": (
        Json_(lambda message: {**message, "error": "not here"}, result="error"),
        ("unknown-cell", "requests-see-edits"),
    ),
    "a kernel of its own": (
        Json_(lambda message: {**message, "status": "idle"}, result="kernel_info"),
        ("no-launch-unasked",),
    ),
    "errors where there is no kernel": (
        Json_(lambda message: {"result": "error", "error": "No kernel running"}, result="no_kernel"),
        ("without-kernel",),
    ),
    "outputs stay": (
        Json_(lambda message: None, event="outputs_cleared"),
        ("clear-outputs", "broadcasts-behind-responses"),
    ),
    "no pool state": (Json_(lambda message: None, event="pool_state"), ("pool-state",)),
    "outputs as lists": (
        Json_(
            lambda message: {**message, "cells": [{**cell, "execution_count": 5} for cell in message["cells"]]},
            type="notebook_state",
        ),
        ("inspect-live-room",),
    ),
    "inspecting finds all": (
        Json_(lambda message: {"type": "notebook_state", "cells": []}, type="error"),
        ("inspect-unknown",),
    ),
}
"""Each fault, and the rules that must notice it."""
