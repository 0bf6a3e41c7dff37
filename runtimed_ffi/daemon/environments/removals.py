"""Environments that are being removed, in the background.

Storey: daemon (7).  They are thousands of files, so another process does it: it can be ended at any time, and the next
daemon goes on.  Everything on the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import os

from runtimed_ffi.daemon.environments import tools
from runtimed_ffi.daemon.environments.leases import Lease
from runtimed_ffi.daemon.tasks import Tasks

log = logging.getLogger(__name__)

CONCURRENT = 2
"""Removals at once that no task waits for; more wait, their environments marked as incomplete already."""

_LIMIT = 600.0
"""Seconds one may take."""


class Removals:
    """All removals of one daemon."""

    def __init__(self) -> None:
        self._tasks = Tasks()
        self._slots = asyncio.Semaphore(CONCURRENT)

    def begin(self, lease: Lease, *, awaited: bool = False) -> asyncio.Task[None]:
        """Remove an environment, its marker last, and give up the hold.  What cannot be removed is logged and stays.

        If it is ``awaited`` it does not wait for others, and has no low priority.
        """
        lease.mark_incomplete()
        task = self._tasks.spawn(self._remove(lease, awaited))
        # Here and not in the task: one that is cancelled at once never begins.
        task.add_done_callback(lambda _: lease.release())
        return task

    async def settle(self) -> None:
        """Wait for those that have begun."""
        await self._tasks.settle()

    async def close(self, timeout: float) -> None:
        """End them; they get ``timeout`` seconds, the next daemon goes on with those that take longer."""
        await self._tasks.settle(timeout)
        await self._tasks.close(timeout)

    async def _remove(self, lease: Lease, awaited: bool) -> None:
        try:
            if awaited:
                await clear(lease.path)
            else:
                async with self._slots:
                    await clear(lease.path, background=True)
            lease.delete_marker()
        except OSError as error:
            log.warning("%s cannot be removed, do it by hand: %s", lease.path, error)


async def clear(path: str, *, background: bool = False) -> None:
    """Remove a directory and everything in it, if it is there; of a link, the link.  Raises ``OSError``."""
    if not os.path.lexists(path):
        return
    try:
        await tools.run(["rm", "-rf", "--", path], _LIMIT, background=background)
    except tools.ToolError as error:
        raise OSError(str(error)) from error
