"""Where a daemon may be found: default sockets, environment variables, and the order in which they are tried.

Storey 6 (client). Starts nothing. Source: protocol 2, sections 1.1 to 1.4; python-api, section 1.11.

Order: the path the caller gives; `RUNTIMED_SOCKET_PATH` unless it is empty; the reference daemon's default socket if
a daemon accepts there; ours.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from runtimed_ffi import places
from runtimed_ffi._binding.ffi import StrPath
from runtimed_ffi._client.wire import accepts

SOCKET_VARIABLE = "RUNTIMED_SOCKET_PATH"


class SocketPath(str):
    """The path of a socket: a `str` that can also be asked whether it exists, as a `pathlib.Path` can."""

    __slots__ = ()

    def exists(self) -> bool:
        """Whether there is a file of this name; it need not be a living daemon's."""
        return os.path.exists(self)


class Location(NamedTuple):
    """Where to connect to, and whether it was chosen."""

    path: SocketPath
    given: bool
    """True when the caller or the environment named the path; a daemon is then only started there on request."""


def locate(socket_path: StrPath | None = None) -> Location:
    """The socket to connect to, by the order of this module."""
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
    return SocketPath(places.reference_socket(os.environ))


def own_socket_path() -> SocketPath:
    """The default socket of our own daemon, development mode included."""
    return SocketPath(places.layout(os.environ).socket)
