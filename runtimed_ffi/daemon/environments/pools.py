"""The pools of this daemon: what a kernel or a client gets from them, and what is known about them.

Storey: daemon (7).  Source: protocol 2, sections 4.2, 4.3 and 11.2.  Everything on the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from typing import Callable

from runtimed_ffi.daemon.environments import leases
from runtimed_ffi.daemon.environments.diagnosis import BuildError
from runtimed_ffi.daemon.environments.environment import Environment
from runtimed_ffi.daemon.environments.pool import Pool
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
    """The pools, one of each kind."""

    def __init__(
        self,
        directory: str,
        targets: Mapping[str, int],
        announce: Callable[[Json], None],
        recipes: Mapping[str, Recipe],
        removals: Removals,
    ) -> None:
        """Create the pools; ``start`` opens them.

        Args:
            directory: Where the environments are made.
            targets: How many of each kind are kept ready; with 0 one is made when a kernel asks for it.
            announce: Called with the message of the pool-state channel (11.2) when the error of a pool has changed.
            recipes: How to make each kind.
            removals: Where environments go that are not wanted.
        """
        self._announce_state = announce
        self._removals = removals
        self._started = asyncio.Event()
        slots = asyncio.Semaphore(CONCURRENT_BUILDS)
        directory = os.path.abspath(directory)
        self._pools = {
            kind: Pool(kind, targets.get(kind, 0), recipes[kind], directory, slots, removals, self._announce)
            for kind in KINDS
        }

    # -- life

    async def start(self) -> None:
        """Adopt what is on disk, begin to remove what is of no use, and to build."""
        loop = asyncio.get_running_loop()
        for pool in self._pools.values():
            try:
                adopted, unwanted = await loop.run_in_executor(None, pool.adopt)
            except OSError as error:
                log.warning("the environments of the %s pool cannot be read: %s", pool.kind, error)
                adopted, unwanted = [], []
            for lease in unwanted:
                self._removals.begin(lease)
            pool.state.start(adopted)
        self._started.set()

    async def close(self, timeout: float) -> None:
        """End the builds and remove what they have made so far, within ``timeout`` seconds.

        What is ready stays for the next daemon.
        """
        for pool in self._pools.values():
            for environment in pool.state.close():
                environment.lease.release()
        await asyncio.gather(*(pool.tasks.close(timeout) for pool in self._pools.values()))

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
        stats.update({name: error for name, error in self.state().items() if error is not None})
        return stats

    def state(self) -> Json:
        """The message of the pool-state channel (11.2)."""
        now = time.monotonic()
        errors = {kind: pool.state.error for kind, pool in self._pools.items()}
        return {f"{kind}_error": None if error is None else error.as_json(now) for kind, error in errors.items()}

    def _announce(self) -> None:
        try:
            self._announce_state(self.state())
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
        """Remove all idle environments and start over, at once."""
        for pool in self._pools.values():
            pool.flush()
        await self._removals.settle()

    def settings_changed(self) -> None:
        """Remove environments that are out of date, or try again at once what failed."""
        for pool in self._pools.values():
            pool.settings_changed()

    async def acquire(self, kind: str, progress: Progress, limit: float | None = None) -> Environment:
        """An environment for a kernel, which owns it until ``end``; waits for one that is being built.

        ``progress`` is called with what the build does, for people.  ``limit`` is in seconds; ``None``: no limit.

        Raises:
            BuildError: None can be built, or none is there in time.
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
        try:
            environment.lease.set_state(leases.USED)
        except OSError:
            # Without that a later daemon would take it for unused.
            environment.end()
            raise
        return environment
