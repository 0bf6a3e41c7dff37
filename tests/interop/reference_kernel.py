"""The kernel and the blob store of the emulated reference's daemon.

Source: protocol 2, sections 5.9, 5.10 and 8.
"""

from __future__ import annotations

import builtins
import hashlib
import json
import random
import threading
import traceback
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interop import golden
from runtimed_ffi.testing.wire import Json, encode

if TYPE_CHECKING:
    from interop.reference_daemon import Room

INLINE = 8192


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
