"""The directory of a daemon: where its files are, the lock that makes it the only one, and ``daemon.json``.

Storey: daemon (7).  Source: protocol 2, sections 1.2 to 1.5.  Everything is created with mode 0700 or 0600.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any, NamedTuple

from .kernels import kernel_directory
from .ownership import check_own, check_shared_directory, make_private
from .ports import Json

_DESCRIPTION_LIMIT = 4096
"""Bytes read of a workspace's description."""


class AlreadyRunning(Exception):
    """Another daemon holds the lock.  ``info`` is its ``daemon.json``, empty if unknown."""

    def __init__(self, info: Json) -> None:
        self.info = info
        pid, endpoint = info.get("pid", 0), info.get("endpoint", "unknown")
        super().__init__(f"another daemon is running (pid {pid}, endpoint {endpoint})")


class Layout(NamedTuple):
    """The paths of a daemon."""

    base: str
    socket: str
    blobs: str
    environments: str
    settings: str
    """Directory of ``settings.json``, which people edit."""
    workspace: str | None = None
    """The workspace of development mode, ``None`` in normal mode (1.2)."""

    @property
    def lock(self) -> str:
        return os.path.join(self.base, "daemon.lock")

    @property
    def info(self) -> str:
        return os.path.join(self.base, "daemon.json")

    @property
    def log(self) -> str:
        return os.path.join(self.base, "runtimed.log")

    @property
    def documents(self) -> str:
        return os.path.join(self.base, "notebook-docs")

    @property
    def settings_document(self) -> str:
        return os.path.join(self.base, "settings.automerge")

    @property
    def kernels(self) -> str:
        return os.path.join(self.base, "kernels")

    @property
    def info_files(self) -> list[str]:
        """Where ``daemon.json`` goes: the base, and beside the socket, where clients look (12.4)."""
        beside = os.path.join(os.path.dirname(self.socket), "daemon.json")
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
    """The paths from command line and environment.

    With a socket but no base directory everything lies beside the socket; with neither, in the user's cache
    directory, in development mode (``RUNTIMED_DEV=1`` or ``dev``) once per workspace.  The settings are the user's
    (1.4, never once per workspace), but a daemon with a place of its own has settings of its own.
    """
    workspace = _workspace(environ, dev)
    if base is None and socket is not None:
        base = os.path.dirname(os.path.abspath(socket))
    if settings is None:
        at = base if base is not None else _config_directory(environ)
        settings = os.path.join(at, "runt-notebook")
    if base is None:
        base = os.path.join(_cache_directory(environ), "runtimed-ffi")
        if workspace is not None:
            digest = hashlib.sha256(os.fsencode(workspace)).hexdigest()[:12]
            base = os.path.join(base, "worktrees", digest)
    base = os.path.abspath(base)
    return Layout(
        base,
        os.path.abspath(socket) if socket is not None else os.path.join(base, "runtimed.sock"),
        os.path.abspath(blobs) if blobs is not None else os.path.join(base, "blobs"),
        os.path.abspath(environments) if environments is not None else os.path.join(base, "envs"),
        os.path.abspath(settings),
        workspace,
    )


def _cache_directory(environ: Mapping[str, str]) -> str:
    chosen = environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(chosen):
        return chosen
    home = environ.get("HOME") or os.path.expanduser("~")
    if os.uname().sysname == "Darwin":
        return os.path.join(home, "Library", "Caches")
    return os.path.join(home, ".cache")


def _config_directory(environ: Mapping[str, str]) -> str:
    chosen = environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(chosen):
        return chosen
    home = environ.get("HOME") or os.path.expanduser("~")
    if os.uname().sysname == "Darwin":
        return os.path.join(home, "Library", "Application Support")
    return os.path.join(home, ".config")


def _workspace(environ: Mapping[str, str], dev: bool) -> str | None:
    """The workspace of development mode, or ``None`` (1.2, rules 1 to 4)."""
    chosen = environ.get("CONDUCTOR_WORKSPACE_PATH")
    if chosen is not None:
        return chosen
    if not dev and environ.get("RUNTIMED_DEV") != "1":
        return None
    try:
        answer = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    path = os.fsdecode(answer.stdout).strip()
    return path if path and os.path.exists(path) else None


def make_base(paths: Layout) -> None:
    """Make the directory of the daemon, and see that nobody else can change what is in it.

    The first thing a daemon does, before it opens its log.  Raises ``Unsafe`` or ``OSError``.
    """
    directories = {paths.base, os.path.dirname(paths.socket)}
    for directory in directories:
        os.makedirs(directory, 0o700, exist_ok=True)
        check_shared_directory(directory)
    for path in (paths.lock, paths.log, paths.socket, *paths.info_files):
        check_own(path)


def _description(environ: Mapping[str, str], workspace: str) -> str | None:
    """What people call a workspace (1.3): a variable, else a file in it."""
    named = environ.get("CONDUCTOR_WORKSPACE_NAME")
    if named is not None:
        return named
    try:
        with open(os.path.join(workspace, ".context", "workspace-description"), "rb") as file:
            text = file.read(_DESCRIPTION_LIMIT).decode("utf-8", "replace").strip()
    except OSError:
        return None
    return text or None


class State:
    """The files of a running daemon.  The constructor takes the lock; ``close`` gives it back.

    Raises ``AlreadyRunning`` if another daemon has the lock, and ``Unsafe`` where others could change the files.
    """

    def __init__(self, paths: Layout) -> None:
        self.paths = paths
        make_base(paths)
        self._lock = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            self._lock = -1
            raise AlreadyRunning(read_info(paths.info)) from None

    def prepare(self) -> None:
        """Make the directories; kernels that a dead daemon left running are ended, and their files removed."""
        paths = self.paths
        kernel_directory.clear(paths.kernels)
        for directory in (paths.blobs, paths.documents, paths.kernels):
            make_private(directory)
        # Clients look for the blobs beside the socket and only there (12.4).
        beside = os.path.join(os.path.dirname(paths.socket), "blobs")
        if not os.path.lexists(beside):
            os.symlink(paths.blobs, beside)

    def announce(self, version: str, blobs: Mapping[str, Any] | None = None) -> Json:
        """Write ``daemon.json``, atomically, and return what is in it.  Only after the socket listens.

        ``blobs`` are its members about the blob server, if that runs (1.5; ``blob_prefix`` is ours).
        """
        now = datetime.datetime.now(datetime.timezone.utc)
        info: dict[str, Any] = {
            "endpoint": self.paths.socket,
            "pid": os.getpid(),
            "version": version,
            "started_at": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            **(blobs or {}),
        }
        workspace = self.paths.workspace
        if workspace is not None:
            info["worktree_path"] = workspace
            description = _description(os.environ, workspace)
            if description is not None:
                info["workspace_description"] = description
        for path in self.paths.info_files:
            _write_atomically(path, json.dumps(info, indent=2, ensure_ascii=False))
        return info

    def close(self) -> None:
        """Remove ``daemon.json`` and the directory of the kernels, with what still runs there, release the lock.

        Idempotent.
        """
        if self._lock < 0:
            return
        for path in self.paths.info_files:
            if read_info(path).get("pid") == os.getpid():
                _remove(path)
        kernel_directory.clear(self.paths.kernels)
        os.close(self._lock)
        self._lock = -1


def is_locked(path: str) -> bool:
    """Whether a daemon holds the lock file."""
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


def read_info(path: str) -> Json:
    """The content of a ``daemon.json``; empty if there is none or it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            info = json.load(file)
    except (OSError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}


def _write_atomically(path: str, text: str) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
