"""What a forked child needs: a lock that no thread has taken there (storey 5, ground: the standard library only).

Threads that held a lock when the process forked do not exist in the child, so the lock would never be released.
"""

from __future__ import annotations

import os
import threading


class ProcessLock:
    """A lock that every forked child has anew.

    For what a child may still touch of its parent's; what it may not is refused before any lock is taken.

    Threads: any, as with ``threading.Lock``; used in a ``with`` statement only.
    """

    def __init__(self) -> None:
        self._locks = {os.getpid(): threading.Lock()}

    def __enter__(self) -> None:
        pid = os.getpid()
        # Two threads of a child that come first get the same one: setdefault is one step.
        lock = self._locks.get(pid) or self._locks.setdefault(pid, threading.Lock())
        lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._locks[os.getpid()].release()
