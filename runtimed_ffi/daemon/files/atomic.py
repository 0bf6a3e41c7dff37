"""Files that are replaced at once and as a whole: a crash leaves the old file or the new one.

Storey: daemon (7).  Every function may be called from any thread.
"""

from __future__ import annotations

import contextlib
import os
import uuid


def replace(path: str, data: bytes, mode: int = 0o600) -> None:
    """Write a file, or replace it.  The bytes are on disk when this returns.

    A symbolic link in its place is replaced, not followed.

    Raises:
        OSError: The old file is still there then.
    """
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        write_new(temporary, data, mode)
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def write_new(path: str, data: bytes, mode: int) -> os.stat_result:
    """Write a file that must not exist yet, and return its facts.  The bytes are on disk when this returns.

    It gets its mode at the end; until everything is written only we can read it.

    Raises:
        OSError: Something is left of the file, perhaps.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
        return os.fstat(file.fileno())


def remove(path: str) -> None:
    """Remove a file, if it is there.  Raises ``OSError``."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
