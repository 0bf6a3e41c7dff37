"""`Session`: a peer of one notebook room, which edits the document, runs its cells and gets its events.

Storey 6 (client). Source: python-api, section 1.5 and part 3; protocol 2, sections 5 and 9.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any, Callable, TypeVar

from runtimed_ffi import errors
from runtimed_ffi._binding.events import EventKind
from runtimed_ffi._binding.ffi import StrPath
from runtimed_ffi._client import arguments, requests
from runtimed_ffi._client.autostart import ensure_running
from runtimed_ffi._client.connection import Connection, log_errors
from runtimed_ffi._client.discovery import locate
from runtimed_ffi._client.editing import DocumentAccess
from runtimed_ffi._system.process import ProcessLock
from runtimed_ffi.client import DaemonClient
from runtimed_ffi.execution import Execution, OnOutput
from runtimed_ffi.output import OutputEvent
from runtimed_ffi.result import ExecutionResult
from runtimed_ffi.subscription import Change, Subscription, Subscriptions

CONNECT_SECONDS = 10.0
"""Limit for handshake and initial document exchange."""

T = TypeVar("T")

_logger = logging.getLogger("runtimed_ffi")


class Session(DocumentAccess):
    """A peer of one notebook room.

    Making a session does no I/O. `connect`, `start_kernel`, `create_cell` and `run` connect by themselves, also again
    after the connection was lost; the other operations need a connection.

    Args:
        notebook_id: the room; any text. Default: ``agent-session-<uuid4>``.
        socket_path: the daemon's socket; default: see `discovery`.
        autostart: `None` starts our daemon when none is found and no path was given (here or by
            `RUNTIMED_SOCKET_PATH`); `True` starts it even at a given path; `False` never.
        on_error: gets what subscription callbacks raise. Without it, it is raised by the blocking call on whose
            thread the callback ran, or logged with its traceback when the callback ran on the pump.

    Threads: a session may be shared. Any number of threads may wait at the same time, and `interrupt()` reaches the
    cell another thread waits for. Ctrl-C ends a wait at once and leaves the session usable. A forked child must make
    its own.

    Example::

        with runtimed_ffi.Session("my-notebook") as session:
            session.start_kernel()
            print(session.run("print('hello')").stdout)
    """

    def __init__(
        self,
        notebook_id: str | None = None,
        *,
        socket_path: StrPath | None = None,
        autostart: bool | None = None,
        on_error: Callable[[Exception], Any] | None = None,
    ) -> None:
        if notebook_id is None:
            notebook_id = f"agent-session-{uuid.uuid4()}"
        self._notebook_id = arguments.text("notebook_id", notebook_id)
        self._socket_path = socket_path
        self._autostart = autostart
        self.on_error = on_error
        self._connecting = ProcessLock()
        self._connection: Connection | None = None
        self._subscriptions = Subscriptions()
        self._pumping = False
        self._kernel: requests.Kernel | None = None

    # -- properties: never raise, never do I/O

    @property
    def notebook_id(self) -> str:
        """The room."""
        return self._notebook_id

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands now."""
        connection = self._connection
        return connection is not None and connection.alive

    @property
    def kernel_started(self) -> bool:
        """Whether this session has started, or joined, the room's kernel by `start_kernel()`."""
        return self._kernel is not None

    @property
    def env_source(self) -> str | None:
        """Where the kernel's environment came from, for instance ``uv:prewarmed``; `None` without kernel."""
        return None if self._kernel is None else self._kernel.env_source

    def __repr__(self) -> str:
        status = "connected" if self.is_connected else "disconnected"
        return f"Session(id={self._notebook_id}, status={'kernel_running' if self.kernel_started else status})"

    # -- life

    def connect(self) -> None:
        """Join the room, and start a daemon first if that is allowed; does nothing while a connection stands.

        Raises:
            ConnectError: no daemon accepts (`Failed to connect: <OS error>`), or the daemon could not be started.
            TimeoutError_: the daemon accepts but does not answer within 10 seconds.
            DisconnectedError, ProtocolError: it hung up (twice, if a daemon may be started), or does not speak the
                protocol.
        """
        inherited = self._connection
        if inherited is not None:
            inherited.require()
        with self._connecting:
            old = self._connection
            if old is not None and old.alive:
                return
            location = locate(self._socket_path)
            may_start = not location.given if self._autostart is None else self._autostart
            try:
                new = self._open(location.path)
            except (errors.ConnectError, errors.DisconnectedError):
                # A daemon that is being killed loses its connections before its socket: to hang up is to be absent.
                if not may_start:
                    raise
                ensure_running(location.path)
                new = self._open(location.path)
            self._connection = new
            if self._kernel is not None:
                # It may be another daemon, or a kernel that another session has launched: this session joins it.
                self._kernel = self._kernel._replace(launched=False)
            if self._pumping:
                new.start_pump(log_errors)
        if old is not None:
            old.close()

    def disconnect(self) -> None:
        """Leave the room; the kernel goes on. Idempotent.

        Every thread that waits on this session gets a `DisconnectedError`. What was written before reaches the daemon;
        the call waits for that.

        Raises:
            TimeoutError_: the daemon took nothing of it for 10 seconds; the session is disconnected all the same.
        """
        with self._connecting:
            connection, self._connection = self._connection, None
        self._kernel = None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Let go of the kernel: shut it down if this session launched it and no other peer is in the room.

        The daemon's list of rooms says whether another peer is there; if it cannot be had, the kernel goes
        on. The session stays in the room until `disconnect()`, or until it is collected. Never raises: what goes wrong,
        and what subscription callbacks raise meanwhile, is logged. Idempotent.
        """
        connection = self._connection
        if connection is not None and not connection.inherited:
            connection.native.may_be_dropped = True
            if self._kernel is not None and self._kernel.launched and connection.alive:
                try:
                    if self._is_alone(connection):
                        connection.ask(requests.SHUTDOWN_KERNEL, log=True)
                except errors.RuntimedError:
                    _logger.debug("closing %r did not shut the kernel down", self, exc_info=True)
        self._kernel = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- kernel

    def start_kernel(self, kernel_type: str = "python", env_source: str = "uv:prewarmed") -> None:
        """Start the room's kernel, or join the one that runs. Connects by itself; may take minutes.

        Args:
            kernel_type: ``python`` or ``deno``.
            env_source: ``auto``, ``uv:prewarmed``, ``conda:prewarmed``, ``uv:pyproject``, ...

        Raises:
            LaunchFailedError: with the daemon's text.
            KernelMismatchError: a kernel of another type is running.
        """
        arguments.text("kernel_type", kernel_type)
        arguments.text("env_source", env_source)
        self._kernel = self._connect().ask(requests.launch_kernel(kernel_type, env_source))

    def interrupt(self) -> None:
        """Interrupt the running cell, as Ctrl-C in a terminal does; harmless when none runs.

        Raises:
            NotConnectedError: without a connection.
            NoKernelError: `No kernel running`.
        """
        self._ask(requests.INTERRUPT)

    def shutdown_kernel(self) -> None:
        """Stop the room's kernel, for all peers; also fine when there is none."""
        self._ask(requests.SHUTDOWN_KERNEL)
        self._kernel = None

    def kernel_info(self) -> dict[str, Any]:
        """The room's kernel as the daemon sees it: `kernel_type`, `env_source`, `status`."""
        return self._ask(requests.KERNEL_INFO)

    def queue_state(self) -> dict[str, Any]:
        """What the kernel is busy with: `executing` (a cell id or `None`) and `queued` (a list of cell ids)."""
        return self._ask(requests.QUEUE_STATE)

    def sync(self, timeout_secs: float | None = requests.REQUEST_SECONDS) -> None:
        """Wait until the daemon has all changes made here, and the local copy all that the daemon had when asked.

        Never needed before an execution: what is sent arrives in order.
        """
        self._require().sync(arguments.timeout("timeout_secs", timeout_secs))

    def save(self) -> str:
        """Write the notebook into its file, and return the file's path: the notebook id.

        The daemon merges what other programs did to the file meanwhile, keeps what only the file has (attachments,
        metadata of cells), and replaces it as a whole.

        Raises:
            NotConnectedError: without a connection.
            DaemonError: the room has no file (its id is no absolute path that ends in ``.ipynb``), or the file cannot
                be read or written; it is as before then.
        """
        self._ask(requests.SAVE)
        return self.notebook_id

    # -- executions

    def run(
        self, code: str, timeout_secs: float | None = 60.0, *, on_output: OnOutput | None = None
    ) -> ExecutionResult:
        """Append a code cell with this text and execute it. The cell stays. Arguments and errors as `execute_cell`."""
        arguments.text("code", code)
        arguments.timeout("timeout_secs", timeout_secs)
        self._require_kernel()
        return self.execute_cell(self.create_cell(code), timeout_secs, on_output=on_output)

    def execute_cell(
        self, cell_id: str, timeout_secs: float | None = 60.0, *, on_output: OnOutput | None = None
    ) -> ExecutionResult:
        """Execute a cell of the document and wait for its end.

        A failing or interrupted cell does not raise; look at `success` and `error` of the result.

        Args:
            cell_id: the cell.
            timeout_secs: seconds until `TimeoutError_`; `0` has already passed, `None` never does. The cell goes on.
            on_output: called with each `Output` as it comes, on this thread.

        Raises:
            KernelNotStartedError: `start_kernel()` was not called.
            ValueError: a negative, infinite or undefined limit.
            RuntimedError: see `Execution.result`.
        """
        return self.submit_cell(cell_id, on_output, timeout_secs).result()

    def submit_cell(
        self, cell_id: str, on_output: OnOutput | None = None, timeout_secs: float | None = None
    ) -> Execution:
        """Ask for the execution of a cell and return at once. Arguments as `execute_cell`, but without a limit."""
        arguments.text("cell_id", cell_id)
        seconds = arguments.timeout("timeout_secs", timeout_secs)
        self._require_kernel()
        connection = self._require()
        return Execution(connection.execute(cell_id, seconds), cell_id, on_output, seconds)

    def run_all(self) -> int:
        """Queue every code cell in document order and return their number, without waiting for them."""
        self._require_kernel()
        return self._ask(requests.RUN_ALL)

    # -- subscriptions

    def on_output(self, callback: Callable[[OutputEvent], Any]) -> Subscription:
        """Call `callback` for every output of the notebook, of cells run by any peer.

        Callbacks of subscriptions run on a thread that waits in this session, or on the pump; one at a time, in order.
        When outputs were dropped because no thread took them in time, subscribers of changes get a `Change.missed`.
        """
        subscription = self._subscriptions.add(EventKind.OUTPUT, callback)
        connection = self._connection
        if connection is not None and connection.alive:
            connection.native.watch(True)
        return subscription

    def on_change(self, callback: Callable[[Change], Any]) -> Subscription:
        """Call `callback` when others have changed the document."""
        return self._subscriptions.add(EventKind.CHANGED, callback)

    def on_broadcast(self, callback: Callable[[dict[str, Any]], Any]) -> Subscription:
        """Call `callback` with every broadcast of the room but outputs (protocol 2, section 5.8)."""
        return self._subscriptions.add(EventKind.BROADCAST, callback)

    def start_pump(self) -> None:
        """Deliver subscriptions from a thread of the session's own, also when no other thread waits.

        The thread keeps the connection open until `stop_pump()`, `disconnect()` or the end of the interpreter.
        Idempotent.
        """
        with self._connecting:
            self._pumping = True
            if self._connection is not None and self._connection.alive:
                self._connection.start_pump(log_errors)

    def stop_pump(self) -> None:
        """Stop that thread and wait for it. Idempotent."""
        with self._connecting:
            self._pumping = False
            connection = self._connection
        if connection is not None:
            connection.stop_pump()

    # -- parts

    def _open(self, path: str) -> Connection:
        return Connection(path, self._notebook_id, self._subscriptions, self._take_error, CONNECT_SECONDS)

    def _connect(self) -> Connection:
        self.connect()
        return self._require()

    def _require(self) -> Connection:
        connection = self._connection
        if connection is None:
            raise errors.NotConnectedError("Not connected")
        connection.require()
        return connection

    def _ask(self, ask: requests.Ask[T]) -> T:
        return self._require().ask(ask)

    def _require_kernel(self) -> None:
        if self._kernel is None:
            raise errors.KernelNotStartedError("Kernel not started. Call start_kernel() first.")

    def _is_alone(self, connection: Connection) -> bool:
        rooms = DaemonClient(connection.socket_path).list_rooms()
        return any(
            room.get("notebook_id") == self._notebook_id and room.get("active_peers") in (0, 1) for room in rooms
        )

    def _take_error(self, error: Exception) -> bool:
        handler = self.on_error
        if handler is None:
            return False
        try:
            handler(error)
        except Exception:
            _logger.exception("the on_error handler of a Session failed")
        return True
