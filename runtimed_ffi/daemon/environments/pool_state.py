"""A pool of environments that wait for a kernel: how many, how old, when to build, what to do when building fails.

Storey: daemon (7).  Source: protocol 2, sections 4.2 and 4.3.  This is a state machine without I/O: builds, time and
removal are passed in, and every method belongs to the loop's thread.  It acts when something happens (a start, a take,
a build that ends, a timer that is due), never because time has passed without anything to do.
"""

from __future__ import annotations

from collections import deque
from typing import Callable, Generic, NamedTuple, Optional, Protocol, TypeVar

from runtimed_ffi.daemon.ports import CallLater, Json, Timer

BACKOFF = (30.0, 60.0, 120.0, 240.0, 300.0)
"""Seconds until a failed build is tried again: after the first failure, the second, ..."""

MAXIMUM_AGE = 172800.0
"""Seconds after which an environment is replaced: its packages have become old."""

CONCURRENT_BUILDS = 1
"""Builds of one pool at the same time; the package caches make the second much quicker than the first."""

WAITER_LIMIT = 256
"""Launches that wait for one pool; more are refused."""


class PoolError(NamedTuple):
    """Why a pool cannot build, and since when."""

    message: str
    failed_package: str | None
    consecutive_failures: int
    retry_at: float
    """On the pool's clock."""

    def as_json(self, now: float) -> Json:
        """The pool error object of 4.2."""
        error: Json = {"message": self.message}
        if self.failed_package is not None:
            error["failed_package"] = self.failed_package
        error["consecutive_failures"] = self.consecutive_failures
        error["retry_in_secs"] = max(0, round(self.retry_at - now))
        return error


class Pooled(Protocol):
    """An environment, as far as the pool is concerned."""

    @property
    def born(self) -> float:
        """When it was built, on the pool's clock."""

    @property
    def usable(self) -> bool:
        """Whether directory and interpreter are (still) there."""


E = TypeVar("E", bound=Pooled)
H = TypeVar("H", bound=Pooled, contravariant=True)
Waiter = Callable[[Optional[E], Optional[PoolError]], None]
"""Called once, with an environment, which is the waiter's then, or with the reason why there is none."""


class Hands(Protocol[H]):
    """What the pool has done for it."""

    def build(self, generation: int) -> None:
        """Start to build; the end is told by ``built`` or ``failed`` with the same number, exactly once."""

    def discard(self, environment: H) -> None:
        """Remove an environment nobody has used."""

    def changed(self) -> None:
        """The error of the pool is another one, or none."""


