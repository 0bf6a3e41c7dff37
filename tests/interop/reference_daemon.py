"""The reference's daemon, emulated from its description, quirks included: what our client has to live with.

Source: protocol 2, sections 2 to 9 and 13.  Documents and sync states are the library's pure tier; everything else is
plain Python. One thread per connection waits for one of three inputs at a time, and takes one of those that are ready
by chance: a frame, the change signal, a broadcast (5.3). Cells are Python that runs in this process, with `display` and
`wait` (which ends by an interrupt) in its namespace.
"""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import http.server
import json
import os
import random
import select
import socket
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from interop import golden
from runtimed_ffi.errors import RuntimedError
from runtimed_ffi.testing.replicas import Replica, SyncState, announcement, saturate
from runtimed_ffi.testing.wire import BROADCAST, CONTROL_LIMIT, REQUEST, RESPONSE, SYNC, Json, encode, frame, read_frame

RING = 64
INLINE = 8192


@dataclass
class Quirks:
    """What the reference does now and then, switched on for good."""

    seed: int = 0
    only_v1: bool = False
    behind: bool = False
    """Connections fall behind while a cell runs: of more than 64 broadcasts the oldest are lost (5.14)."""
    withhold_to_client: float = 0.0
    """Share of the pushes whose changes a filter withholds; the client gets them when it asks."""
    withhold_from_client: bool = False
    """Every edit of the client comes without its changes, until they are asked for."""
    deaf: bool = False
    """Framing is lost: nothing the client sends is understood any more, broadcasts go on (2.5)."""
    silent_death: bool = False
    """The kernel is dead: cells are queued and nothing happens (5.12)."""
    shutdowns: int = 2
    """So many shutdown requests stop the daemon (4.3)."""
    blobs: str = "beside"
    """`beside` the socket; else only by HTTP: the port in `daemon.json` (`file`), or asked for (`asked`)."""


def recorded_orders() -> list[str]:
    """How the ends of failing executions were ordered in the recording: E error, Q queue cleared, I idle, D done,
    F final queue_changed."""
    orders: list[str] = []
    current: str | None = None
    executing = None
    for event in golden.frames("error-orderings", "broadcast"):
        if event["event"] == "execution_started":
            current, executing = "", event["cell_id"]
            orders.append("")
        if current is None:
            continue
        token = ""
        if event["event"] == "output" and event["output_type"] == "error":
            token = "E"
        elif event["event"] == "execution_done":
            token = "D"
        elif event["event"] == "kernel_status" and event["status"] == "idle" and event["cell_id"] == executing:
            token = "I"
        elif event["event"] == "queue_changed" and event["executing"] == executing and "E" in orders[-1]:
            token = "Q"
        elif event["event"] == "queue_changed" and event["executing"] is None and not event["queued"]:
            token = "F"
        orders[-1] += token
    return sorted({order for order in orders if sorted(order) == sorted("EQIDDF")})


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


