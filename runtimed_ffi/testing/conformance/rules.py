"""What a rule is, the list of all of them, and what they have to work with.

Storey: testing.
"""

from __future__ import annotations

import json
import select
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Callable

from runtimed_ffi.testing.peers import Peer, pump
from runtimed_ffi.testing.replicas import announced_heads
from runtimed_ffi.testing.wire import DATA_LIMIT, SYNC, Json, Violation, encode, frame


class Skipped(Exception):
    """A rule that cannot be judged here; the text says why."""


@dataclass(frozen=True)
class Rule:
    """One sentence of the specification that a daemon keeps or breaks."""

    name: str
    """A short word to name it by."""
    section: str
    """Where the specification says it."""
    title: str
    """The sentence."""
    must: bool
    """Whether clients rely on it. Otherwise it is a rule for new daemons which the reference's does not keep."""
    kernel: bool
    """Whether a kernel is started for it."""
    judge: Callable[[World], None]
    """Raises `Violation` with what is wrong."""


RULES: dict[str, Rule] = {}
"""All rules by name."""


def rule(section: str, title: str, *, must: bool = True, kernel: bool = False) -> Callable[[Any], Any]:
    """Make a function a rule; its name is the rule's."""

    def register(judge: Callable[[World], None]) -> Callable[[World], None]:
        name = judge.__name__.replace("_", "-")
        RULES[name] = Rule(name, section, title, must, kernel, judge)
        return judge

    return register


def expect(condition: object, otherwise: str) -> None:
    """Raise `Violation` unless the condition holds."""
    if not condition:
        raise Violation(otherwise)


class Link:
    """A connection of bare frames; every wait ends with the deadline of the rule.

    Threads: belongs to one thread.
    """

    def __init__(self, path: str, deadline: float) -> None:
        self._deadline = deadline
        self._in = b""
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Write bytes; what a daemon that has hung up does not take is no error here."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # Reading shows it.

    def send_json(self, value: Any) -> None:
        """One frame of JSON."""
        self.send(frame(encode(value)))

    def _read(self) -> bytes:
        """What comes next; empty at the end, however it comes (2.4)."""
        left = self._deadline - time.monotonic()
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if left <= 0 or not poll.poll(left * 1000):
            raise Violation("no answer within the time limit")
        try:
            return self._socket.recv(1 << 16)
        except ConnectionResetError:
            return b""

    def frame(self, what: str = "a frame") -> bytes:
        """The payload of the next frame."""
        while len(self._in) < 4 or len(self._in) < 4 + int.from_bytes(self._in[:4], "big"):
            if len(self._in) >= 4:
                expect(int.from_bytes(self._in[:4], "big") <= DATA_LIMIT, "a frame over the limit came")
            data = self._read()
            expect(data, f"the connection was closed where {what} was due")
            self._in += data
        end = 4 + int.from_bytes(self._in[:4], "big")
        payload, self._in = self._in[4:end], self._in[end:]
        return payload

    def json(self, what: str = "an answer") -> Any:
        """The next frame, which must be JSON."""
        payload = self.frame(what)
        try:
            return json.loads(payload)
        except ValueError:
            raise Violation(f"{what} is no JSON: {payload[:80]!r}") from None

    def end(self, what: str) -> None:
        """The daemon must close the connection and send nothing more."""
        data = self._in or self._read()
        expect(not data, f"{what} was answered with {data[:80]!r} instead of the end of the connection")


