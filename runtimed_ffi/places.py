"""Where a daemon lives: its directories, files and socket, and the command that runs it.

Storey 5 (binding); imports the standard library only. Client, commands and daemon take these facts from here, so that
all of them mean the same daemon. Source: protocol 2, sections 1.1 to 1.5.

Nothing here creates or changes a file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

SOCKET_NAME = "runtimed.sock"
LOG_NAME = "runtimed.log"
INFO_NAME = "daemon.json"

IDLE_SECONDS = 4 * 3600.0
"""Seconds without peers and work after which a daemon on the default socket ends."""

_GIT_SECONDS = 5.0


class Layout(NamedTuple):
    """The paths of one daemon; all absolute."""

    base: str
    socket: str
    blobs: str
    environments: str
    settings: str
    """Directory of ``settings.json``, which people edit."""
    workspace: str | None = None
    """The workspace of development mode, verbatim; `None` in normal mode."""

    @property
    def lock(self) -> str:
        """The file that a running daemon holds locked."""
        return os.path.join(self.base, "daemon.lock")

    @property
    def info(self) -> str:
        """``daemon.json``, what a running daemon writes about itself."""
        return os.path.join(self.base, INFO_NAME)

    @property
    def log(self) -> str:
        """The log file."""
        return os.path.join(self.base, LOG_NAME)

    @property
    def documents(self) -> str:
        """Directory of the journals of the rooms."""
        return os.path.join(self.base, "notebook-docs")

    @property
    def settings_document(self) -> str:
        """The journal of the settings."""
        return os.path.join(self.base, "settings.automerge")

    @property
    def kernels(self) -> str:
        """Directory with what belongs to running kernels."""
        return os.path.join(self.base, "kernels")

    @property
    def info_files(self) -> list[str]:
        """Where ``daemon.json`` is written: in the base, and beside the socket, where clients look (12.4)."""
        beside = os.path.join(os.path.dirname(self.socket), INFO_NAME)
        return [self.info] if beside == self.info else [self.info, beside]


def layout(
    environ: Mapping[str, str],
    *,
    base: str | None = None,
    socket: str | None = None,
    blobs: str | None = None,
    environments: str | None = None,
    settings: str | None = None,
    dev: bool = False,
) -> Layout:
    """The paths of our daemon, from the environment and the options of a command line.

    With a socket but no base directory everything lies beside the socket; with neither, in the user's cache directory,
    in development mode once per workspace. The settings are the user's (1.4, never once per workspace), but a daemon
    with a directory of its own has settings of its own.

    Args:
        environ: the environment variables.
        base: ``--base-dir``.
        socket: ``--socket``.
        blobs: ``--blob-store-dir``.
        environments: ``--cache-dir``.
        settings: ``--settings-dir``.
        dev: ``--dev``, the same as ``RUNTIMED_DEV=1``.
    """
    workspace = workspace_of(environ, dev)
    if base is None and socket is not None:
        base = os.path.dirname(os.path.abspath(socket))
    if settings is None:
        settings = os.path.join(base if base is not None else config_directory(environ), "runt-notebook")
    base = os.path.abspath(base if base is not None else _default_base(environ, "runtimed-ffi", workspace))
    return Layout(
        base,
        os.path.abspath(socket) if socket is not None else os.path.join(base, SOCKET_NAME),
        os.path.abspath(blobs) if blobs is not None else os.path.join(base, "blobs"),
        os.path.abspath(environments) if environments is not None else os.path.join(base, "envs"),
        os.path.abspath(settings),
        workspace,
    )


def reference_socket(environ: Mapping[str, str]) -> str:
    """The default socket of the reference daemon."""
    return os.path.join(_default_base(environ, "runt", workspace_of(environ)), SOCKET_NAME)


def daemon_command(*options: str) -> list[str]:
    """The command that runs our daemon, with the interpreter this program runs in."""
    return [sys.executable, "-m", "runtimed_ffi", "daemon", "run", *options]


def cache_directory(environ: Mapping[str, str]) -> str:
    """The user's cache directory; the system's temporary directory for a user without home."""
    return _user_directory(environ, "XDG_CACHE_HOME", ".cache", "Caches") or tempfile.gettempdir()


def config_directory(environ: Mapping[str, str]) -> str:
    """The user's configuration directory; the current directory for a user without home."""
    return _user_directory(environ, "XDG_CONFIG_HOME", ".config", "Application Support") or os.curdir


def workspace_of(environ: Mapping[str, str], dev: bool = False) -> str | None:
    """The workspace of development mode (1.2), byte for byte as it was written; `None` in normal mode.

    With `dev` it is development mode whatever `RUNTIMED_DEV` says.
    """
    named = environ.get("CONDUCTOR_WORKSPACE_PATH")
    if named is not None:
        return named
    if not dev and environ.get("RUNTIMED_DEV") != "1":
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


def is_locked(path: str) -> bool:
    """Whether a daemon holds this lock file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_info(path: str) -> dict[str, Any]:
    """The content of a ``daemon.json``; empty if there is none or it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            info = json.load(file)
    except (OSError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}


def _default_base(environ: Mapping[str, str], name: str, workspace: str | None) -> str:
    base = os.path.join(cache_directory(environ), name)
    if workspace is None:
        return base
    return os.path.join(base, "worktrees", hashlib.sha256(os.fsencode(workspace)).hexdigest()[:12])


def _user_directory(environ: Mapping[str, str], variable: str, hidden: str, library: str) -> str:
    # An empty HOME counts as none: `os.path.expanduser` would answer the root directory.
    home = environ.get("HOME") or _home_of_user()
    if sys.platform == "darwin":
        return os.path.join(home, "Library", library) if home else ""
    named = environ.get(variable, "")
    if os.path.isabs(named):
        return named
    return os.path.join(home, hidden) if home else ""


def _home_of_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""
