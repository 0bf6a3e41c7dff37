"""Stand-ins for a connection, in pure Python over a socket pair: what the router and the session are tested against."""

from __future__ import annotations

import json
import signal
import socket
import threading
import uuid
from collections import deque
from dataclasses import replace
from typing import Any, Callable

from runtimed_ffi._binding.events import Event, EventKind
from runtimed_ffi.errors import CellNotFoundError, DisconnectedError

OUT = {"output_type": "stream", "name": "stdout", "text": "hi\n"}
FAIL = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": ["t"]}

SECONDS = 20.0
"""Seconds that a test waits at most."""


class FakeSource:
    """The events of a connection, as `NativeSession` gives them: a descriptor that is readable while one waits."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._lock = threading.Lock()
        self._waiting: deque[Event] = deque()
        self._current: Event | None = None
        self._confirmed = 0
        self._seq = 0
        self.closes = 0
        self.idle = threading.Event()
        """Set when a consumer found nothing and is about to poll."""
        self.fd = self._reader.fileno()

    def push(self, *pushed: Event) -> None:
        """Queue events, in one step."""
        with self._lock:
            self.idle.clear()
            for event in pushed:
                self._seq += 1
                self._waiting.append(replace(event, seq=self._seq))
            self._writer.send(b"x" * len(pushed))

    def next_event(self) -> Event | None:
        with self._lock:
            if self._current is None or self._current.seq <= self._confirmed:
                if not self._waiting:
                    self.idle.set()
                    return None
                self._current = self._waiting.popleft()
                self._reader.recv(1)
            return self._current

    def confirm(self, seq: int) -> None:
        self._confirmed = seq

    def close(self) -> None:
        self.closes += 1


class FakeNative(FakeSource):
    """A `NativeSession` with a room of its own, whose kernel is a function of the test."""

    def __init__(self, socket_path: str = "", notebook_id: str = "", *, connect_timeout_ms: int = 0) -> None:
        super().__init__()
        self.notebook_id = notebook_id
        self.document: dict[str, dict[str, Any]] = {}
        self.requests: list[dict[str, Any]] = []
        self.timeouts: list[int] = []
        self.answers: dict[str, Any] = {
            "launch_kernel": {"result": "kernel_launched", "kernel_type": "python", "env_source": "uv:prewarmed"},
            "shutdown_kernel": {"result": "kernel_shutting_down"},
            "interrupt_execution": {"result": "interrupt_sent"},
            "run_all_cells": {"result": "all_cells_queued", "count": 2},
        }
        self.on_execute: Callable[[int, str], None] = lambda token, cell_id: self.finish(token, cell_id)
        self.executed = threading.Event()
        self.state = "ready"
        self.unsent = False
        self.end = Event(EventKind.CLOSED)
        self.may_be_dropped = False
        self.watching = False
        self.push(Event(EventKind.READY, payload=b"{}"))

    def _live(self) -> None:
        if self.state == "closed":
            raise DisconnectedError("Channel closed")

    def finish(self, token: int, cell_id: str, *outputs: dict[str, Any], code: int = 0, text: str = "") -> None:
        """All events of one execution."""
        accepted = json.dumps({"result": "cell_queued", "cell_id": cell_id, "execution_id": f"exec-{token}"}).encode()
        self.push(
            Event(EventKind.QUEUED, token=token, id=cell_id, payload=accepted),
            Event(EventKind.STARTED, token=token, id=cell_id, number=1),
            *(
                Event(EventKind.OUTPUT, token=token, id=cell_id, number=index, payload=json.dumps(output).encode())
                for index, output in enumerate(outputs)
            ),
            Event(EventKind.DONE, token=token, id=cell_id, code=code, number=1, text=text),
        )

    # -- called by Session

    def stop(self) -> None:
        if self.state != "closed":
            self.state = "closed"
            self.push(self.end)

    def request(self, token: int, message: dict[str, Any], timeout_ms: int) -> None:
        self._live()
        self.requests.append(message)
        self.timeouts.append(timeout_ms)
        answer = self.answers[message["action"]]
        if isinstance(answer, int):
            self.push(Event(EventKind.RESPONSE, token=token, code=answer, text="refused"))
        else:
            self.push(Event(EventKind.RESPONSE, token=token, payload=json.dumps(answer).encode()))

    def execute(self, token: int, cell_id: str, timeout_ms: int) -> None:
        self._live()
        self.timeouts.append(timeout_ms)
        self.on_execute(token, cell_id)
        self.executed.set()

    def sync(self, token: int, timeout_ms: int) -> None:
        self.push(Event(EventKind.SYNCED, token=token))

    def watch(self, on: bool) -> None:
        self.watching = on

    def create_cell(self, cell_type: str, source: str, index: int) -> str:
        self._live()
        cell_id = f"cell-{uuid.uuid4()}"
        items = list(self.document.items())
        cell = {"id": cell_id, "cell_type": cell_type, "source": source, "execution_count": None, "outputs": []}
        items.insert(len(items) if index < 0 else index, (cell_id, cell))
        self.document = dict(items)
        return cell_id

    def cell(self, cell_id: str) -> dict[str, Any]:
        self._live()
        if cell_id not in self.document:
            raise CellNotFoundError(f"Cell not found: {cell_id}")
        return self.document[cell_id]

    def cells(self) -> list[dict[str, Any]]:
        self._live()
        return list(self.document.values())

    def set_source(self, cell_id: str, source: str) -> None:
        self.cell(cell_id)["source"] = source

    def delete_cell(self, cell_id: str) -> None:
        self.cell(cell_id)
        del self.document[cell_id]

    def info(self) -> dict[str, Any]:
        return {"state": self.state, "blobs_dir": None, "unsent": self.unsent}


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Start a function in a thread; the answer waits for its end and gives its value or raises what it raised."""
    box: list[Any] = []

    def run() -> None:
        try:
            box.append((function(), None))
        except BaseException as error:
            box.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join() -> Any:
        thread.join(SECONDS)
        assert box, "the thread did not end in time"
        value, error = box[0]
        if error is not None:
            raise error
        return value

    return join


class CtrlC:
    """Within it SIGINT interrupts the main thread exactly once, however often it is pressed."""

    def __init__(self) -> None:
        self._taken = threading.Event()

    def __enter__(self) -> CtrlC:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def press(self) -> None:
        """Send the signal until the main thread has taken it; to be called, and to end, within the context.

        Once is not always enough: a signal between Python's last look and the system call does not end the call.
        """
        while not self._taken.is_set():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            self._taken.wait(1.0)

    def _handle(self, *_: object) -> None:
        if not self._taken.is_set():
            self._taken.set()
            raise KeyboardInterrupt
