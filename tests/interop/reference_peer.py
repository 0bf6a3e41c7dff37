"""Peers that read and write as the reference's client does: its frames, its strict parsing, its way of writing.

Source: protocol 2, sections 2, 4 and 5. `reference_client` has the client itself.
"""

from __future__ import annotations

import json
import select
import socket
import time
from typing import Any, Callable

from runtimed_ffi.testing.replicas import Replica, SyncState
from runtimed_ffi.testing.wire import (
    BROADCAST,
    DATA_LIMIT,
    NAMES,
    REQUEST,
    RESPONSE,
    SYNC,
    Json,
    encode,
    frame,
    read_frame,
)

CONNECT_SECONDS = 2.0


class Failure(Exception):
    """What the reference raises as `RuntimedError`; the text is the contract."""


class Broken(AssertionError):
    """The daemon sent what ends the reference's connection task."""


class _Optional:
    def __init__(self, kind: Any) -> None:
        self.kind = kind


class _Absent:
    """A member that may be missing."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind


_CELL = _Optional(str)
BROADCASTS: dict[str, dict[str, Any]] = {
    "kernel_status": {"status": str, "cell_id": _CELL},
    "execution_started": {"cell_id": str, "execution_count": int},
    "output": {"cell_id": str, "output_type": str, "output_json": str},
    "display_update": {"display_id": str, "data": dict, "metadata": dict},
    "execution_done": {"cell_id": str},
    "queue_changed": {"executing": _CELL, "queued": [str]},
    "kernel_error": {"error": str},
    "outputs_cleared": {"cell_id": str},
    "comm": {"msg_type": str, "content": dict, "buffers": _Absent([[int]])},
    "comm_sync": {"comms": [dict]},
}
RESPONSES: dict[str, dict[str, Any]] = {
    "kernel_launched": {"kernel_type": str, "env_source": str},
    "kernel_already_running": {"kernel_type": str, "env_source": str},
    "cell_queued": {"cell_id": str},
    "outputs_cleared": {"cell_id": str},
    "interrupt_sent": {},
    "kernel_shutting_down": {},
    "no_kernel": {},
    "kernel_info": {"kernel_type": _Optional(str), "env_source": _Optional(str), "status": str},
    "queue_state": {"executing": _CELL, "queued": [str]},
    "all_cells_queued": {"count": int},
    "notebook_saved": {},
    "ok": {},
    "error": {"error": str},
    "history_result": {"entries": [dict]},
    "completion_result": {"items": [dict], "cursor_start": int, "cursor_end": int},
}


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, _Optional):
        return value is None or _fits(value, kind.kind)
    if isinstance(kind, _Absent):
        return _fits(value, kind.kind)
    if isinstance(kind, list):
        return isinstance(value, list) and all(_fits(item, kind[0]) for item in value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def parse(payload: bytes, tag: str, variants: dict[str, dict[str, Any]]) -> Json:
    """One message, as strictly as the reference takes it."""
    value = json.loads(payload)
    if not isinstance(value, dict) or value.get(tag) not in variants:
        raise Broken(f"unknown {tag}: {payload[:200]!r}")
    for name, kind in variants[value[tag]].items():
        if name not in value and isinstance(kind, (_Absent, _Optional)):
            continue
        if name not in value or not _fits(value[name], kind):
            raise Broken(f"member {name} of {payload[:200]!r}")
    return value


class Peer:
    """A notebook connection that notes every frame: `(sender, kind, content)`, in the order of the stream."""

    def __init__(self, path: str, notebook_id: str, protocol: str | None = "v2") -> None:
        self.document = Replica()
        self.sync = SyncState()
        self.stream: list[tuple[str, str, Any]] = []
        self.early: list[Json] = []
        """Output broadcasts whose output was not in the document when they came (14.2 wants none)."""
        self._known: set[str] = set()
        self._buffer = bytearray()
        self._typed = protocol == "v2"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(CONNECT_SECONDS)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise Failure(f"Failed to connect: {error.strerror} (os error {error.errno})") from error
        self._socket.settimeout(None)
        handshake: Json = {"channel": "notebook_sync", "notebook_id": notebook_id}
        if protocol is not None:
            handshake["protocol"] = protocol
        self._write(encode(handshake))

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def broadcasts(self) -> list[Json]:
        return [content for _, kind, content in self.stream if kind == "broadcast"]

    @property
    def responses(self) -> list[Json]:
        return [content for _, kind, content in self.stream if kind == "response"]

    def fileno(self) -> int:
        return self._socket.fileno()

    def _write(self, payload: bytes) -> None:
        data = frame(payload)
        self._socket.sendall(data[:4])
        self._socket.sendall(data[4:])

    def _read(self, seconds: float | None) -> bytes | None:
        """The next frame's payload, `None` when it is not complete in time. What came of it is kept."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            if len(self._buffer) >= 4:
                length = int.from_bytes(self._buffer[:4], "big")
                if length > DATA_LIMIT:
                    raise Broken(f"frame too large: {length}")
                if len(self._buffer) >= 4 + length:
                    payload = bytes(self._buffer[4 : 4 + length])
                    del self._buffer[: 4 + length]
                    return payload
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._socket], [], [], left)[0]:
                return None
            data = self._socket.recv(1 << 20)
            if not data:
                raise Failure("Disconnected")
            self._buffer += data

    def read(self, seconds: float | None) -> tuple[int, Any] | None:
        """The next typed frame, parsed and noted; `None` when none comes in time."""
        payload = self._read(seconds)
        if payload is None:
            return None
        if not self._typed:
            return self._note(SYNC, payload)
        if not payload or payload[0] > BROADCAST:
            raise Broken(f"frame type of {payload[:50]!r}")
        return self._note(payload[0], payload[1:])

    def _note(self, kind: int, body: bytes) -> tuple[int, Any]:
        content: Any = body
        if kind == RESPONSE:
            content = parse(body, "result", RESPONSES)
        elif kind == BROADCAST:
            content = parse(body, "event", BROADCASTS)
            known = content["event"] != "output" or self._holds(content["output_json"])
            if not known and self.document.cell(content["cell_id"]) is not None:
                self.early.append(content)
        elif kind == REQUEST:
            raise Broken("a request from the daemon")
        name = ("sync", "request", "response", "broadcast")[kind]
        self.stream.append(("daemon", name, content))
        return kind, content

    def _holds(self, element: str) -> bool:
        """Whether the document has had an output: as it is, or its text merged with what was printed before it."""
        if element in self._known:
            return True
        if not element.startswith('{"output_type":"stream"'):
            return False
        text = json.loads(element)["text"]
        # A text in a blob is not compared.
        return any(known[:1] != "{" or text in json.loads(known).get("text", "") for known in self._known)

    def send(self, kind: int, body: bytes) -> None:
        self.stream.append(("client", NAMES[kind], body if kind == SYNC else json.loads(body)))
        self._write(bytes([kind]) + body if self._typed else body)

    def apply(self, message: bytes) -> None:
        self.sync.receive(self.document, message)
        for cell in self.document.cells():
            self._known.update(cell["outputs"])

    def answer(self) -> None:
        message = self.sync.generate(self.document)
        if message is not None:
            self.send(SYNC, message)


