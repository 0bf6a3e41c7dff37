"""Whose files a daemon works with: only its user's, in directories that no other user can change.

Storey 5 (ground); imports the standard library and `places`.

A notebook is a program that runs with the user's rights. Another user who can replace the socket, the lock or a
document can run programs as that user, so a daemon refuses to work where that is possible (the reference does not
check; protocol 2, sections 1.4 and 13.8).
"""

from __future__ import annotations

import os
import stat

from runtimed_ffi.places import Layout

_ADVICE = "choose a directory of your own with --base-dir or --socket"


class Unsafe(Exception):
    """Another user could change the daemon's files. The text says what to do."""


def make_base(paths: Layout) -> None:
    """Make the directory of a daemon, and see that no other user can change what is in it.

    The first thing a daemon does, and a command that starts one: before a log is opened.

    Raises:
        Unsafe: another user could change a file.
        OSError: the directory cannot be made or looked at.
    """
    for directory in {paths.base, os.path.dirname(paths.socket)}:
        os.makedirs(directory, 0o700, exist_ok=True)
        check_shared_directory(directory)
    for path in (paths.lock, paths.log, paths.socket, *paths.info_files):
        check_own(path)


def check_shared_directory(path: str) -> None:
    """See that no other user can rename or remove our files in a directory, which may be shared.

    It must belong to this user or to root, and all may write into it only with the sticky bit, as into ``/tmp``.

    Raises:
        Unsafe, OSError: as `make_base`.
    """
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise Unsafe(f"{path} is not a directory; {_ADVICE}")
    if found.st_uid not in (os.geteuid(), 0):
        raise Unsafe(f"{path} belongs to user {found.st_uid}, not to you ({os.geteuid()}); {_ADVICE}")
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise Unsafe(f"other users can write into {path}; run `chmod o-w {path}`, or {_ADVICE}")


def check_own(path: str) -> None:
    """See that a file or directory is this user's and that others cannot write to it, if it is there.

    A symbolic link must be this user's as well.

    Raises:
        Unsafe, OSError: as `make_base`.
    """
    for look in (os.lstat, os.stat):
        try:
            found = look(path)
        except FileNotFoundError:
            return
        if found.st_uid != os.geteuid():
            raise Unsafe(f"{path} belongs to user {found.st_uid}, not to you ({os.geteuid()}); {_ADVICE}")
        if found.st_mode & stat.S_IWOTH and not stat.S_ISLNK(found.st_mode):
            raise Unsafe(f"other users can write to {path}; run `chmod o-w {path}`, or {_ADVICE}")


def make_private(path: str) -> None:
    """Make a directory that only this user can enter; one that is there must be this user's.

    Raises:
        Unsafe, OSError: as `make_base`.
    """
    check_own(path)
    os.makedirs(path, 0o700, exist_ok=True)
    check_own(path)
