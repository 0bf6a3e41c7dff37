"""Peers that share no code with `Session`: plain sockets, and replicas of the library's pure tier.

Storey: testing. Nothing here blocks but `pump`, which reads for all peers that are not slow, and ends with
the condition it was given or fails at its deadline. Source: protocol 2, sections 2, 3 and 5; additional members:
docs/protocol.md.

Threads: a peer belongs to one thread.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import time
from collections.abc import Iterable
from typing import Any, Callable

from runtimed_ffi.testing.replicas import Replica, SyncState, announcement
from runtimed_ffi.testing.wire import (
    BROADCAST,
    REQUEST,
    RESPONSE,
    SYNC,
    Json,
    Violation,
    encode,
    frame,
    notebook_handshake,
    read_frame,
    typed,
)

LIMIT = 60.0
"""Seconds until a wait for something that must come is a failure."""

_CHUNK = 1 << 18


class Peer:
    """One connection to a room.

    `broadcasts` are all broadcasts in the order they came, `responses` the responses by the number that `post` gave.
    `document` may be a replica of an earlier connection; the sync state is always fresh.

    Args:
        path: the daemon's socket.
        notebook_id: the room.
        document: a replica; a new, empty one if `None`.
        plain: say nothing of our additions (`rtd`, `request_id`), so that responses are matched by their order.

    Raises:
        OSError: no daemon accepts at the socket.
    """

    def __init__(self, path: str, notebook_id: str, document: Replica | None = None, *, plain: bool = False) -> None:
        self.notebook_id = notebook_id
        self.plain = plain
        self.document = document or Replica()
        self.sync = SyncState()
        self.broadcasts: list[Json] = []
        self.responses: dict[int, Json] = {}
        self.arrived: list[tuple[int, Json]] = []
        """Responses and broadcasts in order of arrival, with the type of their frame."""
        self.posted = 0
        self.frames = 0
        """Frames that have come."""
        self.ready = False
        """Whether the first sync message has come."""
        self.ended = ""
        """Why the connection has ended; empty while it has not."""
        self.slow = False
        """A slow peer is not read from by `pump`."""
        self._in = bytearray()
        self._out = bytearray()
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(5)
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self.send_raw(notebook_handshake(notebook_id, **({} if plain else {"rtd": 1})))

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the connection without a message."""
        self.ended = self.ended or "closed"
        self._socket.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- writing

    def send_raw(self, data: bytes) -> None:
        """Any bytes; what the socket does not take at once goes out with the next `pump`."""
        self._out += data
        self.flush()

    def flush(self) -> None:
        """Write what the socket takes now."""
        try:
            while self._out and not self.ended:
                sent = self._socket.send(self._out[:_CHUNK])
                del self._out[:sent]
        except BlockingIOError:
            pass
        except OSError:
            # The daemon's earlier bytes are still to be read; the end shows there.
            self._out.clear()

    @property
    def unsent(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._out)

    def edit(self, *ops: Json) -> None:
        """Edit the replica and send the change."""
        self.document.edit(*ops)
        self.answer()

    def answer(self) -> None:
        """Send the sync state's next message, if there is one."""
        if not self.ready:
            return  # A client must not send its heads before the daemon's first message (7.2).
        message = self.sync.generate(self.document)
        if message is not None:
            self.send_raw(typed(SYNC, message))

    def post(self, action: str, **members: Any) -> int:
        """Send a request and return its number."""
        self.posted += 1
        number = {} if self.plain else {"request_id": self.posted}
        self.send_raw(typed(REQUEST, encode({"action": action, **members, **number})))
        return self.posted

    def post_barrier(self) -> int:
        """Request a barrier: the response comes after all changes before it.

        If the daemon is ours, it comes after all broadcasts too.
        """
        if not self.plain:
            return self.post("get_queue_state", sync=True)
        self.send_raw(typed(SYNC, announcement(self.document)))
        return self.post("get_queue_state")

    # -- reading

    def read(self) -> None:
        """Take what is there now."""
        while not self.ended:
            try:
                data = self._socket.recv(_CHUNK)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            if not data:
                self.ended = "the daemon hung up"
                return
            self._in += data
            if self._frames():
                self.answer()
            if len(data) < _CHUNK:
                return

    def _frames(self) -> bool:
        synced = False
        while len(self._in) >= 4:
            (length,) = struct.unpack_from(">I", self._in)
            if len(self._in) < 4 + length:
                break
            payload = bytes(self._in[4 : 4 + length])
            del self._in[: 4 + length]
            self.frames += 1
            if not self._take_first(payload):
                synced = self._take(payload) or synced
        return synced

    _capabilities: Json | None = None

    def _take_first(self, payload: bytes) -> bool:
        if self._capabilities is not None:
            return False
        self._capabilities = json.loads(payload)
        if self._capabilities.get("protocol") != "v2":
            raise Violation(f"the first frame is no capabilities of protocol 2: {payload!r}")
        return True

    def _take(self, payload: bytes) -> bool:
        kind, body = payload[0], payload[1:]
        if kind == SYNC:
            self.sync.receive(self.document, body)
            self.ready = True
            return True
        content = json.loads(body)
        self.arrived.append((kind, content))
        if kind == RESPONSE:
            number = len(self.responses) + 1 if self.plain else content["request_id"]
            if not 0 < number <= self.posted:
                raise Violation(f"a response without a request: {content}")
            if number in self.responses:
                raise Violation(f"two responses to one request: {content}")
            self.responses[number] = content
        elif kind == BROADCAST:
            self.broadcasts.append(content)
        else:
            raise Violation(f"frame type {kind}")
        return False

    def converged(self) -> bool:
        """Whether the replica has what the room has, as far as the messages show."""
        return self.ready and self.sync.converged(self.document)

    def of(self, event: str, **members: Any) -> list[Json]:
        """The broadcasts of this shape."""
        wanted = {"event": event, **members}
        return [b for b in self.broadcasts if all(b.get(name) == value for name, value in wanted.items())]


