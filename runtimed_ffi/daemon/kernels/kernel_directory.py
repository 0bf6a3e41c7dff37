"""The private directories of kernels: made for one kernel, removed with it, and searched for what a crash has left.

Storey: daemon (7).  A kernel has the path of its connection file on its command line, and that path is as good as a
name: it lies in a directory that only the daemon with the lock uses and has a random part.  So what a killed daemon
left running is found by looking at command lines.  Nothing has to be written down for it before or after a start, no
number of a process is believed that may belong to another one by now, and what does not carry such a path is not
touched.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import stat
import tempfile
import time
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

ORPHANS_END = 5.0
"""Seconds to wait until killed orphans are gone."""

_PREFIX = "rtd-"
_SOCKET_PATH_LIMIT = 103
"""Bytes of a socket path that every platform takes (Linux 107, macOS 103)."""


class KernelDirectory(NamedTuple):
    """A directory (mode 0700) for connection file and sockets of one kernel."""

    entry: str
    """Its name among the daemon's kernels."""
    path: str
    """Where it is: the same, or a temporary directory behind a link if that would be too long for sockets."""


def make(parent: str) -> KernelDirectory:
    """A new directory among those of the daemon's kernels."""
    entry = os.path.join(parent, secrets.token_hex(4))
    if len(os.fsencode(os.path.join(entry, "s-55"))) <= _SOCKET_PATH_LIMIT:
        os.mkdir(entry, 0o700)
        return KernelDirectory(entry, entry)
    path = tempfile.mkdtemp(prefix=_PREFIX)
    os.symlink(path, entry)
    return KernelDirectory(entry, path)


def remove(directory: KernelDirectory) -> None:
    """Remove it with everything in it."""
    shutil.rmtree(directory.path, ignore_errors=True)
    if directory.entry != directory.path and os.path.islink(directory.entry):
        os.unlink(directory.entry)


def clear(parent: str) -> list[int]:
    """End the processes of all kernels there, remove all their directories and the parent; return the processes.

    For a daemon that has the lock and no kernel of its own: what runs there has lost its daemon.  Blocks up to
    ``ORPHANS_END`` seconds, but only if there is something.
    """
    directories = [_resolved(entry) for entry in _entries(parent)]
    ended: list[int] = []
    if directories:
        ended = _end_processes([directory.path for directory in directories])
    for directory in directories:
        remove(directory)
    shutil.rmtree(parent, ignore_errors=True)
    return ended


def _entries(parent: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(parent) as entries:
            return list(entries)
    except OSError:
        return []


def _resolved(entry: os.DirEntry[str]) -> KernelDirectory:
    """Where an entry leads; a link is followed only to what ``make`` would have made."""
    if entry.is_symlink():
        target = os.readlink(entry.path)
        try:
            facts = os.lstat(target)
        except OSError:
            return KernelDirectory(entry.path, entry.path)
        ours = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid()
        if ours and os.path.basename(target).startswith(_PREFIX):
            return KernelDirectory(entry.path, target)
    return KernelDirectory(entry.path, entry.path)


def _end_processes(directories: list[str]) -> list[int]:
    import psutil  # Rarely needed, and the daemon is to start quickly.

    prefixes = tuple(os.path.join(directory, "") for directory in directories)
    found: list[Any] = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(prefix in word for word in process.cmdline() for prefix in prefixes):
                found.append(process)
        except psutil.Error:  # Gone, or the process of another user.
            continue
    for process in found:
        log.warning("process %d is a kernel that has lost its daemon; it is ended", process.pid)
        try:
            # is_running() compares start times: the number still belongs to the same process.
            if process.is_running() and os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        except (psutil.Error, OSError) as error:
            log.warning("process %d cannot be ended: %s", process.pid, error)
    deadline = time.monotonic() + ORPHANS_END
    while any(_lives(process) for process in found) and time.monotonic() < deadline:
        time.sleep(0.005)  # They are not our children: there is nothing to wait on.
    return [process.pid for process in found]


def _lives(process: Any) -> bool:
    import psutil

    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
