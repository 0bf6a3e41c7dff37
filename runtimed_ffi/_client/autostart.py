"""Starts our daemon for a client that found none: detached, once, however many processes try at the same time.

Storey 6 (client).

The starter holds an exclusive lock on `start.lock` beside the socket, connects once more under it, and only then
launches the daemon.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Sequence

from runtimed_ffi._client.launch import READY_SECONDS, failed_start, launch
from runtimed_ffi._client.wire import accepts, os_error_text
from runtimed_ffi._system.filelock import acquire
from runtimed_ffi.errors import ConnectError
from runtimed_ffi.places import IDLE_SECONDS, LOG_NAME, daemon_command

LOCK_SECONDS = 2 * READY_SECONDS
"""Limit for another process that is starting one: it may have been stopped in the middle."""
IDLE_VARIABLE = "RUNTIMED_FFI_IDLE_TIMEOUT"
"""Environment variable: seconds after which a daemon started here ends without peers and work; `0` for never.
Default: `IDLE_SECONDS`, because no user ends a daemon that no user has started."""


class _Detached(subprocess.Popen):  # type: ignore[type-arg]  # not subscriptable in Python 3.8's runtime class
    """A child that is meant to outlive this process: no warning when its handle goes."""

    def __del__(self) -> None:
        """Leave the process alone."""


_started: list[subprocess.Popen[bytes]] = []


def idle_seconds() -> float:
    """Seconds a daemon started here stays without peers and work; a variable that is no number is ignored."""
    try:
        seconds = float(os.environ.get(IDLE_VARIABLE, ""))
    except ValueError:
        return IDLE_SECONDS
    return seconds if 0 <= seconds < float("inf") else IDLE_SECONDS


def is_absent(error: OSError) -> bool:
    """Whether a failure to connect means that no daemon is there (and not, say, that access is denied)."""
    return isinstance(error, (FileNotFoundError, ConnectionRefusedError))


def ensure_running(socket_path: str, command: Sequence[str] | None = None, log_path: str | None = None) -> bool:
    """See that a daemon accepts at a socket; start ours, detached, if there is none.

    Safe against other threads and processes that try the same: one of them starts a daemon, the others wait for it.

    Args:
        socket_path: where. Its directory is made with mode 0700 and gets `start.lock` and `runtimed.log`.
        command: what starts it, without ``--ready-fd``; default: `daemon_command` with an idle timeout.
        log_path: where its log is, if not beside the socket.

    Returns:
        True when it was started here, false when it ran before.

    Raises:
        ConnectError: the daemon did not become ready within 30 seconds, or ended; the text has the end of its log. Or
            another process has been starting one for 60 seconds.
    """
    directory = os.path.dirname(os.path.abspath(socket_path))
    lock_path = os.path.join(directory, "start.lock")
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        lock = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _impossible(directory, error) from error
    try:
        try:
            held = acquire(lock, fcntl.LOCK_EX, LOCK_SECONDS)
        except OSError as error:
            raise _impossible(directory, error) from error
        if not held:
            raise ConnectError(
                f"Failed to connect: another process has been starting a daemon for {LOCK_SECONDS:g} seconds;"
                f" it holds {lock_path}"
            )
        problem = accepts(socket_path)
        if problem is None:
            return False
        if not is_absent(problem):
            raise ConnectError(f"Failed to connect: {os_error_text(problem)}") from problem
        if command is None:
            command = daemon_command("--socket", socket_path, "--idle-timeout", f"{idle_seconds():g}")
        _start(socket_path, log_path or os.path.join(directory, LOG_NAME), command)
        return True
    finally:
        os.close(lock)


def _impossible(directory: str, error: OSError) -> ConnectError:
    return ConnectError(f"Failed to connect: cannot start a daemon in {directory}: {os_error_text(error)}")


def _start(socket_path: str, log_path: str, command: Sequence[str]) -> None:
    _started[:] = [process for process in _started if process.poll() is None]
    tail = launch(command, log_path, _started.append, kind=_Detached)
    # A daemon started by other means may have won the race for the socket; then ours has ended, and all is well.
    if tail is not None and accepts(socket_path) is not None:
        raise failed_start(tail)
