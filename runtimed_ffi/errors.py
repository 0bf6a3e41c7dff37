"""The exceptions of the package: one base class, sub-classes that also derive from the fitting builtin.

Storey 5 (binding); imports nothing of the package.

The texts are those of the `runtimed` package 0.1.4, so programs that match text keep working; new programs catch
classes::

    RuntimedError (Exception)
    ├── ConnectError (ConnectionError)         no daemon answers at the socket, or the daemon could not be started
    ├── NotConnectedError (ConnectionError)    the operation needs connect() first
    ├── DisconnectedError (ConnectionError)    the connection existed and has ended
    ├── ProtocolError                          the peer broke the protocol
    ├── TimeoutError_ (TimeoutError)           a deadline of the caller, or of a request, has passed
    ├── NotFoundError (LookupError)            something named does not exist
    │   └── CellNotFoundError                  ... a cell
    ├── KernelError                            the kernel, or the lack of one
    │   ├── KernelNotStartedError              this session has not started a kernel
    │   ├── NoKernelError                      the room has no kernel
    │   ├── KernelMismatchError                a kernel of another type is already running
    │   ├── LaunchFailedError                  the kernel could not be started
    │   └── KernelDiedError                    the kernel ended during an execution
    ├── ExecutionCancelledError                the execution was dropped before it ran, or the kernel was shut down
    ├── DaemonError                            the daemon refused a request; the text is the daemon's
    ├── ArgumentError (ValueError)             the library refused an argument
    ├── StateError                             an object was used in a state that does not allow it (also: after a fork)
    ├── CorruptError                           stored data cannot be read
    └── InternalError                          a defect of the library; the object it happened to is unusable

Every exception is made from one string, pickles, and has four attributes: `code` and `name` (the library's result
code and its name, `0` and `""` when the error did not come from the library), `result` (the partial `ExecutionResult`
when an execution failed) and `reason` (the daemon's own words for the end of an execution, else `""`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtimed_ffi.result import ExecutionResult

__all__ = [
    "ArgumentError",
    "CellNotFoundError",
    "ConnectError",
    "CorruptError",
    "DaemonError",
    "DisconnectedError",
    "ExecutionCancelledError",
    "InternalError",
    "KernelDiedError",
    "KernelError",
    "KernelMismatchError",
    "KernelNotStartedError",
    "LaunchFailedError",
    "NoKernelError",
    "NotConnectedError",
    "NotFoundError",
    "ProtocolError",
    "RuntimedError",
    "StateError",
    "TimeoutError_",
]


class RuntimedError(Exception):
    """Base of everything this package raises on purpose. The only argument is the message text."""

    code: int = 0
    name: str = ""
    reason: str = ""
    result: ExecutionResult | None = None

    def __init__(self, message: str = "") -> None:
        super().__init__(message)


# Programs written for `runtimed` look at this; for them the exception lives in the package itself.
RuntimedError.__module__ = "runtimed_ffi"


class ConnectError(RuntimedError, ConnectionError):
    """No daemon answers at the socket, or the daemon could not be started."""


class NotConnectedError(RuntimedError, ConnectionError):
    """The operation needs `Session.connect()` first."""


class DisconnectedError(RuntimedError, ConnectionError):
    """The connection has ended; `Session.connect()` makes a new one."""


class ProtocolError(RuntimedError):
    """The peer sent something the protocol does not allow."""


class TimeoutError_(RuntimedError, TimeoutError):
    """A deadline has passed. The cell, if it was about one, goes on running."""


class NotFoundError(RuntimedError, LookupError):
    """Something that was requested by name does not exist."""


class CellNotFoundError(NotFoundError):
    """No cell of the document has this id."""


class KernelError(RuntimedError):
    """Something about the kernel, or the lack of one."""


class KernelNotStartedError(KernelError):
    """This session has not called `start_kernel()`."""


class NoKernelError(KernelError):
    """The room has no kernel, for instance because another session shut it down."""


class KernelMismatchError(KernelError):
    """A kernel of another type than the requested one is already running in the room."""


class LaunchFailedError(KernelError):
    """The kernel could not be started."""


class KernelDiedError(KernelError):
    """The kernel process ended while the cell was running or waiting."""


class ExecutionCancelledError(RuntimedError):
    """The execution was dropped: an earlier cell failed, the queue was cleared, or the kernel was shut down."""


class DaemonError(RuntimedError):
    """The daemon answered with an error."""


class ArgumentError(RuntimedError, ValueError):
    """The library refused an argument."""


class StateError(RuntimedError):
    """The object is in a state that does not allow the call; a session also refuses after `os.fork()`."""


class CorruptError(RuntimedError):
    """Stored data cannot be read; it was left untouched."""


class InternalError(RuntimedError):
    """A defect of the library. The object it happened to is unusable, everything else goes on."""