class World:
    """A daemon, and what a rule does with it; everything ends with the rule.

    Args:
        path: the daemon's socket.
        timeout: seconds a rule may take.
        kernel_type: the kernel type for `launch_kernel`.
        env_source: likewise.
    """

    def __init__(self, path: str, timeout: float, kernel_type: str, env_source: str) -> None:
        self.path = path
        self.timeout = timeout
        self.kernel_type = kernel_type
        self.env_source = env_source
        self.deadline = time.monotonic() + timeout
        self._exits = ExitStack()

    def close(self) -> None:
        """Hang up everywhere."""
        self._exits.close()

    def at_end(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Call something when the rule is over."""
        self._exits.callback(call, *arguments)

    def left(self) -> float:
        """Seconds the rule still has."""
        return self.deadline - time.monotonic()

    def room(self) -> str:
        """An unused id that starts no kernel by itself (9.5)."""
        return f"conformance-{uuid.uuid4()}"

    def link(self, hello: bytes = b"") -> Link:
        """A connection that says these bytes first."""
        link = Link(self.path, self.deadline)
        self.at_end(link.close)
        link.send(hello)
        return link

    def pool(self) -> Link:
        """A pool connection."""
        return self.link(frame(encode({"channel": "pool"})))

    def ask_pool(self, request: Json) -> Json:
        """One request on a pool connection of its own."""
        link = self.pool()
        link.send_json(request)
        answer: Json = link.json(f"the answer to {request['type']}")
        return answer

    def alive(self) -> None:
        """The daemon must still answer other clients."""
        expect(self.ask_pool({"type": "ping"}).get("type") == "pong", "ping is not answered by pong")

    def peer(self, room: str | None = None) -> Peer:
        """A peer that has what the room has, and says nothing of our additions to the protocol."""
        peer = Peer(self.path, self.room() if room is None else room, plain=True)
        self.at_end(peer.close)
        self.wait([peer], peer.converged, "the first synchronisation")
        return peer

    def wait(self, peers: list[Peer], condition: Callable[[], Any], what: str) -> None:
        """Read and write for these peers until the condition holds; an end of one of them is a violation."""
        pump(peers, lambda: condition() or any(peer.ended for peer in peers), self.left(), what)
        for peer in peers:
            expect(not peer.ended or condition(), f"{what}: {peer.ended}")

    def ask(self, peer: Peer, action: str, **members: Any) -> Json:
        """A request and its response."""
        number = peer.post(action, **members)
        self.wait([peer], lambda: number in peer.responses, f"the response to {action}")
        return peer.responses[number]

    def ended(self, peer: Peer, what: str) -> None:
        """The daemon must hang up."""
        pump([peer], lambda: peer.ended, self.left(), f"the end of the connection behind {what}")

    def settle(self, *peers: Peer) -> None:
        """Until each has what all the others wrote (the barrier of 5.5)."""
        for _ in range(2):
            for peer in peers:
                peer.answer()
                number = peer.post_barrier()
                self.wait([peer], lambda n=number, p=peer: n in p.responses and p.converged(), "the barrier")  # type: ignore[misc]

    def launch(self, peer: Peer) -> Json:
        """Start a kernel, which is shut down with the rule."""
        self.at_end(self._shut_down, peer)
        answer = self.ask(
            peer, "launch_kernel", kernel_type=self.kernel_type, env_source=self.env_source, notebook_path=None
        )
        if answer.get("result") == "error":
            raise Skipped(f"no kernel: {answer.get('error')}")
        return answer

    def _shut_down(self, peer: Peer) -> None:
        if not peer.ended:
            self.deadline = max(self.deadline, time.monotonic() + 5)
            self.ask(peer, "shutdown_kernel")


def first_heads(payload: bytes) -> set[bytes]:
    """The heads a first sync frame (with its type byte) announces; a violation if it is none."""
    try:
        expect(payload[0] == SYNC, f"the second frame has type 0x{payload[0]:02x}, not sync")
        return announced_heads(payload[1:])
    except (ValueError, IndexError):
        raise Violation(f"the second frame is no sync message: {payload[:20]!r}") from None


def insert(cell_id: str, source: str = "", cell_type: str = "code") -> Json:
    """The operation that inserts a cell."""
    return {"op": "insert_cell", "cell_id": cell_id, "cell_type": cell_type, "source": source}


def in_order() -> list[Rule]:
    """All rules in the order of their sections."""
    return sorted(RULES.values(), key=lambda each: [int(number) for number in each.section.split(".")])


def selected(words: list[str] | None, kernel: bool) -> Iterator[Rule]:
    """The selected rules: by name, by section, or by the beginning of a section (``5`` means all of 5)."""
    for each in in_order():
        named = not words or any(
            word in (each.name, each.section) or each.section.startswith(word + ".") for word in words
        )
        if named and (kernel or not each.kernel):
            yield each