class PoolState(Generic[E]):
    """One pool.  ``target`` environments are kept ready; waiting launches add to that until they are served."""

    def __init__(self, target: int, hands: Hands[E], clock: Callable[[], float], call_later: CallLater) -> None:
        self.target = target
        self.available: deque[E] = deque()
        self.building = 0
        self.error: PoolError | None = None
        self._hands = hands
        self._clock = clock
        self._call_later = call_later
        self._waiters: deque[Waiter[E]] = deque()
        self._generation = 0
        self._retry: Timer | None = None
        self._aging: Timer | None = None
        self._open = False

    # -- life

    def start(self, adopted: list[E]) -> None:
        """Begin to keep the target, with what was found on disk."""
        self._open = True
        for environment in adopted:
            self.give_back(environment)
        self._turn()

    def close(self) -> list[E]:
        """Build no more; waiters are told.  Returns what was available, which stays on disk for the next daemon."""
        self._open = False
        self._cancel_retry()
        if self._aging is not None:
            self._aging.cancel()
            self._aging = None
        self._fail_waiters(PoolError("the daemon is shutting down", None, 0, 0.0))
        rest = list(self.available)
        self.available.clear()
        return rest

    # -- use

    def take(self) -> E | None:
        """The oldest environment that is young enough and still there, or ``None``.  It is the caller's then."""
        self._drop_old()
        taken = None
        while self.available and taken is None:
            candidate = self.available.popleft()
            if candidate.usable:
                taken = candidate
            else:
                self._hands.discard(candidate)
        self._turn()
        return taken

    def wait(self, waiter: Waiter[E]) -> None:
        """Call ``waiter`` with an environment: at once if there is one, else with the next that is built.

        While building fails it is told the error at once: a launch does not wait for the next try.
        """
        environment = self.take()
        if environment is not None:
            waiter(environment, None)
        elif not self._open:
            waiter(None, PoolError("the daemon is shutting down", None, 0, 0.0))
        elif self._retry is not None:
            waiter(None, self.error)
        elif len(self._waiters) >= WAITER_LIMIT:
            waiter(None, PoolError(f"more than {WAITER_LIMIT} kernels wait for an environment", None, 0, 0.0))
        else:
            self._waiters.append(waiter)
            self._turn()

    def withdraw(self, waiter: Waiter[E]) -> None:
        """Wait no more.  Nothing happens if it has been called."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def give_back(self, environment: E) -> bool:
        """Put an unused environment (back) into the pool; false, and it is discarded, if there is no place for it."""
        fits = len(self.available) < self.target or bool(self._waiters)
        if self._open and fits and environment.usable and not self._is_old(environment):
            self._place(environment)
            self._turn()
            return True
        self._hands.discard(environment)
        return False

    def flush(self) -> list[E]:
        """Give up what is available (the caller removes it) and what is being built, and begin anew at once."""
        dropped = list(self.available)
        self.available.clear()
        self._generation += 1
        self.retry_now()
        return dropped

    def retry_now(self) -> None:
        """Forget the failures: somebody says that things have changed."""
        self._cancel_retry()
        if self.error is not None:
            self.error = None
            self._hands.changed()
        self._turn()

    # -- builds

    def built(self, environment: E, generation: int) -> None:
        """A build has ended well."""
        self.building -= 1
        stale = generation != self._generation
        if self._open and not stale:
            self._cancel_retry()
            if self.error is not None:
                self.error = None
                self._hands.changed()
        if not self._open or stale or not (self._waiters or len(self.available) < self.target):
            self._hands.discard(environment)
        else:
            self._place(environment)
        self._turn()

    def failed(self, message: str, failed_package: str | None, generation: int) -> None:
        """A build has failed; whoever waits is told, and the next try comes later."""
        self.building -= 1
        if not self._open:
            return
        if generation == self._generation:
            failures = 1 if self.error is None else self.error.consecutive_failures + 1
            delay = BACKOFF[min(failures, len(BACKOFF)) - 1]
            self.error = PoolError(message, failed_package, failures, self._clock() + delay)
            self._cancel_retry()
            self._retry = self._call_later(delay, self._on_retry)
            self._hands.changed()
            self._fail_waiters(self.error)
        self._turn()

    # -- inside

    def _place(self, environment: E) -> None:
        if self._waiters:
            self._waiters.popleft()(environment, None)
        else:
            self.available.append(environment)

    def _turn(self) -> None:
        """Build what is missing, and look again when the oldest has become too old."""
        if not self._open:
            return
        while self._retry is None and self.building < min(CONCURRENT_BUILDS, self.missing + self.building):
            self.building += 1
            self._hands.build(self._generation)
        if self._aging is None and self.available:
            oldest = min(environment.born for environment in self.available)
            self._aging = self._call_later(max(0.0, oldest + MAXIMUM_AGE - self._clock()), self._on_age)

    @property
    def missing(self) -> int:
        """Environments that are wanted, not there and not being built."""
        return max(0, self.target + len(self._waiters) - len(self.available) - self.building)

    def _on_age(self) -> None:
        self._aging = None
        self._drop_old()
        self._turn()

    def _drop_old(self) -> None:
        for environment in [environment for environment in self.available if self._is_old(environment)]:
            self.available.remove(environment)
            self._hands.discard(environment)

    def _is_old(self, environment: E) -> bool:
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
