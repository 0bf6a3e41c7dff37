"""Waiting for a file lock with a limit (storey 5, ground: the standard library only)."""

from __future__ import annotations

import fcntl
import threading


def acquire(descriptor: int, operation: int, seconds: float) -> bool:
    """Take a lock of `flock`; waits at most `seconds`.

    Args:
        descriptor: the open file. When it is closed the lock goes, also one that comes after the wait has ended.
        operation: `fcntl.LOCK_SH` or `fcntl.LOCK_EX`.
        seconds: limit.

    Returns:
        Whether the lock is held now.

    Raises:
        OSError: the file system has no such locks.
        KeyboardInterrupt: at once, when the main thread waits.
    """
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        pass
    held = threading.Event()

    def wait() -> None:
        fcntl.flock(descriptor, operation)
        held.set()

    # A thread that waits in the kernel learns of the end at once; the program ends without it if there is none.
    threading.Thread(target=wait, name="runtimed-ffi lock", daemon=True).start()
    return held.wait(seconds)
