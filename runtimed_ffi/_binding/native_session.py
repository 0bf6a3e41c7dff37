"""The handle of one connection to one room: `rtd_session_*` with Python types, and nothing else.

Storey 5 (binding). No method blocks except the constructor, which connects the socket; waiting for events is the
router's business (it polls `fd`). No cffi object leaves this module.

Threads: every method may be called from any thread, except `next_event`, `confirm` and `free`, which belong to the one
thread that consumes the events at the moment. A lock keeps `free` apart from calls in flight; it is held for the
length of one call into the library, never while waiting.
"""

from __future__ import annotations

import json
import threading
import time
import warnings
from typing import Any, Callable

from runtimed_ffi._binding.events import Event, decode_event, new_event
from runtimed_ffi._binding.ffi import (
    AGAIN,
    CLOSED,
    IO,
    NOT_FOUND,
    CData,
    bytes_in,
    check,
    error,
    ffi,
    last_error,
    lib,
    new_buffer,
    take_buf,
    text_in,
)
from runtimed_ffi.errors import CellNotFoundError, ConnectError, DisconnectedError, RuntimedError

NO_LIMIT = -1
"""A time limit in milliseconds that never passes."""


class NativeSession:
    """One connection. Connects at once; `READY` or `ENDED` follows as an event.

    Args:
        socket_path: the daemon's socket.
        notebook_id: the room.
        connect_timeout_ms: limit for handshake and initial sync, milliseconds; negative: none.

    Raises:
        ConnectError: nobody accepts at the socket (`Failed to connect: <OS error>`).
    """

    def __init__(self, socket_path: str, notebook_id: str, *, connect_timeout_ms: int) -> None:
        self._lock = threading.Lock()
        self._handle: CData | None = None
        self._closed = False
        self._event = new_event()
        self._confirmed = 0
        options = ffi.new("rtd_session_options *")
        lib.rtd_session_options_init(options, ffi.sizeof("rtd_session_options"))
        options.connect_timeout_ms = connect_timeout_ms
        out = ffi.new("rtd_session **")
        begin = time.monotonic()
        code = lib.rtd_session_open(*text_in(socket_path), *text_in(notebook_id), options, out)
        while code == AGAIN:
            # A signal came while the daemon accepts nobody. Its handler runs between two bytecodes, and may raise.
            if connect_timeout_ms >= 0:
                spent = int((time.monotonic() - begin) * 1000)
                options.connect_timeout_ms = max(connect_timeout_ms - spent, 0)
            code = lib.rtd_session_open(*text_in(socket_path), *text_in(notebook_id), options, out)
        if code == IO:
            raise _with_code(ConnectError(f"Failed to connect: {last_error()}"), code)
        check(code)
        self._handle = out[0]
        self.fd: int = lib.rtd_queue_fd(lib.rtd_session_queue(self._handle))
        """Readable exactly while an event waits. Poll it; never read or close it."""

    def __del__(self, free: Callable[[CData], None] = lib.rtd_session_free) -> None:
        # A safety net. Not `ffi.gc`: objects of a cycle are finalised in any order, and a handle freed while this
        # object can be reached by another finaliser would be used afterwards. So both go at once.
        handle, self._handle = getattr(self, "_handle", None), None
        if handle is not None:
            try:
                if not self._closed:
                    warnings.warn("a Session was neither closed nor disconnected", ResourceWarning, stacklevel=2)
            finally:
                free(handle)

    # -- life

    def close(self) -> None:
        """Leave the room: stop I/O and let the queue drain to `ENDED`. Idempotent."""
        with self._lock:
            self._closed = True
            if self._handle is not None:
                check(lib.rtd_session_close(self._handle))

    def settle(self) -> None:
        """The owner knows about the open connection: dropping the object without `close` deserves no warning."""
        self._closed = True

    def free(self) -> None:
        """Give the memory and the descriptor back; only after `ENDED` was taken, by the thread that took it."""
        with self._lock:
            self._closed = True
            handle, self._handle = self._handle, None
        if handle is not None:
            lib.rtd_session_free(handle)

    # -- events

    def next_event(self) -> Event | None:
        """The oldest event not yet confirmed, or `None` when none is waiting.

        The event stays the next one until `confirm` is called, so that a `KeyboardInterrupt` between two bytecodes can
        not lose it: the C struct keeps it, and the next consumer decodes it again.
        """
        with self._lock:
            if self._handle is None:
                return None  # What the struct points to went with it.
            if self._event.seq <= self._confirmed:
                code = lib.rtd_queue_next(lib.rtd_session_queue(self._handle), self._event)
                if code in (AGAIN, CLOSED):
                    return None
                check(code)
            return decode_event(self._event)

    def confirm(self, seq: int) -> None:
        """The event with this number has reached its receiver."""
        self._confirmed = seq

    # -- requests; each token ends in exactly one terminal event

    def request(self, token: int, message: Any, timeout_ms: int) -> None:
        """Send a request; ends in one `RESPONSE`."""
        raw = _json(message)
        with self._lock:
            _check(lib.rtd_session_request(self._live(), token, *bytes_in(raw), timeout_ms))

    def execute(self, token: int, cell_id: str, timeout_ms: int) -> None:
        """Ask the daemon to run a cell of the document; ends in one `DONE`."""
        with self._lock:
            _check(lib.rtd_session_execute(self._live(), token, *text_in(cell_id), timeout_ms))

    def sync(self, token: int, timeout_ms: int) -> None:
        """Wait for the document: all our changes there, all the announced ones here; ends in one `SYNCED`."""
        with self._lock:
            _check(lib.rtd_session_sync(self._live(), token, timeout_ms))

    def watch(self, on: bool) -> None:
        """Whether cells run by others bring `OUTPUT` and `CLEARED` events too (with token 0)."""
        with self._lock:
            _check(lib.rtd_session_watch(self._live(), int(on)))

    # -- the document: local and immediate, sent at once as one change

    def create_cell(self, cell_type: str, source: str, index: int) -> str:
        """Insert a cell and return its id; a negative index, or one past the end, means the end."""
        with self._lock:
            out = new_buffer()
            _check(lib.rtd_doc_create_cell(self._document(), *text_in(cell_type), *text_in(source), index, out))
            return take_buf(out).decode("utf-8")

    def set_source(self, cell_id: str, source: str) -> None:
        """Replace the text of a cell by a minimal difference."""
        with self._lock:
            _check(lib.rtd_doc_set_source(self._document(), *text_in(cell_id), *text_in(source)))

    def delete_cell(self, cell_id: str) -> None:
        """Remove a cell."""
        with self._lock:
            _check(lib.rtd_doc_delete_cell(self._document(), *text_in(cell_id)))

    def edit(self, operations: list[Any]) -> None:
        """Apply a list of operations as one change, all or nothing."""
        raw = _json(operations)
        with self._lock:
            _check(lib.rtd_doc_edit(self._document(), *bytes_in(raw)))

    def cells(self) -> list[Any]:
        """All cells in document order."""
        with self._lock:
            out = new_buffer()
            _check(lib.rtd_doc_cells(self._document(), out))
            return list(json.loads(take_buf(out)))

    def cell(self, cell_id: str) -> Any:
        """One cell. Raises `CellNotFoundError`."""
        with self._lock:
            out = new_buffer()
            _check(lib.rtd_doc_cell(self._document(), *text_in(cell_id), out))
            return json.loads(take_buf(out))

    def metadata(self) -> Any:
        """The text entries of the notebook's metadata."""
        with self._lock:
            out = new_buffer()
            _check(lib.rtd_doc_metadata(self._document(), out))
            return json.loads(take_buf(out))

    def info(self) -> Any:
        """State of the connection; see `rtd_session_info`."""
        with self._lock:
            out = new_buffer()
            _check(lib.rtd_session_info(self._live(), out))
            return json.loads(take_buf(out))

    def _live(self) -> CData:
        if self._handle is None:
            raise DisconnectedError("Channel closed")
        return self._handle

    def _document(self) -> CData:
        return lib.rtd_session_doc(self._live())


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _with_code(exception: RuntimedError, code: int) -> RuntimedError:
    known = error(code, "")
    exception.code, exception.name = known.code, known.name
    return exception


def _check(code: int) -> None:
    """As `ffi.check`, with the exceptions and texts a session has for an unknown cell and a connection that ended."""
    if code == NOT_FOUND:
        raise _with_code(CellNotFoundError(last_error()), code)
    if code == CLOSED:
        raise _with_code(DisconnectedError("Channel closed"), code)
    check(code)