def pump(peers: Iterable[Peer], condition: Callable[[], Any], seconds: float = LIMIT, what: str = "") -> None:
    """Read and write for all peers until the condition holds; a peer that is slow is not read.

    Raises:
        Violation: it does not hold within `seconds`, or all connections have ended before.
    """
    peers = list(peers)
    deadline = time.monotonic() + seconds
    while not condition():
        left = deadline - time.monotonic()
        alive = [peer for peer in peers if not peer.ended]
        reads = [peer for peer in alive if not peer.slow]
        writes = [peer for peer in alive if peer.unsent]
        if left <= 0 or not (reads or writes):
            ends = [(peer.notebook_id, peer.ended, peer.broadcasts[-3:]) for peer in peers]
            raise Violation(f"not within {seconds:g} seconds: {what or condition}; {ends}")
        poll = select.poll()
        for peer in {*reads, *writes}:
            poll.register(peer, (peer in reads) * select.POLLIN | (peer in writes) * select.POLLOUT)
        ready = {descriptor for descriptor, _ in poll.poll(left * 1000)}
        # Neither call waits; what is not ready stays.
        for peer in [peer for peer in writes if peer.fileno() in ready]:
            peer.flush()
        for peer in [peer for peer in reads if peer.fileno() in ready]:
            peer.read()


def ask(peer: Peer, action: str, *, others: Iterable[Peer] = (), **members: Any) -> Json:
    """A request and its response."""
    number = peer.post(action, **members)
    pump([peer, *others], lambda: number in peer.responses or peer.ended, what=action)
    if number not in peer.responses:
        raise Violation(f"{action}: {peer.ended}")
    return peer.responses[number]


def join(path: str, notebook_id: str, document: Replica | None = None) -> Peer:
    """A peer that has what the room has."""
    peer = Peer(path, notebook_id, document)
    try:
        pump([peer], lambda: peer.converged() or peer.ended, what="joining")
        if peer.ended:
            raise Violation(f"joining {notebook_id!r}: {peer.ended}")
    except BaseException:
        peer.close()
        raise
    return peer


def settle(peers: Iterable[Peer]) -> None:
    """Until every peer that is connected has every change of every other, and all broadcasts up to here.

    First each one's changes reach the daemon, then each gets what the daemon has by then.
    """
    peers = [peer for peer in peers if not peer.ended]
    for _ in range(2):
        barriers = {}
        for peer in peers:
            peer.answer()
            barriers[peer] = peer.post_barrier()

        def settled(barriers: dict[Peer, int] = barriers) -> bool:
            done = (number in peer.responses and peer.converged() for peer, number in barriers.items())
            return all(one or peer.ended for one, peer in zip(done, barriers))

        pump(peers, settled, what="settling")


def pool(path: str, request: Json) -> Json:
    """One request on the pool channel."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
        connection.settimeout(LIMIT)
        connection.connect(path)
        connection.sendall(frame(encode({"channel": "pool"})) + frame(encode(request)))
        answer: Json = json.loads(read_frame(connection))
        return answer
