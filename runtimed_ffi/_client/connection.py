"""One connection to one room: the native handle, its router, and requests that wait for their answer.

Storey 6 (client). A `Session` makes a new connection when the old one has ended; executions keep the one they began
with.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from typing import Callable, TypeVar
from weakref import WeakSet

from runtimed_ffi import errors
from runtimed_ffi._binding.events import Event, EventKind, OutputChange
from runtimed_ffi._binding.ffi import TIMEOUT
from runtimed_ffi._binding.native_session import NativeSession
from runtimed_ffi._client.arguments import milliseconds
from runtimed_ffi._client.blob_reader import BlobReader, unreadable
from runtimed_ffi._client.dedupe import OutputDeduplicator
from runtimed_ffi._client.inbox import Mailbox
from runtimed_ffi._client.output_list import StreamPositions
from runtimed_ffi._client.requests import Ask, connect_error, request_error, response_of
from runtimed_ffi._client.router import Router, Stop
from runtimed_ffi.output import Output, OutputEvent
from runtimed_ffi.subscription import Subscriptions

T = TypeVar("T")

_EXIT_SECONDS = 2.0
_REPLACING = frozenset({OutputChange.REPLACED, OutputChange.REPLACED_ALL})

_logger = logging.getLogger("runtimed_ffi")


class Connection:
    """A connection whose initial sync is done. The constructor blocks until then.

    Args:
        socket_path: the daemon's socket.
        notebook_id: the room.
        subscriptions: the callbacks for news.
        on_error: gets what subscribers raise; returns false when it did not take it.
        connect_seconds: limit for handshake and initial sync.

    Raises:
        ConnectError: `Failed to connect: <OS error>`.
        TimeoutError_: `Connection timeout`.
        DisconnectedError: `Disconnected`.
        ProtocolError: `Sync protocol error: <detail>`.

    Threads: every method may be called from any thread.
    """

    def __init__(
        self,
        socket_path: str,
        notebook_id: str,
        subscriptions: Subscriptions,
        on_error: Callable[[Exception], bool],
        connect_seconds: float,
    ) -> None:
        self.socket_path = socket_path
        self._pid = os.getpid()
        self._subscriptions = subscriptions
        self._on_error = on_error
        self._blobs = BlobReader(socket_path, None)
        self._positions: StreamPositions | None = None
        self._pump: Stop | None = None
        self._pump_thread: threading.Thread | None = None
        self.native = NativeSession(socket_path, notebook_id, connect_timeout_ms=milliseconds(connect_seconds))
        self._router = Router(self.native, OutputDeduplicator(subscriptions.wants), self._deliver)
        try:
            first = self._router.wait_ready()
            if first.kind == EventKind.CLOSED:
                raise connect_error(first)
            info = self.native.info()
            self._blobs = BlobReader(socket_path, info.get("blobs_dir"))
            if info.get("stream_pieces"):
                self._positions = StreamPositions()
            if subscriptions.any(EventKind.OUTPUT):
                self.native.watch(True)
        except BaseException:
            self.native.stop()
            raise
        _live.add(self)

    @property
    def inherited(self) -> bool:
        """True in a process that was forked after the connection was made: it belongs to the parent."""
        return os.getpid() != self._pid

    @property
    def alive(self) -> bool:
        """Whether the connection stands at this moment, without I/O and without consuming events."""
        if self._router.ended is not None or self.inherited:
            return False
        try:
            return bool(self.native.info()["state"] == "ready")
        except errors.RuntimedError:
            return False

    def require(self) -> NativeSession:
        """The native handle for a local operation.

        Raises:
            StateError: after a fork.
        """
        if self.inherited:
            raise errors.StateError("this Session was connected before os.fork(); make a new one in the child process")
        return self.native

    # -- questions with one answer

    def ask(self, ask: Ask[T], *, log: bool = False) -> T:
        """Send a request and read its response.

        Args:
            ask: the request.
            log: what subscribers raise meanwhile is logged instead of raised.

        Raises:
            TimeoutError_: `Connection timeout`.
            DisconnectedError: the connection ended before the answer.
            RuntimedError: what `ask` makes of the response.
        """
        native, box = self.require(), self._router.open()
        native.request(box.token, ask.message, milliseconds(ask.seconds))
        return ask.read(response_of(self._single(box, log)))

    def sync(self, seconds: float | None) -> None:
        """Wait until the daemon has all local changes, and this side all that the daemon announced.

        Raises:
            TimeoutError_, DisconnectedError: as `request`.
        """
        native, box = self.require(), self._router.open()
        native.sync(box.token, milliseconds(seconds))
        self._single(box)

    def _single(self, box: Mailbox, log: bool = False) -> Event:
        try:
            event = self._router.wait(box)
            while event.kind == EventKind.RESYNC:
                box.accept(event)
                event = self._router.wait(box)
        except BaseException:
            log = True  # Ctrl-C: no wait comes back to this mailbox.
            raise
        finally:
            if log:
                log_errors(box.errors)
                box.errors = []
        failure = request_error(event)
        self.raise_errors(box, failure)
        if failure is not None:
            raise failure
        return event

    # -- executions

    def execute(self, cell_id: str, seconds: float | None) -> Call:
        """Ask for an execution; its events end in one `DONE`."""
        native, box = self.require(), self._router.open()
        native.execute(box.token, cell_id, milliseconds(seconds))
        return Call(self, box)

    def wait(self, box: Mailbox) -> Event:
        """The mailbox's next event; blocks."""
        if self.inherited:
            self.require()
        return self._router.wait(box)

    def raise_errors(self, box: Mailbox, failure: BaseException | None) -> None:
        """Raise the first thing that subscribers raised on a thread that waited for this mailbox, and log the others.

        `failure`, how the wait itself failed, is chained to it.
        """
        if box.errors:
            (first, *others), box.errors = box.errors, []
            log_errors(others)
            raise first from (first.__cause__ or failure)

    # -- outputs

    def read_output(self, event: Event) -> Output:
        """The output an event carries, fetched from the daemon when the library could not resolve it."""
        try:
            payload = event.json()
        except ValueError:
            return unreadable(event.payload.decode("utf-8", "replace"))
        return self._blobs.output(payload)

    def outputs(self, cell_id: str) -> list[Output]:
        """The outputs of a cell as the document has them now. Raises `CellNotFoundError`."""
        return [self._blobs.output(element) for element in self.require().cell(cell_id)["outputs"]]

    def _deliver(self, event: Event) -> list[Exception]:
        return [e for e in self._subscriptions.deliver(event, self._output_event) if not self._on_error(e)]

    def _output_event(self, event: Event) -> OutputEvent | None:
        output, index, continued = self.read_output(event), event.number, False
        if self._positions is not None:
            index, continued = self._positions.place(event.id, event.code, index, output)
            if continued and not output.text:
                return None
        return OutputEvent(event.id, index, output, event.code in _REPLACING, continued)

    # -- pump and end

    def start_pump(self, on_errors: Callable[[list[Exception]], None]) -> None:
        """Consume events on a daemon thread of its own, also when no other thread waits."""
        if self._pump is None:
            self._pump = Stop()
            self._pump_thread = threading.Thread(
                target=self._router.pump, args=(self._pump, on_errors), name="runtimed-ffi pump", daemon=True
            )
            self._pump_thread.start()

    def stop_pump(self, seconds: float | None = None) -> None:
        """Stop the thread and wait for it, unless this is the thread itself."""
        stop, thread = self._pump, self._pump_thread
        if stop is None or thread is None or self.inherited:
            return
        self._pump = self._pump_thread = None
        self._router.stop_pump(stop)
        if thread is not threading.current_thread():
            thread.join(seconds)

    def close(self) -> None:
        """Leave the room and wait for the last event; every waiter gets its end first.

        Raises:
            TimeoutError_: the daemon took nothing for 10 seconds of what was written here and not sent yet.
        """
        if self.inherited:
            return
        alive = self.alive
        self.native.stop()
        self.stop_pump()
        end = self._router.wait_ended()
        _live.discard(self)
        failure = errors.TimeoutError_(end.text) if alive and end.code == TIMEOUT else None
        self.raise_errors(self._router.life, failure)
        if failure is not None:
            raise failure

    def close_at_exit(self) -> None:
        """Stop what could still call into the interpreter.

        Waits only for a daemon that has yet to take what was written here.
        """
        if self.inherited:
            return
        unsent = self._is_unsent()
        self.native.stop()
        self.stop_pump(_EXIT_SECONDS)
        if unsent:
            self._router.mute()
            self._router.wait_ended()

    def _is_unsent(self) -> bool:
        try:
            return bool(self.native.info()["unsent"])
        except errors.DisconnectedError:
            return False


