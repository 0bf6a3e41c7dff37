"""Prewarmed kernels: started ahead of time, handed over when one is requested.

Storey: daemon (7).  A prewarmed kernel is a whole kernel in its own process that has executed nothing and belongs to
no room yet (``kernel_main``).  It is handed over once and to one room, which then has a kernel with a key, random
numbers, a history and counters of its own; argv and environment variables are those it was started with, so only a
launch that wants the same gets it.  Measured against forking a prepared process in docs/kernels.md.

Bounds: ``size`` kernels that wait, together at most ``MEMORY_LIMIT``, none longer than ``MAX_AGE``.  What cannot be
handed over (it has ended, its packages have changed on disk, it fails) is ended, and the launch starts a kernel as
if there were no prewarmed one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import sysconfig
from collections import Counter, deque
from collections.abc import Awaitable, Sequence
from typing import Callable, NamedTuple

from runtimed_ffi.daemon.environments.plans import LaunchPlan
from runtimed_ffi.daemon.kernels.kernel import Kernel
from runtimed_ffi.daemon.kernels.kernel_main import PREWARM
from runtimed_ffi.daemon.ports import Json, KernelGone, KernelListener, KernelPort, LaunchError, Message
from runtimed_ffi.daemon.tasks import Tasks

log = logging.getLogger(__name__)

MAX_AGE = 3600.0
"""Seconds a kernel waits; then a younger one takes its place."""

MEMORY_LIMIT = 512 << 20
"""Bytes of resident memory that all waiting kernels may take together; beyond, no more are started ahead."""

MEMORY_RESERVE = 512 << 20
"""Bytes that must be free on the machine for a kernel to be started ahead."""

SETTLE = 0.5
"""Seconds after a handover in which no new kernel is started: the first cells are more urgent."""

PATIENCE = 30.0
"""Seconds to wait for a quiet machine.  Then the next kernel is started all the same: it is work that will be needed,
done early; only where memory is short it is not done at all."""

_LOOK_AGAIN = 2.0
_RETRY = (5.0, 300.0)
"""First and longest pause, in seconds, after a kernel could not be started ahead."""

Start = Callable[[LaunchPlan, KernelListener], Awaitable[Kernel]]


class Recipe(NamedTuple):
    """What must be equal for a kernel to serve a launch."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    packages: tuple[int, ...]
    """When packages were last installed or removed: what a waiting kernel has imported must be what is there."""


def recipe(plan: LaunchPlan) -> Recipe | None:
    """The recipe of a plan, or ``None`` if kernels for it are never started ahead.

    They are for our own Python kernel on the interpreter of the daemon.  Other environments come and go, and a
    kernelspec may mean a machine that costs money.
    """
    ours = plan.kernel_name is None and plan.transport == "ipc" and plan.kernel_type == "python"
    if not ours or plan.argv[:1] != [sys.executable]:
        return None
    return Recipe(tuple(plan.argv), tuple(sorted(plan.env.items())), _packages())


def _packages() -> tuple[int, ...]:
    """When the directories of installed packages changed, in nanoseconds."""
    times = []
    for name in ("purelib", "platlib"):
        try:
            times.append(os.stat(sysconfig.get_path(name)).st_mtime_ns)
        except OSError:
            times.append(0)
    return tuple(times)


class _Waiting:
    """A kernel that waits, and its listener until it is handed over."""

    def __init__(self, of: Recipe, on_death: Callable[[_Waiting, str], None]) -> None:
        self.recipe = of
        self.kernel: Kernel | None = None
        self.memory = 0
        self.timer: asyncio.TimerHandle | None = None
        self._on_death = on_death

    def on_messages(self, kernel: KernelPort, batch: Sequence[Message]) -> None:
        """No room has sent a request yet."""

    def on_death(self, kernel: KernelPort, reason: str) -> None:
        self._on_death(self, reason)


