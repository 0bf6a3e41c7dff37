"""Kernels that stand by: what they are like when handed over, when they are not, and that none is lost or left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Callable

import pytest

zmq = pytest.importorskip("zmq", reason="pyzmq is missing")
pytest.importorskip("ipykernel", reason="ipykernel is missing")

from runtimed_ffi.cli import parser  # noqa: E402
from runtimed_ffi.daemon.environments.plans import LaunchPlan  # noqa: E402
from runtimed_ffi.daemon.kernels import kernel as kernel_module  # noqa: E402
from runtimed_ffi.daemon.kernels import prewarmed  # noqa: E402
from runtimed_ffi.daemon.ports import KernelGone, LaunchError  # noqa: E402

from .test_kernels import LIMIT, Ears, gone, plan  # noqa: E402
from .test_orphans import of_directory, until_gone  # noqa: E402

IDENTITY = """
import json, os, random, sys, threading
ip = get_ipython()
print(json.dumps({
    "cwd": os.getcwd(), "path": sys.path, "argv": sys.argv[:-1], "names": sorted(n for n in globals() if n[0] != "_"),
    "count": ip.execution_count, "in": len(In), "out": Out, "dirs": [str(d) for d in _dh], "start": ip.starting_dir,
    "environ": {k: v for k, v in os.environ.items() if k not in ("JPY_PARENT_PID", "PYTEST_CURRENT_TEST")},
    "umask": os.umask(0o077), "leader": os.getpgrp() == os.getpid(), "extensions": sorted(ip.extension_manager.loaded),
    "history": [line for _, line, _ in ip.history_manager.get_range()],
    "main": sorted(vars(sys.modules["__main__"])) == sorted(globals()),
}))
"""


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
    """Starts fake kernels when the gate is open, and remembers them."""

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
async def test_a_launch_gets_what_stands_by_and_another_takes_its_place(
    pool: prewarmed.PrewarmedKernels, s: Starter
) -> None:
    pool.open(WANTED)
    await until(lambda: pool.facts()["ready"] == 1)
    assert await launch(pool) is s.ahead[0]
    assert s.ahead[0].plan is WANTED and s.cold == []
    await until(lambda: pool.facts()["ready"] == 1)
    assert await launch(pool) is s.ahead[1], "each is handed over once"


@with_fakes
async def test_a_launch_joins_the_start_that_is_under_way_and_only_one_does(
    pool: prewarmed.PrewarmedKernels, s: Starter
) -> None:
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
async def test_other_wishes_get_a_kernel_of_their_own(pool: prewarmed.PrewarmedKernels, s: Starter) -> None:
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
async def test_it_learns_what_is_wanted(pool: prewarmed.PrewarmedKernels, s: Starter) -> None:
    pool.open(WANTED)
    await until(lambda: pool.facts()["ready"] == 1)
    other = WANTED._replace(env={"A": "1"})
    await launch(pool, other)
    await until(lambda: len(s.ahead) == 2 and pool.facts()["ready"] == 1)
    assert s.ahead[0].ended, "never more than its size"
    assert dict(s.ahead[1].plan.env) == {"A": "1"}
    assert await launch(pool, other) is s.ahead[1]


def test_packages_that_have_changed_make_it_useless(monkeypatch: pytest.MonkeyPatch) -> None:
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
    s.ahead[1].alive = False  # Its death is not told yet.
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


def test_they_age(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(pool: prewarmed.PrewarmedKernels, s: Starter) -> None:
        pool.open(WANTED)
        await until(lambda: len(s.ahead) >= 2)
        assert s.ahead[0].ended

    monkeypatch.setattr(prewarmed, "MAX_AGE", 0.01)
    with_fakes(body)(monkeypatch)


def test_size_zero_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(pool: prewarmed.PrewarmedKernels, s: Starter) -> None:
        pool.open(WANTED)
        assert await launch(pool) is s.cold[0]
        assert s.attempts == 1

    with_fakes(body, size=0)(monkeypatch)


def test_a_busy_machine_is_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
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


# -- real kernels


class Real:
    """A pool of real kernels in a directory, and what is needed around it."""

    def __init__(self, directory: Path, **environ: str) -> None:
        self.directory = directory / "k"
        self.directory.mkdir()
        self.context = zmq.Context()
        self.pool = prewarmed.PrewarmedKernels(self._start, str(self.directory), 1, lambda: True)
        self.plan = plan(directory)._replace(env=environ)

    async def _start(self, plan: LaunchPlan, listener: Any) -> kernel_module.Kernel:
        return await kernel_module.start(plan, listener, str(self.directory), self.context, umask=0o027)

    async def ready(self) -> prewarmed._Waiting:
        self.pool.open(self.plan)
        assert self.pool._refill is not None
        await self.pool._refill
        (waiting,) = self.pool._waiting
        return waiting

    async def cold(self) -> tuple[kernel_module.Kernel, Ears]:
        ears = Ears()
        return await self._start(self.plan, ears), ears

    async def close(self) -> None:
        await self.pool.close(10.0)
        self.context.destroy(linger=0)
        assert list(self.directory.iterdir()) == [], "files of a kernel were left behind"


def with_real(test: Callable[[Real, Path], Awaitable[None]], **environ: str) -> Callable[[Path], None]:
    def run(tmp_path: Path) -> None:
        async def body() -> None:
            real = Real(tmp_path, **environ)
            try:
                await test(real, tmp_path)
            finally:
                await real.close()

        asyncio.run(asyncio.wait_for(body(), LIMIT))

    run.__name__ = test.__name__
    return pytest.mark.kernel(run)


async def printed(kernel: kernel_module.Kernel, ears: Ears, code: str) -> str:
    msg_id = await ears.run(kernel, code)
    return "".join(message.content["text"] for message in ears.of(msg_id, "stream"))


async def same_identity(real: Real, path: Path) -> None:
    await real.ready()
    ears = Ears()
    kernel = await real.pool.launch(real.plan, ears)
    cold, cold_ears = await real.cold()
    mine = json.loads(await printed(kernel, ears, IDENTITY))
    other = json.loads(await printed(cold, cold_ears, IDENTITY))
    assert kernel.env_source == real.plan.env_source
    assert mine == other
    assert (mine["cwd"], mine["umask"], mine["environ"]["WISH"]) == (str(path), 0o027, "1")
    counts = [message.content["execution_count"] for message in ears.messages if message.msg_type == "execute_input"]
    assert counts == [1]
    types = {message.msg_type for message in ears.messages}
    assert types == {"status", "execute_input", "stream", "execute_reply"}, "nothing of the handover is heard"
    number = "import random; print(random.random())"
    numbers = await printed(kernel, ears, number), await printed(cold, cold_ears, number)
    assert numbers[0] != numbers[1]
    await kernel.shutdown()
    await cold.shutdown()


test_it_is_like_one_that_was_just_started = with_real(same_identity, WISH="1")


@with_real
async def test_history_has_no_lines_of_the_wait(real: Real, path: Path) -> None:
    await real.ready()
    ears = Ears()
    kernel = await real.pool.launch(real.plan, ears)
    await ears.run(kernel, "first = 1")
    content = {"output": False, "raw": True, "hist_access_type": "range", "session": 0, "start": 0, "stop": 10}
    reply = await kernel.request("history_request", content, LIMIT)
    assert [line[2] for line in reply["history"]] == ["first = 1"] or reply["history"][-1][2] == "first = 1"
    assert "handover" not in json.dumps(reply)
    await kernel.shutdown()


@with_real
async def test_one_that_is_killed_while_it_waits_is_replaced(real: Real, path: Path) -> None:
    waiting = await real.ready()
    assert waiting.kernel is not None and waiting.kernel.process_id
    os.kill(waiting.kernel.process_id, signal.SIGKILL)
    ears = Ears()
    kernel = await real.pool.launch(real.plan, ears)
    assert kernel.process_id != waiting.kernel.process_id
    assert await printed(kernel, ears, "print(1)") == "1\n"
    await kernel.shutdown()


@with_real
async def test_a_deaf_one_is_given_up(real: Real, path: Path) -> None:
    waiting = await real.ready()
    assert waiting.kernel is not None and waiting.kernel.process_id
    os.kill(waiting.kernel.process_id, signal.SIGSTOP)
    limit, kernel_module.HANDOVER_LIMIT = kernel_module.HANDOVER_LIMIT, 0.2
    try:
        kernel = await real.pool.launch(real.plan, Ears())
    finally:
        kernel_module.HANDOVER_LIMIT = limit
    assert kernel.process_id != waiting.kernel.process_id
    await gone(waiting.kernel.process_id)
    await kernel.shutdown()


@with_real
async def test_death_between_handover_and_first_cell_reaches_the_new_listener(real: Real, path: Path) -> None:
    await real.ready()
    ears = Ears()
    kernel = await real.pool.launch(real.plan, ears)
    os.kill(kernel.process_id or 0, signal.SIGKILL)
    await ears.until(lambda: ears.deaths)
    assert ears.deaths == ["Kernel died: killed by SIGKILL"]


@with_real
async def test_a_directory_that_is_gone_fails_as_a_cold_start_does(real: Real, path: Path) -> None:
    await real.ready()
    with pytest.raises(LaunchError, match="missing"):
        await real.pool.launch(real.plan._replace(cwd=str(path / "missing")), Ears())


async def startup_files(real: Real, path: Path) -> None:
    startup = Path(real.plan.env["IPYTHONDIR"]) / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "where.py").write_text("import os\nwhere = os.getcwd()\n")
    await real.ready()
    ears = Ears()
    kernel = await real.pool.launch(real.plan, ears)
    assert await printed(kernel, ears, "print(where)") == f"{path}\n"
    await kernel.shutdown()


@pytest.mark.kernel
def test_startup_files_of_the_user_run_where_the_kernel_is(tmp_path: Path) -> None:
    with_real(startup_files, IPYTHONDIR=str(tmp_path / "ipython"))(tmp_path)


# -- whole daemons


def test_who_gets_a_pool() -> None:
    assert parser.default_kernel_pool("", private=False) == 1
    assert parser.default_kernel_pool("", private=True) == 0
    assert parser.default_kernel_pool("3", private=True) == 3
    assert parser.default_kernel_pool("many", private=False) == 1


@pytest.mark.kernel
def test_a_session_gets_the_kernel_that_stood_by(tmp_path: Path) -> None:
    pytest.importorskip("runtimed_ffi._binding.ffi", reason="the C library is not built")
    import runtimed_ffi

    from .test_service import pool as ask

    def stands_by() -> dict[str, int]:
        (answer,) = ask(Path(daemon.socket_path), {"type": "status"})
        return answer["stats"]["kernels"]

    with runtimed_ffi.Daemon(tmp_path / "d", arguments=["--kernel-pool-size", "1"]) as daemon:
        deadline = time.monotonic() + LIMIT
        while stands_by()["ready"] != 1:
            assert time.monotonic() < deadline, "no kernel stands by"
            time.sleep(0.05)
        assert 1 << 20 < stands_by()["memory"] < prewarmed.MEMORY_LIMIT
        (entry,) = (tmp_path / "d" / "kernels").iterdir()
        (pid,) = of_directory(entry)
        with daemon.session() as session:
            session.start_kernel()
            assert session.run("import os; print(os.getpid())").stdout == f"{pid}\n"
            assert [event.execution_count for event in session.get_cells()] == [1]
    assert not (tmp_path / "d" / "kernels").exists()
    until_gone(pid)
