"""Environments for the dependencies of notebooks: made once per content, shared by the kernels that want the same.

Storey: daemon (7).  Source: protocol 2, section 10.5.  The directory is named by a hash of what is in it, so equal
dependencies share it.  It is made in its final place, because neither virtual nor conda environments can be moved; it
counts as complete once its marker is written (``leases``).  One daemon builds, the others wait for its lock; a
directory that a crash left incomplete is made anew.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Awaitable
from typing import Callable

from runtimed_ffi.daemon.environments import leases
from runtimed_ffi.daemon.environments.leases import Lease
from runtimed_ffi.daemon.environments.removals import Removals, clear
from runtimed_ffi.daemon.environments.uv import Progress

log = logging.getLogger(__name__)

KEEP_SECONDS = 14 * 86400.0
"""Environments that were not used for so long are removed."""

KEEP_COUNT = 32
"""Environments kept at most; those longest unused go first."""

_FOREIGN_LOCK_INTERVAL = 0.2
"""Seconds between looks at an environment that another daemon is building: a file lock cannot be waited for on the
loop, and a thread that waits cannot be cancelled."""

Make = Callable[[str, Progress], Awaitable[None]]
"""Makes an environment in a path that does not exist."""


class _Build:
    """A build of this daemon, and the launches that wait for it."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.listeners: list[Progress] = []

    def say(self, text: str) -> None:
        for listener in list(self.listeners):
            listener(text)


class InlineEnvironments:
    """The cache of environments made for notebooks.  On the loop's thread."""

    def __init__(
        self, directory: str, removals: Removals, keep_seconds: float = KEEP_SECONDS, keep_count: int = KEEP_COUNT
    ) -> None:
        tag = f"{sys.implementation.cache_tag or sys.implementation.name}"
        # uv environments depend on the daemon's interpreter; daemons with another one have their own.
        self._directories = {
            "uv": os.path.join(os.path.abspath(directory), "inline-envs", tag),
            "conda": os.path.join(os.path.abspath(directory), "inline-envs", "conda"),
        }
        self._removals = removals
        self._keep_seconds = keep_seconds
        self._keep_count = keep_count
        self._builds: dict[str, _Build] = {}

    async def obtain(
        self, kind: str, name: str, python_of: Callable[[str], str], make: Make, progress: Progress
    ) -> Lease:
        """The environment of this name, made if it is not there, held against removal until the lease is released.

        The build goes on while a launch waits for it; with the last one it is cancelled and removed.  Raises what
        ``make`` raises, and ``OSError``.
        """
        path = os.path.join(self._directories[kind], name)
        while True:
            lease = _usable(path, python_of(path))
            if lease is not None:
                return lease
            build = self._builds.get(path)
            if build is None:
                build = self._builds[path] = _Build()
                build.task = asyncio.get_running_loop().create_task(self._build(build, path, python_of(path), make))
            await self._join(build, path, progress)

    async def _join(self, build: _Build, path: str, progress: Progress) -> None:
        task = build.task
        assert task is not None
        build.listeners.append(progress)
        try:
            await asyncio.wait({task})
        finally:
            build.listeners.remove(progress)
            if not build.listeners and not task.done():
                if self._builds.get(path) is build:
                    del self._builds[path]
                task.cancel()
                await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    async def _build(self, build: _Build, path: str, python: str, make: Make) -> None:
        try:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            lease = leases.acquire(path, create=True)
            while lease is None:
                build.say("waiting for another daemon that makes the same environment")
                await asyncio.sleep(_FOREIGN_LOCK_INTERVAL)
                lease = leases.acquire(path, create=True)
            try:
                if lease.read().get("state") == leases.READY and os.access(python, os.X_OK):
                    return  # Another daemon has made it meanwhile.
                lease.write(leases.BUILDING)
                await clear(path)
                await make(path, build.say)
                lease.write(leases.READY, made=time.time())
            except BaseException:
                # Also if cancelled again: the lease belongs to the removal from here on.
                removal, lease = self._removals.begin(lease, awaited=True), None
                await asyncio.wait({removal})
                raise
            finally:
                if lease is not None:
                    lease.release()
        finally:
            if self._builds.get(path) is build:
                del self._builds[path]

    async def prune(self) -> None:
        """Begin to remove what has not been used for long, and what is too much."""
        for lease in await asyncio.get_running_loop().run_in_executor(None, self._surplus):
            log.info("%s is removed: not used for long, or too many", lease.path)
            self._removals.begin(lease)

    def _surplus(self) -> list[Lease]:
        """What has not been used for long, and what is too much.  Blocks."""
        found: list[Lease] = []
        paths = [path for directory in self._directories.values() for path in leases.marked(directory, "")]
        oldest_first = sorted(paths, key=leases.last_use)
        now, surplus = time.time(), len(paths) - self._keep_count
        for path in oldest_first:
            if surplus <= 0 and now - leases.last_use(path) < self._keep_seconds:
                continue
            lease = leases.acquire(path)
            if lease is None:
                continue  # In use.
            if leases.in_use(path):
                lease.release()
                continue
            found.append(lease)
            surplus -= 1
        return found


def _usable(path: str, python: str) -> Lease | None:
    """The environment, held together with its other users, if it is complete."""
    lease = leases.acquire(path, shared=True)
    if lease is None:
        return None
    try:
        if lease.read().get("state") == leases.READY and os.access(python, os.X_OK):
            lease.touch()
            return lease
    except BaseException:
        lease.release()
        raise
    lease.release()
    return None
