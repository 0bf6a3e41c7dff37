"""The handle of one connection to one room: `rtd_session_*` with Python types, and nothing else.

Storey 5 (binding). No method blocks except the constructor, which connects the socket; waiting for events is the
router's business (it polls `fd`). No cffi object leaves this module.

Threads: every method may be called from any thread, except `next_event`, `confirm` and `close`, which belong to the one
thread that consumes the events at the moment. A lock keeps `close` apart from calls in flight; it is held for the
length of one call into the library, never while waiting.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from runtimed_ffi._binding.events import Event, decode_event, new_event
from runtimed_ffi._binding.ffi import (
    AGAIN,
    CLOSED,
    IO,
    NOT_FOUND,
    CData,
    call_buf,
    call_json,
    check,
    error,
    ffi,
    json_in,
    last_error,
    lib,
    text_in,
)
from runtimed_ffi._binding.handle import Handle
from runtimed_ffi.errors import CellNotFoundError, ConnectError, DisconnectedError, RuntimedError


class NativeSession(Handle):
    """One connection. Connects at once; `READY` or `CLOSED` follows as an event.

    `close` frees the memory and the descriptor; only after `CLOSED` was taken, by the thread that took it.

    Args:
        socket_path: the daemon's socket.
        notebook_id: the room.
        connect_timeout_ms: limit for handshake and initial sync, milliseconds; negative: none.

    Raises:
        ConnectError: no daemon accepts at the socket (`Failed to connect: <OS error>`).
    """

    NOUN = "connection of a Session"
    FREE = lib.rtd_session_free

    def __init__(self, socket_path: str, notebook_id: str, *, connect_timeout_ms: int) -> None:
        self._lock = threading.Lock()
        self._event = new_event()
        self._confirmed = 0
        options = ffi.new("rtd_session_options *")
        lib.rtd_session_options_init(options, ffi.sizeof("rtd_session_options"))
        options.connect_timeout_ms = connect_timeout_ms
        out = ffi.new("rtd_session **")
        begin = time.monotonic()
        code = lib.rtd_session_open(*text_in(socket_path), *text_in(notebook_id), options, out)
        while code == AGAIN:
            # A signal came while the daemon did not accept. Its handler runs between two bytecodes, and may raise.
            if connect_timeout_ms >= 0:
                spent = int((time.monotonic() - begin) * 1000)
                options.connect_timeout_ms = max(connect_timeout_ms - spent, 0)
            code = lib.rtd_session_open(*text_in(socket_path), *text_in(notebook_id), options, out)
        if code == IO:
            raise _with_code(ConnectError(f"Failed to connect: {last_error()}"), code)
        check(code)
        self.handle = out[0]
        self.fd: int = lib.rtd_queue_fd(lib.rtd_session_queue(self.handle))
        """Readable exactly while an event waits. Poll it; never read or close it."""

    # -- life

    def stop(self) -> None:
        """Leave the room: stop I/O and let the queue drain to `CLOSED`. Idempotent."""
        with self._lock:
            self.may_be_dropped = True
            if self.handle:
                check(lib.rtd_session_close(self.handle))

    def _take(self) -> CData:
        with self._lock:
            return super()._take()

    # -- events

    def next_event(self) -> Event | None:
        """The oldest event not yet confirmed, or `None` when none is waiting.

        The event stays the next one until `confirm` is called, so that a `KeyboardInterrupt` between two bytecodes can
        not lose it: the C struct keeps it, and the next consumer decodes it again.
        """
        with self._lock:
            if not self.handle:
                return None  # What the struct points to went with it.
            if self._event.seq <= self._confirmed:
                code = lib.rtd_queue_next(lib.rtd_session_queue(self.handle), self._event)
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
        with self._lock:
            _check(lib.rtd_session_request(self._live(), token, *json_in(message), timeout_ms))

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
            arguments = (self._document(), *text_in(cell_type), *text_in(source), index)
            return call_buf(lib.rtd_doc_create_cell, *arguments, check=_check).decode("utf-8")

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
        with self._lock:
            _check(lib.rtd_doc_edit(self._document(), *json_in(operations)))

    def cells(self) -> list[Any]:
        """All cells in document order."""
        with self._lock:
            return list(call_json(lib.rtd_doc_cells, self._document(), check=_check))

    def cell(self, cell_id: str) -> Any:
        """One cell. Raises `CellNotFoundError`."""
        with self._lock:
            return call_json(lib.rtd_doc_cell, self._document(), *text_in(cell_id), check=_check)

    def metadata(self) -> Any:
        """The text entries of the notebook's metadata."""
        with self._lock:
            return call_json(lib.rtd_doc_metadata, self._document(), check=_check)

    def info(self) -> Any:
        """State of the connection; see `rtd_session_info`."""
        with self._lock:
            return call_json(lib.rtd_session_info, self._live(), check=_check)

    def _live(self) -> CData:
        if not self.handle:
            raise DisconnectedError("Channel closed")
        return self.handle

    def _document(self) -> CData:
        return lib.rtd_session_doc(self._live())


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
