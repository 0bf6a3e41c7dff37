"""The state of a pool of environments: how many, how old, when to build, when to try again.

Storey: daemon (7).  Source: protocol 2, sections 4.2 and 4.3.  A state machine without I/O: builds and time are passed
in, and every method belongs to the loop's thread.  It acts when something happens (a start, a take, the end of a build,
a timer that is due), never because time has passed without anything to do.
"""

from __future__ import annotations

from collections import deque
from typing import Callable, NamedTuple, Optional

from runtimed_ffi.daemon.environments.environment import Environment
from runtimed_ffi.daemon.ports import CallLater, Json, Timer

BACKOFF = (30.0, 60.0, 120.0, 240.0, 300.0)
"""Seconds until a failed build is tried again: after the first failure, the second, ..."""

MAXIMUM_AGE = 172800.0
"""Seconds after which an environment is replaced: its packages are out of date."""

CONCURRENT_BUILDS = 1
"""Builds of one pool at the same time; the package caches make the second much quicker than the first."""

WAITER_LIMIT = 256
"""Launches that wait for one pool; more are refused."""


class PoolError(NamedTuple):
    """Why a pool has no environment, and when it tries again."""

    message: str
    failed_package: str | None = None
    consecutive_failures: int = 0
    retry_at: float = 0.0
    """On the pool's clock."""

    def as_json(self, now: float) -> Json:
        """The pool error object of 4.2."""
        error: Json = {"message": self.message}
        if self.failed_package is not None:
            error["failed_package"] = self.failed_package
        error["consecutive_failures"] = self.consecutive_failures
        error["retry_in_secs"] = max(0, round(self.retry_at - now))
        return error


Waiter = Callable[[Optional[Environment], Optional[PoolError]], None]
"""Called once: with an environment, which the waiter owns from then on, or with the reason why there is none."""

_CLOSED = PoolError("the daemon is shutting down")


