"""Launches a daemon process and waits until it is ready.

Storey 6 (client). Knows the daemon's readiness pipe and its log, and nothing else of it.

The daemon writes one line into an inherited pipe after it has bound its socket, so no process polls the socket.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Sequence
from typing import Any, BinaryIO, Callable

from runtimed_ffi.errors import ConnectError

READY_SECONDS = 30.0
"""Limit for a daemon to become ready."""
_TAIL_LINES = 20
_TAIL_BYTES = 8192


def launch(
    command: Sequence[str],
    log_path: str,
    keep: Callable[[subprocess.Popen[bytes]], Any],
    *,
    kind: type[subprocess.Popen[bytes]] = subprocess.Popen,
    stdin: int = subprocess.DEVNULL,
) -> str | None:
    """Launch a daemon in a session of its own and wait until it is ready, at most `READY_SECONDS`.

    Args:
        command: the command; ``--ready-fd`` and its number are added.
        log_path: the file that gets its standard output and error.
        keep: called with the process before the wait, which Ctrl-C may end.
        kind: the class of the process object.
        stdin: as of `subprocess.Popen`.

    Returns:
        `None` when it is ready; else the end of what it has logged.
    """
    descriptor = os.open(log_path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as log:
        begin = log.seek(0, os.SEEK_END)
        reader, writer = os.pipe()
        try:
            try:
                keep(
                    kind(
                        [*command, "--ready-fd", str(writer)],
                        stdin=stdin,
                        stdout=log,
                        stderr=log,
                        pass_fds=[writer],
                        start_new_session=True,
                    )
                )
            finally:
                os.close(writer)
            return None if _await_ready(reader, READY_SECONDS) else _tail(log, begin)
        finally:
            os.close(reader)


def failed_start(tail: str) -> ConnectError:
    """The exception for a daemon that did not become ready, with the end of its log."""
    return ConnectError(f"Failed to connect: the daemon did not start\n{tail}".rstrip())


def _await_ready(descriptor: int, seconds: float) -> bool:
    """Wait for the line on the readiness pipe; false when the pipe was closed without it, or the time has passed."""
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


def _tail(log: BinaryIO, begin: int) -> str:
    """The last lines written to a log since a position."""
    size = log.seek(0, os.SEEK_END)
    log.seek(max(begin, size - _TAIL_BYTES))
    return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-_TAIL_LINES:])
