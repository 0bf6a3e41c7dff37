"""Where a daemon may be found: default sockets, environment variables, and the order in which they are tried.

Storey 6 (client). Starts nothing. Source: protocol 2, sections 1.1 to 1.4; python-api, section 1.11.

Order: the path the caller gives; `RUNTIMED_SOCKET_PATH` unless it is empty; the reference daemon's default socket if
somebody accepts there; ours.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import subprocess
import sys
import tempfile
from typing import NamedTuple, Union

from runtimed_ffi._client.wire import accepts

StrPath = Union[str, "os.PathLike[str]"]

SOCKET_VARIABLE = "RUNTIMED_SOCKET_PATH"
SOCKET_NAME = "runtimed.sock"
_GIT_SECONDS = 5.0


class SocketPath(str):
    """The path of a socket: a `str` that can also be asked whether it exists, as a `pathlib.Path` can."""

    __slots__ = ()

    def exists(self) -> bool:
        """Whether there is a file of this name; it need not be a living daemon's."""
        return os.path.exists(self)


class Location(NamedTuple):
    """Where to connect to, and whose choice it was."""

    path: SocketPath
    given: bool
    """True when the caller or the environment named the path; a daemon is then only started there on request."""


def locate(socket_path: StrPath | None = None) -> Location:
    """The socket to connect to, by the order of this module.

    Args:
        socket_path: the caller's choice, or `None`.
    """
    if socket_path is not None:
        return Location(SocketPath(os.fsdecode(socket_path)), True)
    named = os.environ.get(SOCKET_VARIABLE)
    if named:
        return Location(SocketPath(named), True)
    reference = reference_socket_path()
    if reference.exists() and accepts(reference) is None:
        return Location(reference, False)
    return Location(own_socket_path(), False)


def default_socket_path() -> SocketPath:
    """The socket a `Session()` without a path connects to at this moment."""
    return locate().path


def reference_socket_path() -> SocketPath:
    """The default socket of the reference daemon, development mode included."""
    base = os.path.join(cache_directory(), "runt")
    workspace = _workspace()
    if workspace is not None:
        digits = hashlib.sha256(os.fsencode(workspace)).hexdigest()[:12]
        base = os.path.join(base, "worktrees", digits)
    return SocketPath(os.path.join(base, SOCKET_NAME))


def own_socket_path() -> SocketPath:
    """The default socket of our own daemon."""
    return SocketPath(os.path.join(cache_directory(), "runtimed-ffi", SOCKET_NAME))


def cache_directory() -> str:
    """The user's cache directory; the system's temporary directory when the user has no home."""
    home = os.environ.get("HOME") or _home_of_user()
    if sys.platform == "darwin":
        return os.path.join(home, "Library", "Caches") if home else tempfile.gettempdir()
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):
        return named
    return os.path.join(home, ".cache") if home else tempfile.gettempdir()


def _home_of_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


def _workspace() -> str | None:
    """The workspace of the reference's development mode, byte for byte as it was written; `None` in normal mode."""
    named = os.environ.get("CONDUCTOR_WORKSPACE_PATH")
    if named is not None:
        return named
    if os.environ.get("RUNTIMED_DEV") != "1":
        return None
    command = ["git", "rev-parse", "--show-toplevel"]
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    top = os.fsdecode(answer.stdout.strip())
    return top if top and os.path.exists(top) else None
