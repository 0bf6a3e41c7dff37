"""One pool at work: its builds in the background, and what was left on disk by the daemon before.

Storey: daemon (7).  Source: protocol 2, section 4.3.  When to build is the business of ``pool_state``, how of
``recipes``; whose a directory is, of ``leases``.  Everything on the loop's thread, except what says that it blocks.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Coroutine
from typing import Any, Callable, Protocol

from runtimed_ffi.daemon.environments import leases
from runtimed_ffi.daemon.environments.diagnosis import BuildError
from runtimed_ffi.daemon.environments.leases import Lease
from runtimed_ffi.daemon.environments.pool_state import PoolState
from runtimed_ffi.daemon.environments.recipes import Made, Recipe
from runtimed_ffi.daemon.environments.removals import Removals
from runtimed_ffi.daemon.environments.tools import ToolMissing
from runtimed_ffi.daemon.environments.uv import Progress
from runtimed_ffi.daemon.ports import Json, LaunchError

log = logging.getLogger(__name__)

_NAME = re.compile(r"runtimed-(uv|conda)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Owner(Protocol):
    """What a pool has its pools do."""

    removals: Removals

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a build."""

    def announce(self) -> None:
        """The error of a pool has changed."""


class Environment:
    """One environment of a pool, held by this daemon."""

    def __init__(self, kind: str, lease: Lease, made: Made, born: float, remove: Callable[[Lease], object]) -> None:
        self.kind = kind
        self.lease = lease
        self.path = lease.path
        self.python = made.python
        self.variables = made.variables
        self._born = born
        self._remove = remove
        self._gone = False

    @property
    def born(self) -> float:
        return self._born

    @property
    def usable(self) -> bool:
        return os.path.isdir(self.path) and os.access(self.python, os.X_OK)

    def end(self) -> None:
        """It was used or is not wanted: remove it, in the background.  Idempotent."""
        if not self._gone:
            self._gone = True
            self._remove(self.lease)


class Pool:
    """One pool with its builds.  The hands of ``pool_state``."""

    def __init__(
        self, kind: str, target: int, recipe: Recipe, directory: str, slots: asyncio.Semaphore, owner: Owner
    ) -> None:
        self.kind = kind
        self.recipe = recipe
        self.listeners: list[Progress] = []
        self.progress = ""
        self._directory = directory
        self._slots = slots
        self._owner = owner
        self._seen = self._ingredients()
        self.state: PoolState[Environment] = PoolState(
            target, self, time.monotonic, asyncio.get_running_loop().call_later
        )

    def build(self, generation: int) -> None:
        self._owner.spawn(self._build(generation))

    def discard(self, environment: Environment) -> None:
        environment.end()

    def renew(self) -> None:
        """The settings have changed: what is out of date goes, and what failed is tried again."""
        seen, self._seen = self._seen, self._ingredients()
        if seen == self._seen:
            self.state.retry_now()
            return
        for environment in self.state.flush():
            environment.end()

    def _ingredients(self) -> Json | None:
        try:
            return self.recipe.ingredients()
        except LaunchError:
            return None  # The build will say what is wrong with them.

    def changed(self) -> None:
        self._owner.announce()

    async def _build(self, generation: int) -> None:
        async with self._slots:
            lease: Lease | None = None
            try:
                ingredients = self.recipe.ingredients()
                lease = leases.create(self._directory, f"runtimed-{self.kind}-")
                # Low priority unless somebody waits for it.
                made = await self.recipe.make(lease.path, ingredients, self._say, not self.listeners)
                self._mark(lease, leases.READY, ingredients)
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
        self.state.built(Environment(self.kind, lease, made, time.monotonic(), self._owner.removals.begin), generation)

    def _mark(self, lease: Lease, state: str, ingredients: Json) -> None:
        lease.write(state, kind=self.kind, made=time.time(), ingredients=ingredients)

    async def _abandon(self, lease: Lease | None) -> None:
        if lease is not None:
            await asyncio.wait({self._owner.removals.begin(lease, awaited=True)})

    def _failed(self, error: Exception, generation: int) -> None:
        package = error.failed_package if isinstance(error, BuildError) else None
        text = str(error)
        if isinstance(error, OSError):
            text = f"{self._directory} cannot be written, free some space or choose another (--cache-dir): {error}"
        elif not isinstance(error, (BuildError, ToolMissing, LaunchError)):
            log.error("a build failed", exc_info=error)
        log.warning("the %s pool cannot build an environment: %s", self.kind, text)
        self.state.failed(text, package, generation)

    def _say(self, text: str) -> None:
        self.progress = text
        for listener in list(self.listeners):
            listener(text)

    def adopt(self) -> tuple[list[Environment], list[Lease]]:
        """What is on disk and fits; and the rest of ours, unless somebody still lives in it.  Blocks."""
        adopted: list[Environment] = []
        unwanted: list[Lease] = []
        for path in leases.marked(self._directory, f"runtimed-{self.kind}-"):
            lease = leases.acquire(path) if _NAME.fullmatch(os.path.basename(path)) else None
            if lease is None:
                continue  # Another daemon holds it, or it is none of ours.
            mark = lease.read()
            if mark.get("state") == leases.GIVEN:
                lease.release()
                continue
            environment = self._revive(lease, mark)
            if environment is not None and len(adopted) < self.state.target:
                adopted.append(environment)
            elif leases.inhabited(path):
                lease.release()
            else:
                unwanted.append(lease)
        return adopted, unwanted

    def _revive(self, lease: Lease, mark: Json) -> Environment | None:
        """An environment from its mark, if it is unused, complete and up to date."""
        made = mark.get("made")
        if mark.get("state") != leases.READY or not isinstance(made, (int, float)):
            return None
        try:
            if mark.get("ingredients") != self.recipe.ingredients():
                return None
            facts = self.recipe.made(lease.path, mark)
        except (LaunchError, ToolMissing):
            return None
        # The mark has the time of day; the pool counts on a clock that nobody sets.
        born = time.monotonic() - max(0.0, time.time() - made)
        environment = Environment(self.kind, lease, facts, born, self._owner.removals.begin)
        return environment if environment.usable else None

    def given(self, path: str) -> Environment | None:
        """The environment that was handed over with this path, held again, or ``None`` if there is none.  Blocks."""
        path = os.path.abspath(path)
        found = _NAME.fullmatch(os.path.basename(path))
        if os.path.dirname(path) != self._directory or found is None or found.group(1) != self.kind:
            return None
        lease = leases.acquire(path)
        if lease is None:
            return None
        mark = lease.read()
        if mark.get("state") == leases.GIVEN and not leases.inhabited(path):
            environment = self._revive(lease, dict(mark, state=leases.READY))
            if environment is not None:
                self._mark_again(lease, mark, leases.READY)
                return environment
        lease.release()
        return None

    def hand_over(self, environment: Environment) -> Json:
        """Give an environment to a client: the ``env`` object of 4.2.  The daemon forgets it."""
        self._mark_again(environment.lease, environment.lease.read(), leases.GIVEN)
        environment.lease.release()
        return {"env_type": self.kind, "venv_path": environment.path, "python_path": environment.python}

    def _mark_again(self, lease: Lease, mark: Json, state: str) -> None:
        lease.write(**dict(mark, state=state))
