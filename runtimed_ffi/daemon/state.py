"""The directory of a daemon: the lock that makes it the only one, and ``daemon.json``.

Storey: daemon (7).  Source: protocol 2, sections 1.2 to 1.5.  Everything is created with mode 0700 or 0600.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
from collections.abc import Mapping
from typing import Any

from runtimed_ffi._system.permissions import make_base, make_private
from runtimed_ffi.daemon.files import atomic
from runtimed_ffi.daemon.kernels import kernel_directory
from runtimed_ffi.daemon.ports import Json
from runtimed_ffi.places import Layout, read_info

_DESCRIPTION_LIMIT = 4096
"""Bytes read of a workspace's description."""


class AlreadyRunning(Exception):
    """Another daemon holds the lock.  ``info`` is its ``daemon.json``, empty if unknown."""

    def __init__(self, info: Json) -> None:
        self.info = info
        pid, endpoint = info.get("pid", 0), info.get("endpoint", "unknown")
        super().__init__(f"another daemon is running (pid {pid}, endpoint {endpoint})")


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

    Raises:
        AlreadyRunning: Another daemon has the lock.
        Unsafe: Other users could change the files.
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
            atomic.replace(path, json.dumps(info, indent=2, ensure_ascii=False).encode("utf-8"))
        return info

    def close(self) -> None:
        """Remove ``daemon.json`` and the directory of the kernels, with what still runs there, release the lock.

        Idempotent.
        """
        if self._lock < 0:
            return
        for path in self.paths.info_files:
            if read_info(path).get("pid") == os.getpid():
                atomic.remove(path)
        kernel_directory.clear(self.paths.kernels)
        os.close(self._lock)
        self._lock = -1
