"""Notebook files on disk: which room has one, reading, replacing as a whole.

Storey: daemon (7).  Source: protocol 2, sections 5.13 and 9.8.  A path that comes from the wire is used only here, and
only after ``path_of`` and ``read`` have looked at it.  Every function may be called from any thread.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
import time
from typing import Callable, NamedTuple

from runtimed_ffi.daemon.files import atomic

SIZE_LIMIT = 256 * 1024 * 1024
"""Bytes of the largest file that is read; nbformat keeps pictures in the file, so notebooks do get large."""

_PATH_LIMIT = 4096

_CLOCK_GRAIN = 100_000_000
"""Nanoseconds: two changes closer together may leave one time of change (kernel ticks are 1 to 10 ms)."""

_replacing = threading.Lock()
"""Held between the last look at a file and its replacement, so that no two rooms replace one file unseen."""


class FileError(Exception):
    """The notebook file cannot be used; the text says which and why."""


class Changed(Exception):
    """The file is no longer what it was when it was read."""


class Content(NamedTuple):
    """A file as it was read."""

    data: bytes
    digest: str
    """SHA-256 of the bytes, in hex."""
    mark: tuple[int, int, int, int]
    """Device, inode, size, time of change."""
    mode: int
    sure: bool
    """Whether an equal mark later means an equal file: not if it had changed just before it was read."""


def path_of(notebook_id: str) -> str | None:
    """The notebook file of the room with this id; ``None`` for a room without one.

    The id must be a normalised absolute path that ends in ``.ipynb``: no ``..``, no ``.``, no double slash, no zero
    byte, at most 4096 bytes, UTF-8.  Any other id is a name.  Whether the file is there is not looked at.
    """
    if not notebook_id.startswith("/") or not notebook_id.endswith(".ipynb") or "\0" in notebook_id:
        return None
    # (normpath leaves two slashes at the start alone, as POSIX has it.)
    if notebook_id.startswith("//") or os.path.normpath(notebook_id) != notebook_id:
        return None
    if os.path.basename(notebook_id) == ".ipynb":
        return None
    try:
        return notebook_id if len(notebook_id.encode("utf-8")) <= _PATH_LIMIT else None
    except UnicodeEncodeError:
        return None


def read(path: str) -> Content | None:
    """The file at a path, symbolic links followed; ``None`` if there is no file or nothing in it.

    Never waits for a device or a pipe.

    Raises:
        FileError: It is no regular file, is larger than ``SIZE_LIMIT``, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from None
    now = time.time_ns()
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise FileError(f"{path} is no regular file")
        if facts.st_size > SIZE_LIMIT:
            raise FileError(f"{path} is larger than {SIZE_LIMIT >> 20} MiB")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(SIZE_LIMIT)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if not data:
        return None
    sure = now - facts.st_mtime_ns > _CLOCK_GRAIN
    return Content(data, digest_of(data), _mark(facts), stat.S_IMODE(facts.st_mode), sure)


def digest_of(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def unchanged(path: str, content: Content | None) -> bool:
    """Whether the file is as it was read, without reading it again."""
    try:
        facts = os.stat(path)
    except OSError:
        return content is None
    return facts.st_size == 0 if content is None else _mark(facts) == content.mark


def replace(
    path: str, data: bytes, seen: Content | None, new_mode: int, writer: str, ready: Callable[[], None]
) -> Content:
    """Put new bytes in the place of a file that was ``seen``, at once and as a whole.

    The bytes are written beside it and on disk before they take its name; a crash leaves the old file or the new one.
    A symbolic link stays one: what it points to is replaced.  The mode is kept; a new file gets ``new_mode``.
    ``writer`` names the writer: what its crash has left beside the file is overwritten, and it never calls this twice
    at a time.  ``ready`` is called when everything is written and only the name is missing.  Returns the file as
    it is then, without its bytes.

    Raises:
        Changed: The file is not what was seen; nothing has happened.
        OSError: The system refuses; nothing has happened.
    """
    target = os.path.realpath(path)
    if not os.path.isdir(os.path.dirname(target)):
        raise FileNotFoundError(errno.ENOENT, "no such directory", os.path.dirname(target))
    temporary = os.path.join(os.path.dirname(target), f".{digest_of(writer.encode('utf-8'))[:16]}.ipynb.tmp")
    atomic.remove(temporary)
    try:
        facts = atomic.write_new(temporary, data, new_mode if seen is None else seen.mode)
        ready()
        with _replacing:
            if not unchanged(target, seen):
                raise Changed(path)
            os.replace(temporary, target)
    except BaseException:
        atomic.remove(temporary)
        raise
    _sync_directory(os.path.dirname(target))
    return Content(b"", digest_of(data), _mark(facts), stat.S_IMODE(facts.st_mode), sure=False)


def set_aside(path: str) -> str:
    """Rename an unreadable file to ``<path>.corrupt`` (with a number if that exists) and return the new name."""
    name, number = path + ".corrupt", 1
    while os.path.exists(name):
        number += 1
        name = f"{path}.corrupt.{number}"
    os.replace(path, name)
    return name


def _mark(facts: os.stat_result) -> tuple[int, int, int, int]:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS):  # Some file systems cannot; the file itself is on disk.
            raise
    finally:
        os.close(descriptor)
