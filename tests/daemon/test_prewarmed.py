"""The pool of prewarmed kernels with fake kernels: which launch gets one, which does not, none is lost."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable
from typing import Any, Callable

import pytest

zmq = pytest.importorskip("zmq", reason="pyzmq is missing")
pytest.importorskip("ipykernel", reason="ipykernel is missing")

from daemon.test_kernels import LIMIT  # noqa: E402
from runtimed_ffi.cli import parser  # noqa: E402
from runtimed_ffi.daemon.environments.plans import LaunchPlan  # noqa: E402
from runtimed_ffi.daemon.kernels import prewarmed  # noqa: E402
from runtimed_ffi.daemon.ports import KernelGone, LaunchError  # noqa: E402


class FakeKernel:
    """A kernel that can be handed over, or fails to."""

    def __init__(self, plan: LaunchPlan, listener: Any) -> None:
        self.plan, self.listener = plan, listener
        self.alive = True
        self.ended = False
        self.failure: BaseException | None = None
        self.process_id = os.getpid()

    async def hand_over(self, plan: LaunchPlan, listener: Any) -> None:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.plan, self.listener = plan, listener

    def shutdown(self, deadline: float = 2.0) -> Any:
        self.ended, self.alive = True, False
        return asyncio.ensure_future(asyncio.sleep(0))

    def die(self) -> None:
        self.alive = False
        self.listener.on_death(self, "Kernel died: killed by SIGKILL")


class Starter:
    """Starts fake kernels when the gate is open, and records them."""

    def __init__(self) -> None:
        self.ahead: list[FakeKernel] = []
        self.cold: list[FakeKernel] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: LaunchError | None = None
        self.attempts = 0

    async def __call__(self, plan: LaunchPlan, listener: Any) -> Any:
        is_ahead = plan.argv[-1] == prewarmed.PREWARM
        self.attempts += 1
        if is_ahead:
            await self.gate.wait()
            if self.failure is not None:
                raise self.failure
        kernel = FakeKernel(plan, listener)
        (self.ahead if is_ahead else self.cold).append(kernel)
        return kernel


def with_fakes(
    test: Callable[[prewarmed.PrewarmedKernels, Starter], Awaitable[None]], size: int = 1
) -> Callable[..., None]:
    def run(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(prewarmed, "SETTLE", 0.0)
        monkeypatch.setattr(prewarmed, "_RETRY", (0.0, 0.0))
        monkeypatch.setattr(prewarmed, "_packages", lambda: (1, 1))

        async def body() -> None:
            starter = Starter()
            pool = prewarmed.PrewarmedKernels(starter, "/", size, lambda: True)  # type: ignore[arg-type]
            try:
                await asyncio.wait_for(test(pool, starter), LIMIT)
            finally:
                await pool.close(1.0)
            assert all(kernel.ended or not kernel.alive or kernel.plan.env_source for kernel in starter.ahead)
            assert pool.facts()["ready"] == 0

        asyncio.run(body())

    run.__name__ = test.__name__
    return run


WANTED = LaunchPlan("python", "x", [sys.executable, "k"], "/")


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("what was waited for did not come")


async def launch(pool: prewarmed.PrewarmedKernels, wanted: LaunchPlan = WANTED) -> FakeKernel:
    return await pool.launch(wanted, object())  # type: ignore[arg-type,return-value]


@with_fakes
async def test_a_launch_gets_the_prewarmed_kernel_and_another_is_started(
    pool: prewarmed.PrewarmedKernels, s: Starter
) -> None:
    pool.open(WANTED)
    await until(lambda: pool.facts()["ready"] == 1)
    assert await launch(pool) is s.ahead[0]
    assert s.ahead[0].plan is WANTED and s.cold == []
    await until(lambda: pool.facts()["ready"] == 1)
    assert await launch(pool) is s.ahead[1], "each is handed over once"


@with_fakes
async def test_one_launch_joins_the_start_under_way(pool: prewarmed.PrewarmedKernels, s: Starter) -> None:
    s.gate.clear()
    pool.open(WANTED)
    await until(lambda: pool.facts()["starting"] == 1)
    first = asyncio.ensure_future(launch(pool))
    await asyncio.sleep(0)
    assert await launch(pool) in s.cold, "the second would wait for a kernel that the first gets"
    assert not first.done()
    s.gate.set()
    assert await first is s.ahead[0]


@with_fakes
async def test_other_requirements_get_a_kernel_of_their_own(pool: prewarmed.PrewarmedKernels, s: Starter) -> None:
    pool.open(WANTED)
    await until(lambda: pool.facts()["ready"] == 1)
    others = [
        WANTED._replace(argv=["/usr/bin/other", "k"]),
        WANTED._replace(kernel_name="ir"),
        WANTED._replace(transport="tcp"),
        WANTED._replace(env={"A": "1"}),
        WANTED._replace(argv=[sys.executable, "k", "--debug"]),
    ]
    for number, other in enumerate(others):
        assert await launch(pool, other) is s.cold[number]


@with_fakes
async def test_the_pool_prewarms_what_launches_requested(pool: prewarmed.PrewarmedKernels, s: Starter) -> None:
    pool.open(WANTED)
    await until(lambda: pool.facts()["ready"] == 1)
    other = WANTED._replace(env={"A": "1"})
    await launch(pool, other)
    await until(lambda: len(s.ahead) == 2 and pool.facts()["ready"] == 1)
    assert s.ahead[0].ended, "never more than its size"
    assert dict(s.ahead[1].plan.env) == {"A": "1"}
    assert await launch(pool, other) is s.ahead[1]


def test_a_kernel_with_changed_packages_is_not_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(pool: prewarmed.PrewarmedKernels, s: Starter) -> None:
        pool.open(WANTED)
        await until(lambda: pool.facts()["ready"] == 1)
        monkeypatch.setattr(prewarmed, "_packages", lambda: (2, 1))
        assert await launch(pool) is s.cold[0]
        await until(lambda: len(s.ahead) == 2)
        assert s.ahead[0].ended

    with_fakes(body)(monkeypatch)


@with_fakes
async def test_one_that_dies_while_it_waits_is_replaced_and_never_handed_over(
    pool: prewarmed.PrewarmedKernels, s: Starter
) -> None:
    pool.open(WANTED)
    await until(lambda: pool.facts()["ready"] == 1)
    s.ahead[0].die()
    assert pool.facts()["ready"] == 0
    await until(lambda: pool.facts()["ready"] == 1)
    s.ahead[1].alive = False  # Its death is not reported yet.
    assert await launch(pool) is s.cold[0]


@pytest.mark.parametrize("failure", [LaunchError("no directory"), KernelGone("x"), asyncio.TimeoutError()])
def test_a_handover_that_fails_falls_back(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    async def body(pool: prewarmed.PrewarmedKernels, s: Starter) -> None:
        pool.open(WANTED)
        await until(lambda: pool.facts()["ready"] == 1)
        s.ahead[0].failure = failure
        assert await launch(pool) is s.cold[0]
        assert s.ahead[0].ended

    with_fakes(body)(monkeypatch)


@with_fakes
async def test_a_cancelled_launch_leaves_no_kernel(pool: prewarmed.PrewarmedKernels, s: Starter) -> None:
    pool.open(WANTED)
    await until(lambda: pool.facts()["ready"] == 1)
    launching = asyncio.ensure_future(launch(pool))
    await asyncio.sleep(0)
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    assert s.ahead[0].ended


@with_fakes
async def test_failures_are_repeated_and_launches_do_not_wait_for_them(
    pool: prewarmed.PrewarmedKernels, s: Starter
) -> None:
    s.failure = LaunchError("disk full")
    pool.open(WANTED)
    assert await launch(pool) is s.cold[0]
    s.failure = None
    await until(lambda: pool.facts()["ready"] == 1)


def test_each_failure_doubles_the_pause_and_a_success_ends_that(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(map(prewarmed.retry_delay, range(1, 10))) == [5, 10, 20, 40, 80, 160, 300, 300, 300]

    async def body(pool: prewarmed.PrewarmedKernels, s: Starter) -> None:
        failures: list[int] = []
        monkeypatch.setattr(prewarmed, "retry_delay", lambda number: failures.append(number) or 0.0)
        s.failure = LaunchError("disk full")
        pool.open(WANTED)
        for _ in range(2):
            await until(lambda: len(failures) >= 3)
            s.failure = None
            await until(lambda: pool.facts()["ready"] == 1)
            assert failures == list(range(1, len(failures) + 1))
            failures.clear()
            s.failure = LaunchError("disk full")
            s.ahead[-1].die()
        s.failure = None

    with_fakes(body)(monkeypatch)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(pool: prewarmed.PrewarmedKernels, s: Starter) -> None:
        pool.open(WANTED)
        await until(lambda: pool._refill is None)
        assert pool.facts()["ready"] == 2, "a third would be beyond the limit"
        assert pool.facts()["memory"] <= prewarmed.MEMORY_LIMIT

    monkeypatch.setattr(prewarmed, "_memory", lambda kernel: prewarmed.MEMORY_LIMIT * 2 // 5)
    with_fakes(body, size=5)(monkeypatch)


def test_none_is_started_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(pool: prewarmed.PrewarmedKernels, s: Starter) -> None:
        pool.open(WANTED)
        await until(lambda: pool._refill is None)
        assert s.ahead == []
        assert await launch(pool) is s.cold[0]

    monkeypatch.setattr(prewarmed, "MEMORY_RESERVE", 1 << 60)
    with_fakes(body)(monkeypatch)


def test_prewarmed_kernels_age(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(pool: prewarmed.PrewarmedKernels, s: Starter) -> None:
        pool.open(WANTED)
        await until(lambda: len(s.ahead) >= 4)
        assert all(kernel.ended for kernel in s.ahead[:3]), "every generation ages"

    monkeypatch.setattr(prewarmed, "MAX_AGE", 0.01)
    with_fakes(body)(monkeypatch)


def test_size_zero_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(pool: prewarmed.PrewarmedKernels, s: Starter) -> None:
        pool.open(WANTED)
        assert await launch(pool) is s.cold[0]
        assert s.attempts == 1

    with_fakes(body, size=0)(monkeypatch)


def test_a_busy_machine_delays_prewarming_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        loads = iter([False, False, True])
        starter = Starter()
        pool = prewarmed.PrewarmedKernels(starter, "/", 1, lambda: next(loads))  # type: ignore[arg-type]
        await launch(pool)
        await until(lambda: pool.facts()["ready"] == 1)
        assert list(loads) == []
        await pool.close(1.0)
        monkeypatch.setattr(prewarmed, "PATIENCE", 0.01)
        pool = prewarmed.PrewarmedKernels(starter, "/", 1, lambda: False)  # type: ignore[arg-type]
        await launch(pool)
        await until(lambda: pool.facts()["ready"] == 1)
        await pool.close(1.0)

    monkeypatch.setattr(prewarmed, "SETTLE", 0.0)
    monkeypatch.setattr(prewarmed, "_LOOK_AGAIN", 0.001)
    asyncio.run(asyncio.wait_for(body(), LIMIT))


def test_which_daemons_prewarm_by_default() -> None:
    assert parser.default_kernel_pool("", private=False) == 1
    assert parser.default_kernel_pool("", private=True) == 0
    assert parser.default_kernel_pool("3", private=True) == 3
    assert parser.default_kernel_pool("many", private=False) == 1