class Kernel(threading.Thread):
    """Runs sources one after the other and sends what a kernel's messages become (5.9, 5.10)."""

    def __init__(self, room: Room) -> None:
        super().__init__(daemon=True)
        self.room = room
        self.count = 0
        self.namespace: Json = {"__builtins__": builtins, "display": self.display, "wait": self.wait}
        self._work: deque[tuple[str, str] | None] = deque()
        self._ready = threading.Semaphore(0)
        self._interrupt = threading.Event()
        self._over = False
        self._cell = ""
        self.start()

    def post(self, cell_id: str, source: str) -> None:
        # Here, under the room's lock: an interrupt that comes before the thread begins is for this cell already.
        self._interrupt.clear()
        self._work.append((cell_id, source))
        self._ready.release()

    def stop(self) -> None:
        self._over = True
        self._interrupt.set()
        self._work.append(None)
        self._ready.release()

    def interrupt(self) -> None:
        self._interrupt.set()

    def wait(self) -> None:
        self._interrupt.wait()
        raise KeyboardInterrupt

    def display(self, value: Any) -> None:
        data = value if isinstance(value, dict) else {"text/plain": repr(value)}
        self.output({"output_type": "display_data", "data": data, "metadata": {}})

    def output(self, output: Json) -> None:
        if self._over:
            return
        room = self.room
        element = room.daemon.store.manifest(output)
        if room.document.cell(self._cell) is not None:
            room.change({"op": "append_outputs", "cell_id": self._cell, "outputs": [element]})
        kind = output["output_type"]
        room.broadcast("output", cell_id=self._cell, output_type=kind, output_json=element)

    def write(self, text: str) -> int:
        if text:
            self.output({"output_type": "stream", "name": "stdout", "text": text})
        return len(text)

    def flush(self) -> None:
        pass

    def run(self) -> None:
        while True:
            self._ready.acquire()
            work = self._work.popleft()
            if work is None:
                return
            self._execute(*work)

    def _execute(self, cell_id: str, source: str) -> None:
        room, self._cell = self.room, cell_id
        with room.lock:
            for peer in room.peers:
                peer.behind = room.daemon.quirks.behind
        room.broadcast("kernel_status", status="busy", cell_id=cell_id)
        self.count += 1
        room.broadcast("execution_started", cell_id=cell_id, execution_count=self.count)
        error = self._evaluate(source)
        if self._over:
            return
        order = random.Random(f"{room.daemon.quirks.seed} {self.count}").choice(room.daemon.orders) if error else "IDF"
        for token in order:
            self._end(token, cell_id, error)
        with room.lock:
            for peer in room.peers:
                peer.behind = False
                peer.signal()

    def _end(self, token: str, cell_id: str, error: Json | None) -> None:
        room = self.room
        if token == "E" and error is not None:
            self.output(error)
        elif token == "Q":
            with room.lock:
                room.queue.clear()
                room.queue_changed()
        elif token == "I":
            room.broadcast("kernel_status", status="idle", cell_id=cell_id)
        elif token == "D":
            room.broadcast("execution_done", cell_id=cell_id)
        elif token == "F":
            with room.lock:
                room.executing = None
                room.queue_changed()
                room.start_next()

    def _evaluate(self, source: str) -> Json | None:
        try:
            lines = source.rstrip().rsplit("\n", 1)
            self.namespace["print"] = lambda *parts, **_: self.write(" ".join(map(str, parts)) + "\n")
            try:
                last = compile(lines[-1], "<cell>", "eval")
                exec(compile("\n".join(lines[:-1]), "<cell>", "exec"), self.namespace)
                value = eval(last, self.namespace)
                if value is not None:
                    data = {"text/plain": repr(value)}
                    result = {"output_type": "execute_result", "data": data, "execution_count": self.count}
                    self.output({**result, "metadata": {}})
            except SyntaxError:
                exec(compile(source, "<cell>", "exec"), self.namespace)
        except BaseException as caught:
            lines = traceback.format_exception(type(caught), caught, caught.__traceback__)
            return {
                "output_type": "error",
                "ename": type(caught).__name__,
                "evalue": str(caught),
                "traceback": [line.rstrip() for line in lines],
            }
        return None


class Store:
    """Blobs on disk, as section 8.4 has them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def put(self, data: bytes, media_type: str) -> str:
        name = hashlib.sha256(data).hexdigest()
        place = self.directory / name[:2] / name[2:]
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_name(f".tmp.{threading.get_ident()}")
            part.write_bytes(data)
            part.rename(place)
            meta = {"media_type": media_type, "size": len(data), "created_at": "2026-01-01T00:00:00Z"}
            place.with_name(place.name + ".meta").write_text(json.dumps(meta))
        return name

    def get(self, name: str) -> bytes | None:
        place = self.directory / name[:2] / name[2:]
        return place.read_bytes() if place.exists() else None

    def _content(self, text: str, media_type: str) -> Json:
        data = text.encode("utf-8")
        return {"inline": text} if len(data) < INLINE else {"blob": self.put(data, media_type), "size": len(data)}

    def manifest(self, output: Json) -> str:
        kind = output["output_type"]
        manifest: Json = {"output_type": kind}
        if kind == "stream":
            manifest.update(name=output["name"], text=self._content(output["text"], "text/plain"))
        elif kind == "error":
            lines = self._content(json.dumps(output["traceback"]), "application/json")
            manifest.update(ename=output["ename"], evalue=output["evalue"], traceback=lines)
        else:
            manifest["data"] = {mime: self._content(text, mime) for mime, text in output["data"].items()}
            if kind == "execute_result":
                manifest["execution_count"] = output["execution_count"]
        return self.put(encode(manifest), "application/x-jupyter-output+json")


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
            pass  # Every error ends the connection, without a word (2.4).
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