class Call:
    """The events of one token: what an `Execution` needs of its connection.

    Threads: as `Connection`; one at a time calls `next_event` and `accept`.
    """

    def __init__(self, connection: Connection, box: Mailbox) -> None:
        self._connection = connection
        self._box = box

    def require(self) -> None:
        """Raise `StateError` in a process that was forked after the connection was made."""
        self._connection.require()

    def next_event(self) -> Event:
        """The next event; blocks. The same one again until it is accepted."""
        return self._connection.wait(self._box)

    def accept(self, event: Event) -> None:
        """The event has been dealt with."""
        self._box.accept(event)

    def raise_errors(self, failure: BaseException | None) -> None:
        """Raise what subscribers raised during `next_event`; see `Connection.raise_errors`."""
        self._connection.raise_errors(self._box, failure)

    def read_output(self, event: Event) -> Output:
        """The output an event carries, fetched if need be."""
        return self._connection.read_output(event)

    def outputs(self, cell_id: str) -> list[Output]:
        """The outputs of a cell as the document has them now. Raises `CellNotFoundError`."""
        return self._connection.outputs(cell_id)


_live: WeakSet[Connection] = WeakSet()


@atexit.register
def _close_all() -> None:
    for connection in list(_live):
        connection.close_at_exit()


def log_errors(raised: list[Exception]) -> None:
    """Log what subscribers raised where it cannot be raised."""
    for each in raised:
        _logger.error("a subscription callback of a Session failed", exc_info=each)
