"""Starts our daemon for a client that found none: detached, once, however many processes try at the same time.

Storey 6 (client). Knows the daemon's command line and its readiness pipe, and nothing else of it.

The starter holds an exclusive lock on `start.lock` beside the socket, connects once more under it, and only then spawns
the daemon. The daemon writes one line into an inherited pipe after it has bound its socket, so that nobody polls.
"""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import BinaryIO

from runtimed_ffi._binding.filelock import acquire
from runtimed_ffi._client.wire import accepts, os_error_text
from runtimed_ffi.errors import ConnectError

READY_SECONDS = 30.0
"""Limit for a daemon to become ready."""
LOCK_SECONDS = 2 * READY_SECONDS
"""Limit for another process that is starting one: it may have been stopped in the middle."""
IDLE_VARIABLE = "RUNTIMED_FFI_IDLE_TIMEOUT"
"""Environment variable: seconds after which a daemon started here ends when nobody needs it; `0` for never."""
IDLE_SECONDS = 4 * 3600.0
"""The same without the variable: nobody asked for such a daemon by name, and nobody would end it."""
_TAIL_LINES = 20
_TAIL_BYTES = 8192


class _Detached(subprocess.Popen):  # type: ignore[type-arg]  # not subscriptable in Python 3.8's runtime class
    """A child that is meant to outlive this process: no warning when its handle goes."""

    def __del__(self) -> None:
        """Leave the process alone."""


_started: list[_Detached] = []


def daemon_command(socket_path: str, *arguments: str) -> list[str]:
    """The command that runs our daemon at a socket, with the interpreter this program runs in."""
    return [sys.executable, "-m", "runtimed_ffi", "daemon", "run", "--socket", socket_path, *arguments]


def idle_seconds() -> float:
    """How long a daemon started here stays without anybody to serve; a variable that is no number is ignored."""
    try:
        seconds = float(os.environ.get(IDLE_VARIABLE, ""))
    except ValueError:
        return IDLE_SECONDS
    return seconds if 0 <= seconds < float("inf") else IDLE_SECONDS


def is_absent(error: OSError) -> bool:
    """Whether a failure to connect means that nobody is there (and not, say, that access is denied)."""
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
            command = daemon_command(socket_path, "--idle-timeout", f"{idle_seconds():g}")
        _start(socket_path, log_path or os.path.join(directory, "runtimed.log"), command)
        return True
    finally:
        os.close(lock)


def _impossible(directory: str, error: OSError) -> ConnectError:
    return ConnectError(f"Failed to connect: cannot start a daemon in {directory}: {os_error_text(error)}")


def _start(socket_path: str, log_path: str, command: Sequence[str]) -> None:
    _started[:] = [process for process in _started if process.poll() is None]
    log_descriptor = os.open(log_path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(log_descriptor, "r+b", buffering=0) as log:
        begin = log.seek(0, os.SEEK_END)
        reader, writer = os.pipe()
        try:
            try:
                process = _Detached(
                    [*command, "--ready-fd", str(writer)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[writer],
                    start_new_session=True,
                )
            finally:
                os.close(writer)
            _started.append(process)
            ready = await_ready(reader, READY_SECONDS)
        finally:
            os.close(reader)
        # A daemon started by other means may have won the race for the socket; then ours has ended, and all is well.
        if not ready and accepts(socket_path) is not None:
            raise ConnectError(f"Failed to connect: the daemon did not start\n{log_tail(log, begin)}".rstrip())


def await_ready(descriptor: int, seconds: float) -> bool:
    """Wait for the daemon's word on its readiness pipe.

    Args:
        descriptor: the reading end.
        seconds: limit.

    Returns:
        True when it is ready; false when it closed the pipe without a word, or the time is over.
    """
    end = time.monotonic() + seconds
    received = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while b"\n" not in received:
        left = end - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return False
        data = os.read(descriptor, 4096)
        if not data:
            return False
        received += data
    return True


def log_tail(log: BinaryIO, begin: int) -> str:
    """The last lines written to a log since a position."""
    size = log.seek(0, os.SEEK_END)
    log.seek(max(begin, size - _TAIL_BYTES))
    return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-_TAIL_LINES:])