class PoolState:
    """The state of one pool.

    ``target`` environments are kept ready; launches that wait add to that until they are served.
    """

    def __init__(
        self,
        target: int,
        build: Callable[[int], None],
        changed: Callable[[], None],
        clock: Callable[[], float],
        call_later: CallLater,
    ) -> None:
        """Create a pool that is not open yet.

        Args:
            target: Environments kept ready.
            build: Starts a build of this generation, which ends with ``built`` or ``failed``, exactly once, with the
                same number.
            changed: Called when ``error`` is another one, or none.
            clock: Seconds, as ``born`` of the environments is counted.
            call_later: ``loop.call_later``.
        """
        self.target = target
        self.available: deque[Environment] = deque()
        self.building = 0
        self.error: PoolError | None = None
        self._build = build
        self._changed = changed
        self._clock = clock
        self._call_later = call_later
        self._waiters: deque[Waiter] = deque()
        self._generation = 0
        self._retry: Timer | None = None
        self._aging: Timer | None = None
        self._open = False

    # -- life

    def start(self, adopted: list[Environment]) -> None:
        """Begin to keep the target, with the environments that were found on disk."""
        self._open = True
        for environment in adopted:
            self.give_back(environment)
        self._turn()

    def close(self) -> list[Environment]:
        """Stop building, fail the launches that wait, and return what was available: the next daemon's."""
        self._open = False
        self._cancel_retry()
        if self._aging is not None:
            self._aging.cancel()
            self._aging = None
        self._fail_waiters(_CLOSED)
        rest = list(self.available)
        self.available.clear()
        return rest

    # -- use

    def take(self) -> Environment | None:
        """The oldest environment that is young enough and still there, or ``None``.  The caller owns it."""
        self._drop_old()
        taken = None
        while self.available and taken is None:
            candidate = self.available.popleft()
            if candidate.usable:
                taken = candidate
            else:
                candidate.end()
        self._turn()
        return taken

    def wait(self, waiter: Waiter) -> None:
        """Call ``waiter`` with an environment: at once if there is one, else with the next that is built.

        While builds fail, the waiter gets the error at once: a launch does not wait for the next attempt.
        """
        environment = self.take()
        if environment is not None:
            waiter(environment, None)
        elif not self._open:
            waiter(None, _CLOSED)
        elif self._retry is not None:
            waiter(None, self.error)
        elif len(self._waiters) >= WAITER_LIMIT:
            waiter(None, PoolError(f"more than {WAITER_LIMIT} kernels wait for an environment"))
        else:
            self._waiters.append(waiter)
            self._turn()

    def withdraw(self, waiter: Waiter) -> None:
        """Remove a waiter.  Nothing happens if it has been called."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def give_back(self, environment: Environment) -> bool:
        """Put an unused environment (back) into the pool; false if there was no place, then it is removed."""
        fits = len(self.available) < self.target or bool(self._waiters)
        if self._open and fits and environment.usable and not self._is_old(environment):
            self._place(environment)
            self._turn()
            return True
        environment.end()
        return False

    def flush(self) -> list[Environment]:
        """Start over at once: give up what is available (the caller removes it) and what is being built."""
        dropped = list(self.available)
        self.available.clear()
        self._generation += 1
        self.retry_now()
        return dropped

    def retry_now(self) -> None:
        """Forget the failures and build again, because something that builds depend on has changed."""
        self._cancel_retry()
        self._set_error(None)
        self._turn()

    # -- builds

    def built(self, environment: Environment, generation: int) -> None:
        """A build has succeeded."""
        self.building -= 1
        wanted = self._open and generation == self._generation
        if wanted:
            self._cancel_retry()
            self._set_error(None)
        if wanted and (self._waiters or len(self.available) < self.target):
            self._place(environment)
        else:
            environment.end()
        self._turn()

    def failed(self, message: str, failed_package: str | None, generation: int) -> None:
        """A build has failed: fail the launches that wait, and try again later."""
        self.building -= 1
        if not self._open:
            return
        if generation == self._generation:
            failures = 1 if self.error is None else self.error.consecutive_failures + 1
            delay = BACKOFF[min(failures, len(BACKOFF)) - 1]
            error = PoolError(message, failed_package, failures, self._clock() + delay)
            self._cancel_retry()
            self._retry = self._call_later(delay, self._on_retry)
            self._set_error(error)
            self._fail_waiters(error)
        self._turn()

    # -- inside

    @property
    def missing(self) -> int:
        """Environments that are wanted, not there and not being built."""
        return max(0, self.target + len(self._waiters) - len(self.available) - self.building)

    def _set_error(self, error: PoolError | None) -> None:
        if error is not self.error:
            self.error = error
            self._changed()

    def _place(self, environment: Environment) -> None:
        if self._waiters:
            self._waiters.popleft()(environment, None)
        else:
            self.available.append(environment)

    def _turn(self) -> None:
        """Build what is missing, and look again when the oldest environment has become too old."""
        if not self._open:
            return
        while self._retry is None and self.missing and self.building < CONCURRENT_BUILDS:
            self.building += 1
            self._build(self._generation)
        if self._aging is None and self.available:
            oldest = min(environment.born for environment in self.available)
            self._aging = self._call_later(max(0.0, oldest + MAXIMUM_AGE - self._clock()), self._on_age)

    def _on_age(self) -> None:
        self._aging = None
        self._drop_old()
        self._turn()

    def _drop_old(self) -> None:
        for environment in [environment for environment in self.available if self._is_old(environment)]:
            self.available.remove(environment)
            environment.end()

    def _is_old(self, environment: Environment) -> bool:
        return self._clock() - environment.born >= MAXIMUM_AGE

    def _on_retry(self) -> None:
        self._retry = None
        self._turn()

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _fail_waiters(self, error: PoolError) -> None:
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            waiter(None, error)
