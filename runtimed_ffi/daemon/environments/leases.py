"""Directories of environments on disk, and the leases that protect them.

Storey: daemon (7).  Beside every environment ``<path>`` lies ``<path>.json``: its marker, a small file
that holds the state of the environment and is locked (``flock``) while a daemon builds, keeps or uses it.  An
environment without a marker is not ours and is never touched; one whose marker is locked is in use by a living daemon.
A crash releases the lock and leaves the state, by which the next daemon decides what to do with the directory.

May be called from any thread.  ``in_use`` takes long (up to seconds), the rest a few system calls.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from typing import Any

from runtimed_ffi.daemon.ports import Json

MARKER_SUFFIX = ".json"
_MARKER_LIMIT = 1 << 20

BUILDING = "building"
"""Incomplete."""
READY = "ready"
"""Complete and unused."""
USED = "used"
"""A kernel of the daemon that holds, or held, the lock runs in it."""
GIVEN = "given"
"""Handed over to a client (``take``), which owns it: never touched again unless it is given back."""


class Lease:
    """The hold on one environment directory.  Made by :func:`acquire`; ends with ``release``."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def read(self) -> Json:
        """The content of the marker: ``state`` and the facts written with it; empty if it cannot be read."""
        try:
            marker = json.loads(os.pread(self._descriptor, _MARKER_LIMIT, 0))
        except (OSError, ValueError):
            return {}
        return marker if isinstance(marker, dict) else {}

    def write(self, state: str, **facts: Any) -> None:
        """Write the state and facts of the environment.  Raises ``OSError``, for instance on a full disk."""
        data = json.dumps({"state": state, **facts}).encode()
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, len(data))

    def set_state(self, state: str) -> None:
        """Change the state and keep the other facts.  Raises ``OSError``."""
        self.write(**dict(self.read(), state=state))

    def touch(self) -> None:
        """Remember that it was used just now."""
        os.utime(self._descriptor)

    def release(self) -> None:
        """Give up the hold and leave the environment as it is.  Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def mark_incomplete(self) -> None:
        """Mark it as incomplete from here on: its removal may be cut short."""
        with contextlib.suppress(OSError):  # On a full disk the marker stays as it was.
            self.write(BUILDING)

    def delete_marker(self) -> None:
        """Remove the marker of an environment that is gone.  Raises ``OSError``."""
        os.unlink(self.path + MARKER_SUFFIX)


def acquire(path: str, *, shared: bool = False, create: bool = False) -> Lease | None:
    """Acquire an environment, exclusively or shared, or return ``None`` if that is not possible now.

    It is not while it is held otherwise, or when it has no marker and ``create`` is false.
    """
    marker = path + MARKER_SUFFIX
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    while True:
        try:
            descriptor = os.open(marker, flags, 0o600)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.EACCES, errno.EISDIR):
                return None
            raise
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        # The previous holder may have removed the file between our opening and locking it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(marker), os.fstat(descriptor)):
                return Lease(path, descriptor)
        os.close(descriptor)


def create(directory: str, prefix: str) -> Lease:
    """A name for a new environment, held and marked as being built; the directory itself is left to the builder."""
    os.makedirs(directory, 0o700, exist_ok=True)
    while True:
        lease = acquire(os.path.join(directory, prefix + str(uuid.uuid4())), create=True)
        if lease is not None:
            try:
                lease.write(BUILDING)
            except OSError:
                with contextlib.suppress(OSError):
                    lease.delete_marker()
                lease.release()
                raise
            return lease


def marked(directory: str, prefix: str) -> list[str]:
    """The paths of the environments in a directory that have a marker and this prefix."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    found = [name[: -len(MARKER_SUFFIX)] for name in names if name.startswith(prefix) and name.endswith(MARKER_SUFFIX)]
    return sorted(os.path.join(directory, name) for name in found)


def last_use(path: str) -> float:
    """When an environment was last used, in seconds since 1970; 0 if it is gone."""
    try:
        return os.stat(path + MARKER_SUFFIX).st_mtime
    except OSError:
        return 0.0


def in_use(path: str) -> bool:
    """Whether a process runs that was started from this environment, a kernel of a daemon that crashed for instance."""
    # psutil comes with ipykernel.
    import psutil

    inside = os.path.join(path, "")
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if any(text.startswith(inside) for text in _programs(process)):
                return True
    return False


def _programs(process: Any) -> Iterator[str]:
    # The interpreter of a virtual environment is a link: the command line names it, the program does not.
    yield from process.cmdline()[:1]
    yield process.exe()
