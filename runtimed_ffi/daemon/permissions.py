"""Whose files the daemon works with: only its user's, in directories that nobody else can change.

Storey: daemon (7).  A notebook is a program that runs with the user's rights.  Whoever can replace the socket, the lock
or a document can run programs as that user, so a daemon refuses to work where others may (the reference looks at
nothing; protocol 2, sections 1.4 and 13.8).
"""

from __future__ import annotations

import os
import stat

_ADVICE = "choose a directory of your own with --base-dir or --socket"


class Unsafe(Exception):
    """Somebody else could change the daemon's files.  The text says what to do."""


def check_shared_directory(path: str) -> None:
    """See that nobody else can rename or remove our files in a directory, which need not be ours alone.

    It must belong to this user or to root, and only with the sticky bit may everybody write into it, as into ``/tmp``.

    Raises ``Unsafe`` or ``OSError``.
    """
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise Unsafe(f"{path} is not a directory; {_ADVICE}")
    if found.st_uid not in (os.geteuid(), 0):
        raise Unsafe(f"{path} belongs to user {found.st_uid}, not to you ({os.geteuid()}); {_ADVICE}")
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise Unsafe(f"everybody can write into {path}; run `chmod o-w {path}`, or {_ADVICE}")


def check_own(path: str) -> None:
    """See that a file or directory is this user's and that others cannot write to it, if it is there.

    A symbolic link must be this user's as well.

    Raises ``Unsafe`` or ``OSError``.
    """
    for look in (os.lstat, os.stat):
        try:
            found = look(path)
        except FileNotFoundError:
            return
        if found.st_uid != os.geteuid():
            raise Unsafe(f"{path} belongs to user {found.st_uid}, not to you ({os.geteuid()}); {_ADVICE}")
        if found.st_mode & stat.S_IWOTH and not stat.S_ISLNK(found.st_mode):
            raise Unsafe(f"everybody can write to {path}; run `chmod o-w {path}`, or {_ADVICE}")


def make_private(path: str) -> None:
    """Make a directory that only this user can enter; one that is there must be this user's.

    Raises ``Unsafe`` or ``OSError``.
    """
    check_own(path)
    os.makedirs(path, 0o700, exist_ok=True)
    check_own(path)
