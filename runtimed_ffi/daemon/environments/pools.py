"""The pools of this daemon: what a kernel or a client gets from them, and what is known about them.

Storey: daemon (7).  Source: protocol 2, sections 4.2, 4.3 and 11.2.  Everything on the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Coroutine, Mapping
from typing import Any, Callable

from runtimed_ffi.daemon.environments import leases
from runtimed_ffi.daemon.environments.diagnosis import BuildError
from runtimed_ffi.daemon.environments.pool import Environment, Pool
from runtimed_ffi.daemon.environments.pool_state import PoolError
from runtimed_ffi.daemon.environments.recipes import Recipe
from runtimed_ffi.daemon.environments.removals import Removals
from runtimed_ffi.daemon.environments.uv import Progress
from runtimed_ffi.daemon.ports import Json

log = logging.getLogger(__name__)

KINDS = ("uv", "conda")
"""Kinds of environments, as the pool channel names them."""

CONCURRENT_BUILDS = 2
"""Builds of all pools together."""


class PoolSet:
    """All pools.

    Parameters
    ----------
    directory:
        Where the environments are made.
    targets:
        How many of each kind are kept ready; with 0 a kind is made when a kernel asks for it.
    announce:
        Called with the message of the pool-state channel (11.2) when the error of a pool has changed.
    recipes:
        How to make each kind.
    removals:
        Where environments go that are not wanted.
    """

    def __init__(
        self,
        directory: str,
        targets: Mapping[str, int],
        announce: Callable[[Json], None],
        recipes: Mapping[str, Recipe],
        removals: Removals,
    ) -> None:
        self._announce = announce
        self._tasks: set[asyncio.Task[None]] = set()
        self.removals = removals
        self._started = asyncio.Event()
        slots = asyncio.Semaphore(CONCURRENT_BUILDS)
        directory = os.path.abspath(directory)
        self._pools = {kind: Pool(kind, targets.get(kind, 0), recipes[kind], directory, slots, self) for kind in KINDS}

    # -- life

    async def start(self) -> None:
        """Look at what is on disk, begin to remove what is of no use, and to build."""
        loop = asyncio.get_running_loop()
        for pool in self._pools.values():
            try:
                adopted, unwanted = await loop.run_in_executor(None, pool.adopt)
            except OSError as error:
                log.warning("the environments of the %s pool cannot be read: %s", pool.kind, error)
                adopted, unwanted = [], []
            for lease in unwanted:
                self.removals.begin(lease)
            pool.state.start(adopted)
        self._started.set()

    async def close(self, timeout: float) -> None:
        """End the builds, and what they have made so far; what is ready stays for the next daemon.

        Takes no longer than ``timeout`` seconds.
        """
        for pool in self._pools.values():
            for environment in pool.state.close():
                environment.lease.release()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a build."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- facts

    def target(self, kind: str) -> int:
        """How many environments of a kind are kept ready."""
        return self._pools[kind].state.target

    def stats(self) -> Json:
        """The ``stats`` object of 4.2."""
        stats: Json = {}
        for kind, pool in self._pools.items():
            stats[f"{kind}_available"] = len(pool.state.available)
            stats[f"{kind}_warming"] = pool.state.building
        for kind, error in self._errors().items():
            if error is not None:
                stats[f"{kind}_error"] = error
        return stats

    def state(self) -> Json:
        """What subscribers of the pool-state channel are told (11.2)."""
        return {f"{kind}_error": error for kind, error in self._errors().items()}

    def _errors(self) -> dict[str, Json | None]:
        now = time.monotonic()
        errors = {kind: pool.state.error for kind, pool in self._pools.items()}
        return {kind: None if error is None else error.as_json(now) for kind, error in errors.items()}

    def announce(self) -> None:
        """Tell the subscribers of the pool-state channel."""
        try:
            self._announce(self.state())
        except Exception:
            log.exception("the state of the pools cannot be announced")

    # -- use

    def take(self, kind: str) -> Json | None:
        """An environment for a client: the ``env`` object of 4.2, or ``None``."""
        pool = self._pools[kind]
        environment = pool.state.take()
        return None if environment is None else pool.hand_over(environment)

    async def give_back(self, kind: str, path: str) -> None:
        """Take back what ``take`` has given.  Any other path is left alone."""
        pool = self._pools[kind]
        environment = await asyncio.get_running_loop().run_in_executor(None, pool.given, path)
        if environment is None:
            log.warning("%s was given back, but is none of our environments: it is left as it is", path)
        else:
            pool.state.give_back(environment)

    async def flush(self) -> None:
        """Remove all idle environments and begin anew, at once."""
        for pool in self._pools.values():
            for environment in pool.state.flush():
                environment.end()
        await self.removals.settle()

    def settings_changed(self) -> None:
        """The packages may be others now: what is out of date goes, and what failed is tried again."""
        for pool in self._pools.values():
            pool.renew()

    async def acquire(self, kind: str, progress: Progress, limit: float | None = None) -> Environment:
        """An environment for a kernel, which owns it until ``end``; waits for one that is being built.

        Raises ``BuildError`` if none can be built, or none is there after ``limit`` seconds.
        """
        await self._started.wait()
        pool = self._pools[kind]
        answer: asyncio.Future[tuple[Environment | None, PoolError | None]] = asyncio.get_running_loop().create_future()

        def waiter(environment: Environment | None, error: PoolError | None) -> None:
            answer.set_result((environment, error))

        pool.listeners.append(progress)
        try:
            pool.state.wait(waiter)
            if not answer.done():
                progress(pool.progress or "waiting for a place to build it")
            await asyncio.wait({answer}, timeout=limit)
        except asyncio.CancelledError:
            pool.state.withdraw(waiter)
            unused = answer.result()[0] if answer.done() else None
            if unused is not None:
                pool.state.give_back(unused)
            raise
        finally:
            pool.listeners.remove(progress)
        if not answer.done():
            pool.state.withdraw(waiter)
            raise BuildError(f"not ready after {limit:g} s; it is still being built")
        environment, error = answer.result()
        if environment is None:
            assert error is not None
            retry = error.as_json(time.monotonic())["retry_in_secs"]
            raise BuildError(f"{error.message} (tried again in {retry} s)", error.failed_package)
        self._use(environment)
        return environment

    def _use(self, environment: Environment) -> None:
        try:
            environment.lease.write(**dict(environment.lease.read(), state=leases.USED))
        except OSError:
            # Without the mark a later daemon would take it for new.
            environment.end()
            raise
