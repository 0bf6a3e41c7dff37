"""Child processes of the daemon: their end, noticed at once, and the end of what they said.

Storey: daemon (7).  Nothing here knows what a kernel is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from typing import Any, Callable

TAIL_LIMIT = 4096
"""Bytes of stderr that are kept."""


def watch_process(process: subprocess.Popen[Any], on_exit: Callable[[int | None], None]) -> None:
    """Call ``on_exit(exit code)`` on the loop as soon as the process ends; what is left of its group is killed.

    By a pidfd where there is one, else by a thread that waits.
    """
    loop = asyncio.get_running_loop()

    def reap() -> None:
        # The dead leader still holds its number here, so the group cannot be another one.
        kill_group(process.pid)
        on_exit(process.wait())

    try:
        descriptor = _open_process(process.pid)
    except (AttributeError, OSError):
        threading.Thread(target=_wait, args=(process, loop, reap), name="kernel-exit", daemon=True).start()
        return

    def readable() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        reap()

    loop.add_reader(descriptor, readable)


def _open_process(pid: int) -> int:
    """A descriptor that is readable when the process has ended.  Raises ``AttributeError`` where there is none."""
    if hasattr(os, "pidfd_open"):
        return int(os.pidfd_open(pid))
    # Interpreters that know less than their C library: PyPy 3.9, CPython built for old kernels.  A thread for every
    # process would do, but PyPy 7.3.11 has been seen to crash while threads come and go.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.pidfd_open(pid, 0))
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return descriptor


def _wait(process: subprocess.Popen[Any], loop: asyncio.AbstractEventLoop, reap: Callable[[], None]) -> None:
    if hasattr(os, "waitid"):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:
        process.wait()
    with contextlib.suppress(RuntimeError):  # The loop has been closed: nothing is left to notify.
        loop.call_soon_threadsafe(reap)


def kill_group(pid: int) -> None:
    """Kill what is left of a process group, if anything."""
    with contextlib.suppress(OSError):  # The group is empty.
        os.killpg(pid, signal.SIGKILL)


def describe_exit(code: int | None) -> str:
    """An exit code in words: ``exit code 3``, ``killed by SIGKILL``."""
    if code is None:
        return "the process has ended"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


class StderrTail:
    """The end of what a process writes to stderr: a pipe read by the loop, of which a few kilobytes are kept."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._descriptor = -1
        self._data = b""

    def open(self) -> int:
        """The descriptor for the process; close it after the start."""
        self._descriptor, write = os.pipe()
        os.set_blocking(self._descriptor, False)
        self._loop.add_reader(self._descriptor, self._read)
        return write

    def _read(self) -> bool:
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.close()
            return False
        self._data = (self._data + data)[-TAIL_LIMIT:]
        return True

    def text(self) -> str:
        """What is known by now, blanks at the ends removed."""
        for _ in range(64):  # A surviving child may write for ever.
            if self._descriptor < 0 or not self._read():
                break
        return self._data.decode("utf-8", "replace").strip()

    def clear(self) -> None:
        """Forget what was said so far."""
        self.text()
        self._data = b""

    def close(self) -> None:
        """Stop reading.  Idempotent."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
