"""One pool: its builds in the background, and what an earlier daemon has left on disk.

Storey: daemon (7).  Source: protocol 2, section 4.3.  ``pool_state`` decides when to build, ``recipes`` know how, and
``leases`` say whose a directory is.  Everything on the loop's thread, except methods that are marked as blocking.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from typing import Callable

from runtimed_ffi.daemon.environments import leases
from runtimed_ffi.daemon.environments.diagnosis import BuildError
from runtimed_ffi.daemon.environments.environment import Environment
from runtimed_ffi.daemon.environments.leases import Lease
from runtimed_ffi.daemon.environments.pool_state import PoolState
from runtimed_ffi.daemon.environments.recipes import Recipe
from runtimed_ffi.daemon.environments.removals import Removals
from runtimed_ffi.daemon.environments.tools import ToolMissing
from runtimed_ffi.daemon.environments.uv import Progress
from runtimed_ffi.daemon.ports import Json, LaunchError
from runtimed_ffi.daemon.tasks import Tasks

log = logging.getLogger(__name__)

_NAME = re.compile(r"runtimed-(uv|conda)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Pool:
    """The environments of one kind, and the builds that make them."""

    def __init__(
        self,
        kind: str,
        target: int,
        recipe: Recipe,
        directory: str,
        slots: asyncio.Semaphore,
        removals: Removals,
        changed: Callable[[], None],
    ) -> None:
        """Create a pool; ``state.start`` opens it.

        Args:
            kind: ``uv`` or ``conda``.
            target: Environments kept ready.
            recipe: How to make one.
            directory: Where they are made.
            slots: Bounds the builds of all pools together.
            removals: Where environments go that are not wanted.
            changed: Called when the error of the pool is another one, or none.
        """
        self.kind = kind
        self.tasks = Tasks()
        """The builds."""
        self.listeners: list[Progress] = []
        """Launches that wait for an environment; without any, builds have low priority."""
        self.progress = ""
        """What the build does at the moment, for people."""
        self._recipe = recipe
        self._directory = directory
        self._slots = slots
        self._removals = removals
        self._built_from = self._ingredients()
        self.state = PoolState(
            target, self._begin_build, changed, time.monotonic, asyncio.get_running_loop().call_later
        )

    def settings_changed(self) -> None:
        """Remove environments that are out of date, or try again at once what failed."""
        before, self._built_from = self._built_from, self._ingredients()
        if before == self._built_from:
            self.state.retry_now()
        else:
            self.flush()

    def flush(self) -> None:
        """Remove all idle environments and start over."""
        for environment in self.state.flush():
            environment.end()

    def _ingredients(self) -> Json | None:
        try:
            return self._recipe.ingredients()
        except LaunchError:
            return None  # The build reports what is wrong with them.

    # -- builds

    def _begin_build(self, generation: int) -> None:
        self.tasks.spawn(self._build(generation))

    async def _build(self, generation: int) -> None:
        async with self._slots:
            lease: Lease | None = None
            try:
                ingredients = self._recipe.ingredients()
                lease = leases.create(self._directory, f"runtimed-{self.kind}-")
                made = await self._recipe.make(lease.path, ingredients, self._report, not self.listeners)
                lease.write(leases.READY, kind=self.kind, made=time.time(), ingredients=ingredients)
            except asyncio.CancelledError:
                await self._abandon(lease)
                raise
            except Exception as error:
                await self._abandon(lease)
                self._failed(error, generation)
                return
            finally:
                self.progress = ""
        log.info("%s is ready", lease.path)
        self.state.built(Environment(lease, made, self._removals), generation)

    async def _abandon(self, lease: Lease | None) -> None:
        if lease is not None:
            await asyncio.wait({self._removals.begin(lease, awaited=True)})

    def _failed(self, error: Exception, generation: int) -> None:
        package = error.failed_package if isinstance(error, BuildError) else None
        text = str(error)
        if isinstance(error, OSError):
            text = f"{self._directory} cannot be written, free some space or choose another (--cache-dir): {error}"
        elif not isinstance(error, (BuildError, ToolMissing, LaunchError)):
            log.error("a build failed", exc_info=error)
        log.warning("the %s pool cannot build an environment: %s", self.kind, text)
        self.state.failed(text, package, generation)

    def _report(self, text: str) -> None:
        self.progress = text
        for listener in list(self.listeners):
            listener(text)

    # -- what is on disk

    def adopt(self) -> tuple[list[Environment], list[Lease]]:
        """Look at what an earlier daemon has left.  Blocks.

        Returns:
            The environments that can be used, as many as the target, and the leases of those to remove: no process
            runs in them.
        """
        adopted: list[Environment] = []
        unwanted: list[Lease] = []
        for path in leases.marked(self._directory, f"runtimed-{self.kind}-"):
            lease = leases.acquire(path) if _NAME.fullmatch(os.path.basename(path)) else None
            if lease is None:
                continue  # Another daemon holds it, or the directory is not ours.
            marker = lease.read()
            if marker.get("state") == leases.GIVEN:
                lease.release()
                continue
            environment = self._revive(lease, marker)
            if environment is not None and len(adopted) < self.state.target:
                adopted.append(environment)
            elif leases.in_use(path):
                lease.release()
            else:
                unwanted.append(lease)
        return adopted, unwanted

    def _revive(self, lease: Lease, marker: Json) -> Environment | None:
        """The environment of a marker, if it is unused, complete and up to date."""
        made = marker.get("made")
        if marker.get("state") != leases.READY or not isinstance(made, (int, float)):
            return None
        try:
            if marker.get("ingredients") != self._recipe.ingredients():
                return None
            facts = self._recipe.made(lease.path)
        except (LaunchError, ToolMissing):
            return None
        # The marker has the time of day; the age is counted on a clock that cannot be set.
        environment = Environment(lease, facts, self._removals, age=max(0.0, time.time() - made))
        return environment if environment.usable else None

    # -- clients

    def hand_over(self, environment: Environment) -> Json:
        """Give an environment to a client, and its lease up; returns the ``env`` object of 4.2."""
        environment.lease.set_state(leases.GIVEN)
        environment.lease.release()
        return {"env_type": self.kind, "venv_path": environment.path, "python_path": environment.python}

    def given(self, path: str) -> Environment | None:
        """The environment in a path, if ``hand_over`` gave it away, with a new lease.  Blocks."""
        path = os.path.abspath(path)
        found = _NAME.fullmatch(os.path.basename(path))
        if os.path.dirname(path) != self._directory or found is None or found.group(1) != self.kind:
            return None
        lease = leases.acquire(path)
        if lease is None:
            return None
        marker = lease.read()
        if marker.get("state") == leases.GIVEN and not leases.in_use(path):
            environment = self._revive(lease, dict(marker, state=leases.READY))
            if environment is not None:
                lease.set_state(leases.READY)
                return environment
        lease.release()
        return None