class PromptPeer(Peer):
    """A client that reads without delay and answers every sync frame; for protocol 1 as well.

    It stands for the raw client of the recordings, and for tests that look at what the daemon sends.
    """

    def __init__(self, path: str, notebook_id: str, protocol: str | None = "v2") -> None:
        super().__init__(path, notebook_id, protocol)
        if self._typed:
            payload = self._read(10.0)
            assert payload is not None, "no capabilities"
            self.capabilities = json.loads(payload)
            assert self.capabilities["protocol"] == "v2"
        first = self.read(10.0)
        assert first is not None and first[0] == SYNC, first
        self._take(*first)
        self.until(lambda: self.sync.converged(self.document))

    def _take(self, kind: int, content: Any) -> None:
        if kind == SYNC:
            self.apply(content)
            self.answer()

    def until(self, condition: Callable[[], Any], seconds: float = 30.0) -> None:
        """Read until the condition is true."""
        deadline = time.monotonic() + seconds
        while not condition():
            got = self.read(max(0.0, deadline - time.monotonic()))
            assert got is not None, "nothing came any more; the last frames: " + repr(self.stream[-5:])
            self._take(*got)

    def read_for(self, seconds: float) -> None:
        """Read what comes in this time."""
        deadline = time.monotonic() + seconds
        while True:
            got = self.read(max(0.0, deadline - time.monotonic()))
            if got is None:
                return
            self._take(*got)

    def edit(self, *ops: Json) -> None:
        self.document.edit(*ops)
        self.answer()

    def add(self, cell_id: str, source: str, cell_type: str = "code") -> None:
        self.edit({"op": "insert_cell", "cell_id": cell_id, "cell_type": cell_type, "source": ""})
        self.edit({"op": "set_source", "cell_id": cell_id, "source": source})

    def settle(self) -> None:
        """Until both documents are equal."""
        self.until(lambda: self.sync.converged(self.document))

    def post(self, action: str, **members: Any) -> None:
        self.send(REQUEST, encode({"action": action, **members}))

    def request(self, action: str, **members: Any) -> Json:
        count = len(self.responses)
        self.post(action, **members)
        self.until(lambda: len(self.responses) > count)
        return self.responses[count]

    def wait_broadcast(self, event: str, seconds: float = 30.0, **members: Any) -> Json:
        """The first broadcast of this shape that no earlier call returned."""
        found: list[Json] = []

        def there() -> bool:
            for place in range(self._position, len(self.stream)):
                _, kind, content = self.stream[place]
                wanted = {"event": event, **members}
                if kind == "broadcast" and all(content.get(name) == value for name, value in wanted.items()):
                    self._position = place + 1
                    found.append(content)
                    return True
            return False

        self.until(there, seconds)
        return found[0]

    _position = 0

    def wait_idle_queue(self, seconds: float = 30.0) -> None:
        """Until the queue is empty, asked by request (which later broadcasts cannot precede)."""
        self.wait_broadcast("queue_changed", seconds, executing=None, queued=[])


def pool(path: str, *requests: Json, seconds: float = 30.0) -> list[str]:
    """Requests on one pool connection, the answers as text; `EOF` where the daemon closed the connection."""
    answers = []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        connection.connect(path)
        for message in ({"channel": "pool"}, *requests):
            data = frame(encode(message))
            try:
                connection.sendall(data[:4])
                connection.sendall(data[4:])
                if "channel" in message:
                    continue
                answers.append(_pool_answer(connection))
            except (BrokenPipeError, ConnectionResetError, EOFError):
                answers.append("EOF")
                break
    return answers


def _pool_answer(connection: socket.socket) -> str:
    return read_frame(connection).decode("utf-8")