class PrewarmedKernels:
    """The prewarmed kernels, and every start of a kernel.  Everything on the loop's thread.

    Args:
        start: Starts a kernel.
        directory: Where waiting kernels are; a launch names another one.
        size: How many may wait; 0 for none, ever.
        quiet: Whether the machine is idle enough to start a kernel.
    """

    def __init__(self, start: Start, directory: str, size: int, quiet: Callable[[], bool] | None = None) -> None:
        self._start = start
        self._directory = directory
        self._size = size
        self._quiet = quiet or machine_is_quiet
        self._loop = asyncio.get_running_loop()
        self._wanted: deque[Recipe] = deque(maxlen=size)
        """What the last launches wanted, the latest first: the next will want that, too."""
        self._waiting: list[_Waiting] = []
        self._filling: tuple[Recipe, asyncio.Task[None]] | None = None
        self._awaited = False
        """Whether a launch waits for the kernel that is being started."""
        self._refill: asyncio.Task[None] | None = None
        self._launches = 0
        self._calm = asyncio.Event()
        self._calm.set()
        self._failures = 0
        self._endings = Tasks()
        self._closed = False

    def open(self, plan: LaunchPlan) -> None:
        """Begin with kernels for this plan, at once: whatever starts a daemon is about to need a kernel."""
        first = recipe(plan)
        if first is not None:
            self._wanted.extend([first] * self._size)
            self._fill(immediately=True)

    def facts(self) -> Json:
        """Numbers for people: kernels that wait, that are being started, the bound; memory in bytes."""
        memory = sum(waiting.memory for waiting in self._waiting)
        starting = 0 if self._filling is None else 1
        return {"ready": len(self._waiting), "starting": starting, "size": self._size, "memory": memory}

    # -- launches

    async def launch(self, plan: LaunchPlan, listener: KernelListener) -> Kernel:
        """A kernel for a plan: a prewarmed one, or the one being prewarmed, or a new one.

        Raises:
            LaunchError: The kernel cannot be started.
        """
        self._launches += 1
        self._calm.clear()
        try:
            kernel = await self._take(plan, listener)
            return kernel if kernel is not None else await self._start(plan, listener)
        finally:
            self._launches -= 1
            if not self._launches:
                self._calm.set()
            self._fill()

    async def _take(self, plan: LaunchPlan, listener: KernelListener) -> Kernel | None:
        wanted = recipe(plan) if self._size and not self._closed else None
        if wanted is None:
            return None
        self._wanted.appendleft(wanted)
        waiting = self._pop(wanted)
        if waiting is None and self._filling is not None and self._filling[0] == wanted and not self._awaited:
            self._awaited = True
            try:
                await asyncio.wait({self._filling[1]})
            finally:
                self._awaited = False
            waiting = self._pop(wanted)
        if waiting is None or waiting.kernel is None:
            return None
        kernel = waiting.kernel
        try:
            await kernel.hand_over(plan, listener)
        except (LaunchError, KernelGone, ConnectionError, asyncio.TimeoutError) as error:
            log.warning("a prewarmed kernel cannot be handed over: %s", str(error) or "it does not answer")
            self._end(kernel)
            return None
        except BaseException:
            self._end(kernel)
            raise
        return kernel

    def _pop(self, wanted: Recipe) -> _Waiting | None:
        for waiting in self._waiting:
            if waiting.recipe == wanted and waiting.kernel is not None and waiting.kernel.alive:
                self._forget(waiting)
                return waiting
        return None

    # -- filling

    def _fill(self, immediately: bool = False) -> None:
        """End what is no longer wanted and see that what lacks is started."""
        if self._closed or not self._size:
            return
        spare = Counter(waiting.recipe for waiting in self._waiting) - Counter(self._wanted)
        for waiting in list(self._waiting):
            if spare[waiting.recipe] > 0:
                spare[waiting.recipe] -= 1
                self._discard(waiting)
        if self._refill is None and self._lacking() is not None:
            self._refill = self._loop.create_task(self._fill_up(immediately))

    def _lacking(self) -> Recipe | None:
        lack = Counter(self._wanted) - Counter(waiting.recipe for waiting in self._waiting)
        return next((wanted for wanted in self._wanted if lack[wanted] > 0), None)

    async def _fill_up(self, immediately: bool) -> None:
        """Start what lacks, one after the other."""
        try:
            while not self._closed:
                if not immediately:
                    await self._opportunity()
                wanted = self._lacking()
                if wanted is None or not self._has_room():
                    return
                task = self._loop.create_task(self._start_one(wanted))
                self._filling = wanted, task
                await asyncio.wait({task})
                self._filling = None
                if self._failures:
                    immediately = False
                    await asyncio.sleep(retry_delay(self._failures))
        finally:
            self._refill = None

    async def _opportunity(self) -> None:
        """Wait until the machine and the launches are quiet, at most ``PATIENCE`` seconds."""
        end = self._loop.time() + PATIENCE
        await asyncio.sleep(SETTLE)
        while not self._quiet() and self._loop.time() < end:
            await asyncio.sleep(_LOOK_AGAIN)
        try:
            await asyncio.wait_for(self._calm.wait(), max(end - self._loop.time(), 0.0))
        except asyncio.TimeoutError:
            log.debug("kernels are being launched all the time; one is started ahead between them")

    def _has_room(self) -> bool:
        import psutil

        sizes = [waiting.memory for waiting in self._waiting]
        next_one = max(sizes, default=0)
        if sum(sizes) + next_one > MEMORY_LIMIT:
            log.info("no more kernels are started ahead: %d take %d MiB", len(sizes), sum(sizes) >> 20)
            return False
        free = psutil.virtual_memory().available
        if free < MEMORY_RESERVE:
            log.info("no kernel is started ahead: only %d MiB of memory are free", free >> 20)
            return False
        return True

    async def _start_one(self, wanted: Recipe) -> None:
        waiting = _Waiting(wanted, self._on_death)
        plan = LaunchPlan("python", "", [*wanted.argv, PREWARM], self._directory, dict(wanted.env))
        try:
            kernel = await self._start(plan, waiting)
        except LaunchError as error:
            self._failures += 1
            log.warning("no kernel could be started ahead: %s", error)
            return
        self._failures = 0
        if self._closed:
            self._end(kernel)
            return
        waiting.kernel = kernel
        waiting.memory = _memory(kernel)
        waiting.timer = self._loop.call_later(MAX_AGE, self._expire, waiting)
        self._waiting.append(waiting)

    # -- ends

    def _on_death(self, waiting: _Waiting, reason: str) -> None:
        if waiting in self._waiting:
            log.warning("a prewarmed kernel has ended: %s", reason)
            self._forget(waiting)
            self._fill()

    def _expire(self, waiting: _Waiting) -> None:
        self._discard(waiting)
        self._fill()

    def _discard(self, waiting: _Waiting) -> None:
        self._forget(waiting)
        if waiting.kernel is not None:
            self._end(waiting.kernel)

    def _forget(self, waiting: _Waiting) -> None:
        self._waiting.remove(waiting)
        if waiting.timer is not None:
            waiting.timer.cancel()

    def _end(self, kernel: Kernel) -> None:
        self._endings.hold(kernel.shutdown(0.0))

    async def close(self, timeout: float) -> None:
        """End every kernel that waits or is being prewarmed; wait up to ``timeout`` seconds for that."""
        self._closed = True
        for task in (self._refill, self._filling and self._filling[1]):
            if task is not None:
                task.cancel()
                self._endings.hold(task)
        for waiting in list(self._waiting):
            self._discard(waiting)
        await self._endings.settle(timeout)


def retry_delay(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return float(min(_RETRY[0] * 2.0 ** (failures - 1), _RETRY[1]))


def _memory(kernel: Kernel) -> int:
    """Resident bytes of a kernel's process."""
    import psutil

    try:
        return int(psutil.Process(kernel.process_id).memory_info().rss)
    except psutil.Error:  # It has just ended, which its listener reports.
        return 0


def machine_is_quiet() -> bool:
    """Whether fewer processes than processors want to run, on the average of a minute."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return os.getloadavg()[0] < processors
