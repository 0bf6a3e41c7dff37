"""Background tasks of the loop.

Storey: daemon (7).  The loop itself keeps only weak references to its tasks; a :class:`Tasks` holds them until they
have ended, logs the failures that nothing else reports, and ends them together.  Everything on the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class Tasks:
    """The tasks of one owner that have not ended yet."""

    def __init__(self) -> None:
        self._running: set[asyncio.Future[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[asyncio.Future[Any]]:
        return iter(list(self._running))

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task.  An exception that ends it is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self.hold(task)
        return task

    def hold(self, future: asyncio.Future[Any]) -> None:
        """Hold a task or future that something else has made."""
        self._running.add(future)
        future.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Cancel all tasks; they end during the next turns of the loop."""
        for task in self:
            task.cancel()

    async def settle(self, timeout: float | None = None) -> None:
        """Wait until the tasks of this moment have ended, at most ``timeout`` seconds."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=timeout)

    async def close(self, timeout: float) -> None:
        """Cancel all tasks and wait for their end, at most ``timeout`` seconds."""
        self.cancel()
        await self.settle(timeout)

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a background task failed", exc_info=task.exception())
