"""Live, shared notebooks from Python: sessions, cells, executions, outputs, and the daemon behind them.

Storey 6 (client).

A `Session` joins a notebook room, edits its document and runs its cells; everyone in the room sees the same. When no
daemon runs, one starts by itself. The notebook API of the `runtimed` package 0.1.4 is here (all but its sidecar
launcher), so ``import runtimed_ffi as runtimed`` runs programs written for it.

Example::

    import runtimed_ffi

    with runtimed_ffi.Session("my-notebook") as session:
        session.start_kernel()
        result = session.run("print('hello')")
        print(result.stdout)
"""

from runtimed_ffi._client.discovery import default_socket_path
from runtimed_ffi._version import __version__
from runtimed_ffi.cell import Cell
from runtimed_ffi.client import DaemonClient
from runtimed_ffi.embedded import Daemon
from runtimed_ffi.errors import (
    ArgumentError,
    CellNotFoundError,
    ConnectError,
    CorruptError,
    DaemonError,
    DisconnectedError,
    ExecutionCancelledError,
    InternalError,
    KernelDiedError,
    KernelError,
    KernelMismatchError,
    KernelNotStartedError,
    LaunchFailedError,
    NoKernelError,
    NotConnectedError,
    NotFoundError,
    ProtocolError,
    RuntimedError,
    StateError,
    TimeoutError_,
)
from runtimed_ffi.execution import Execution
from runtimed_ffi.output import Output, OutputEvent
from runtimed_ffi.result import ExecutionResult
from runtimed_ffi.session import Session
from runtimed_ffi.subscription import Change, Subscription

__all__ = [
    "ArgumentError",
    "Cell",
    "CellNotFoundError",
    "Change",
    "ConnectError",
    "CorruptError",
    "Daemon",
    "DaemonClient",
    "DaemonError",
    "DisconnectedError",
    "Execution",
    "ExecutionCancelledError",
    "ExecutionResult",
    "InternalError",
    "KernelDiedError",
    "KernelError",
    "KernelMismatchError",
    "KernelNotStartedError",
    "LaunchFailedError",
    "NoKernelError",
    "NotConnectedError",
    "NotFoundError",
    "Output",
    "OutputEvent",
    "ProtocolError",
    "RuntimedError",
    "Session",
    "StateError",
    "Subscription",
    "TimeoutError_",
    "__version__",
    "default_socket_path",
]
