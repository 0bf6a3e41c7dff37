"""The reference's daemon, emulated from its description, with the quirks that our client has to handle.

Source: protocol 2, sections 2 to 9 and 13.  Documents and sync states are the library's pure tier; everything else is
plain Python. One thread per connection waits for one of three inputs at a time, and takes one of those that are ready
by chance: a frame, the change signal, a broadcast (5.3). Cells are Python that runs in this process, with `display` and
`wait` (which ends by an interrupt) in its namespace.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import random
import select
import socket
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from interop.reference_kernel import Kernel, Store, recorded_orders
from runtimed_ffi.errors import RuntimedError
from runtimed_ffi.testing.replicas import Replica, SyncState, announcement, saturate
from runtimed_ffi.testing.wire import BROADCAST, CONTROL_LIMIT, REQUEST, RESPONSE, SYNC, Json, encode, frame, read_frame

RING = 64


@dataclass
class Quirks:
    """Faults that the reference has now and then, switched on permanently."""

    seed: int = 0
    only_v1: bool = False
    behind: bool = False
    """Connections fall behind while a cell runs: of more than 64 broadcasts the oldest are lost (5.14)."""
    withhold_to_client: float = 0.0
    """Share of the pushes whose changes a filter withholds; the client gets them on request."""
    withhold_from_client: bool = False
    """Every edit of the client comes without its changes, until the client requests them."""
    deaf: bool = False
    """Framing is lost: the daemon no longer understands the client, broadcasts go on (2.5)."""
    silent_death: bool = False
    """The kernel is dead: cells are queued and nothing happens (5.12)."""
    shutdowns: int = 2
    """So many shutdown requests stop the daemon (4.3)."""
    blobs: str = "beside"
    """`beside` the socket; else only by HTTP: the port in `daemon.json` (`file`), or asked for (`asked`)."""


class Room:
    """Document, kernel and peers of one notebook."""

    def __init__(self, daemon: ReferenceDaemon, notebook_id: str) -> None:
        self.daemon = daemon
        self.notebook_id = notebook_id
        self.lock = threading.RLock()
        self.document = Replica(notebook_id)
        self.peers: list[Connection] = []
        self.kernel: Kernel | None = None
        self.executing: str | None = None
        self.queue: deque[tuple[str, str]] = deque()

    def broadcast(self, event: str, **members: Any) -> None:
        data = encode({"event": event, **members})
        with self.lock:
            for peer in self.peers:
                peer.post(data)

    def change(self, *ops: Json) -> None:
        with self.lock:
            self.document.edit(*ops)
            self.changed()

    def changed(self) -> None:
        for peer in self.peers:
            peer.signal()

    def queue_changed(self) -> None:
        self.broadcast("queue_changed", executing=self.executing, queued=[cell for cell, _ in self.queue])

    def submit(self, cell_id: str, source: str) -> None:
        with self.lock:
            if cell_id == self.executing or any(cell == cell_id for cell, _ in self.queue):
                return
            self.queue.append((cell_id, source))
            self.queue_changed()
            self.start_next()

    def start_next(self) -> None:
        with self.lock:
            if self.executing is None and self.queue and self.kernel is not None:
                self.executing, source = self.queue.popleft()
                self.queue_changed()
                if not self.daemon.quirks.silent_death:
                    self.kernel.post(self.executing, source)


class Connection(threading.Thread):
    """One connection of any channel."""

    def __init__(self, daemon: ReferenceDaemon, connection: socket.socket) -> None:
        super().__init__(daemon=True)
        self.daemon_process = daemon
        self.socket = connection
        self.sync = SyncState()
        self.behind = False
        self.deaf = False
        self._chance = random.Random(f"{daemon.quirks.seed} {len(daemon.connections)}")
        self._ring: deque[bytes] = deque(maxlen=RING)
        self._changed = False
        self._typed = True
        self._reader, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self.start()

    def post(self, data: bytes) -> None:
        if self._typed:
            self._ring.append(data)
            self._wake()

    def signal(self) -> None:
        self._changed = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._waker.send(b"!")

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        try:
            self._serve()
        except (OSError, EOFError, ValueError, LookupError, AttributeError, AssertionError, RuntimedError):
            pass  # Every error ends the connection, without an answer (2.4).
        finally:
            for each in (self.socket, self._reader, self._waker):
                each.close()

    def _serve(self) -> None:
        handshake = json.loads(read_frame(self.socket, CONTROL_LIMIT))
        self.daemon_process.handshakes.append(handshake)
        channel = handshake["channel"]
        if channel == "pool":
            while True:
                answer = self.daemon_process.pool(json.loads(read_frame(self.socket)))
                self._send(encode(answer))
                self.daemon_process.after_pool()
        elif channel == "blob":
            while True:
                read_frame(self.socket)
                self._send(encode({"port": self.daemon_process.port}))
        elif channel == "notebook_sync":
            self._notebook(handshake)

    def _send(self, payload: bytes, kind: int | None = None) -> None:
        data = frame(payload if kind is None or not self._typed else bytes([kind]) + payload)
        self.socket.sendall(data[:4])
        self.socket.sendall(data[4:])

    def _notebook(self, handshake: Json) -> None:
        room = self.daemon_process.room(handshake["notebook_id"])
        self._typed = handshake.get("protocol") == "v2" and not self.daemon_process.quirks.only_v1
        if self._typed:
            self._send(encode({"protocol": "v2"}))
        with room.lock:
            room.peers.append(self)
            self._push(room, always=True)
        try:
            while True:
                self._step(room)
        finally:
            with room.lock:
                room.peers.remove(self)

    def _step(self, room: Room) -> None:
        watched = [self.socket, self._reader]
        idle = not (self._changed or (self._ring and not self.behind))
        readable = select.select(watched, [], [], None if idle else 0)[0]
        if self._reader in readable:
            self._reader.recv(4096)
        inputs: list[Callable[[], None]] = []
        if self.socket in readable:
            inputs.append(lambda: self._frame(room))
        if self._changed:
            inputs.append(lambda: self._push(room))
        if self._ring and not self.behind:
            inputs.append(lambda: self._send(self._ring.popleft(), BROADCAST))
        if inputs:
            self._chance.choice(inputs)()

    def _push(self, room: Room, always: bool = False) -> None:
        self._changed = False
        with room.lock:
            quirks = self.daemon_process.quirks
            if not always and self._chance.random() < quirks.withhold_to_client:
                self._send(announcement(room.document), SYNC)
                return
            message = self.sync.generate(room.document)
            if message is not None:
                self._send(saturate(message) if quirks.withhold_from_client else message, SYNC)

    def _frame(self, room: Room) -> None:
        if self.deaf:
            if not self.socket.recv(1 << 16):
                raise EOFError
            return
        payload = read_frame(self.socket)
        kind, body = (payload[0], payload[1:]) if self._typed else (SYNC, payload)
        if kind == SYNC:
            self._sync_frame(room, body)
        elif kind == REQUEST:
            if self.daemon_process.quirks.deaf:
                self.deaf = True
                return
            request = json.loads(body)
            self.daemon_process.requests.append(request)
            self._send(encode(self._request(room, request)), RESPONSE)
        else:
            raise ValueError("frame type")

    def _sync_frame(self, room: Room, body: bytes) -> None:
        with room.lock:
            self.sync.receive(room.document, body)
            room.changed()
            self._push(room, always=True)

    def _request(self, room: Room, request: Json) -> Json:
        action = request["action"]
        with room.lock:
            kernel = room.kernel
            if action == "launch_kernel":
                result = "kernel_launched" if kernel is None else "kernel_already_running"
                if kernel is None:
                    room.broadcast("kernel_status", status="starting", cell_id=None)
                    room.kernel = Kernel(room)
                    room.broadcast("kernel_status", status="idle", cell_id=None)
                return {"result": result, "kernel_type": "python", "env_source": "uv:prewarmed"}
            if action == "get_kernel_info":
                if kernel is None:
                    return {"result": "kernel_info", "kernel_type": None, "env_source": None, "status": "not_started"}
                status = "busy" if room.executing else "idle"
                return {
                    "result": "kernel_info",
                    "kernel_type": "python",
                    "env_source": "uv:prewarmed",
                    "status": status,
                }
            if action == "get_queue_state":
                queued = [cell for cell, _ in room.queue]
                return {"result": "queue_state", "executing": room.executing, "queued": queued}
            if action == "clear_outputs":
                cell_id = request["cell_id"]
                if room.document.cell(cell_id) is not None:
                    room.change({"op": "clear_outputs", "cell_id": cell_id})
                room.broadcast("outputs_cleared", cell_id=cell_id)
                return {"result": "outputs_cleared", "cell_id": cell_id}
            if action == "execute_cell":
                cell = room.document.cell(request["cell_id"])
                if cell is None:
                    return {"result": "error", "error": f"Cell not found in document: {request['cell_id']}"}
                if kernel is None:
                    return {"result": "no_kernel"}
                room.submit(cell["id"], cell["source"])
                return {"result": "cell_queued", "cell_id": cell["id"]}
            if kernel is None:
                return {"result": "no_kernel"}
            if action == "interrupt_execution":
                kernel.interrupt()
                return {"result": "interrupt_sent"}
            if action == "shutdown_kernel":
                room.broadcast("kernel_status", status="shutdown", cell_id=None)
                kernel.stop()
                room.kernel, room.executing = None, None
                room.queue.clear()
                return {"result": "kernel_shutting_down"}
        raise ValueError(action)


class ReferenceDaemon:
    """A daemon on a socket of its own; a context manager."""

    def __init__(self, directory: Path, quirks: Quirks | None = None) -> None:
        self.quirks = quirks or Quirks()
        self.path = str(directory / "runtimed.sock")
        self.orders = recorded_orders()
        self.store = Store(directory / ("blobs" if self.quirks.blobs == "beside" else "elsewhere"))
        self.rooms: dict[str, Room] = {}
        self.requests: list[Json] = []
        self.handshakes: list[Json] = []
        self.connections: list[Connection] = []
        self._shutdowns = 0
        self._lock = threading.Lock()
        self.stopped = threading.Event()
        self._http = self._serve_blobs()
        self.port = self._http.server_address[1]
        if self.quirks.blobs != "asked":
            info = {"endpoint": self.path, "pid": os.getpid(), "version": "0+", "blob_port": self.port}
            (directory / "daemon.json").write_text(json.dumps(info, indent=2))
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> ReferenceDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _serve_blobs(self) -> http.server.ThreadingHTTPServer:
        store = self.store

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = store.get(self.path[6:]) if self.path.startswith("/blob/") else None
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"Not Found")))
                self.end_headers()
                self.wfile.write(data or b"Not Found")

            def log_message(self, format: str, *_: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self.stopped.is_set():
                connection.close()
                return
            self.connections.append(Connection(self, connection))

    def room(self, notebook_id: str) -> Room:
        with self._lock:
            return self.rooms.setdefault(notebook_id, Room(self, notebook_id))

    def pool(self, request: Json) -> Json:
        kind = request["type"]
        if kind == "ping":
            return {"type": "pong"}
        if kind == "status":
            stats = {"uv_available": 3, "uv_warming": 0, "conda_available": 2, "conda_warming": 1}
            return {"type": "stats", "stats": stats}
        if kind == "flush_pool":
            return {"type": "flushed"}
        if kind == "list_rooms":
            return {"type": "rooms_list", "rooms": [self._room_facts(room) for room in self.rooms.values()]}
        if kind == "shutdown":
            self._shutdowns += 1
            return {"type": "shutting_down"}
        raise ValueError(kind)

    def _room_facts(self, room: Room) -> Json:
        facts: Json = {"notebook_id": room.notebook_id, "active_peers": len(room.peers), "has_kernel": False}
        if room.kernel is not None:
            status = "busy" if room.executing else "idle"
            facts.update(has_kernel=True, kernel_type="python", env_source="uv:prewarmed", kernel_status=status)
        return facts

    def after_pool(self) -> None:
        if self._shutdowns >= self.quirks.shutdowns:
            self.stop()

    def stop(self) -> None:
        """Everything ends at once, as with a killed process. Idempotent."""
        if self.stopped.is_set():
            return
        self.stopped.set()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as waker:
            waker.connect(self.path)
        self._listener.close()
        os.unlink(self.path)
        for connection in list(self.connections):
            connection.hang_up()
        for room in list(self.rooms.values()):
            if room.kernel is not None:
                room.kernel.stop()
        self._http.shutdown()
        self._http.server_close()
        for connection in list(self.connections):
            if connection is not threading.current_thread():
                connection.join(5)


@contextlib.contextmanager
def reference(directory: Path, **quirks: Any) -> Iterator[ReferenceDaemon]:
    """An emulated daemon with these quirks."""
    directory.mkdir(parents=True, exist_ok=True)
    with ReferenceDaemon(directory, Quirks(**quirks)) as daemon:
        yield daemon
