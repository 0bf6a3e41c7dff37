"""Prewarmed kernels as real processes: equal to cold ones when handed over, and none is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Callable

import pytest

zmq = pytest.importorskip("zmq", reason="pyzmq is missing")
pytest.importorskip("ipykernel", reason="ipykernel is missing")

from daemon.test_kernels import LIMIT, RecordingListener, gone, plan  # noqa: E402
from daemon.test_orphans import of_directory, until_gone  # noqa: E402
from runtimed_ffi.daemon.environments.plans import LaunchPlan  # noqa: E402
from runtimed_ffi.daemon.kernels import kernel as kernel_module  # noqa: E402
from runtimed_ffi.daemon.kernels import prewarmed  # noqa: E402
from runtimed_ffi.daemon.ports import LaunchError  # noqa: E402

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

    async def cold(self) -> tuple[kernel_module.Kernel, RecordingListener]:
        listener = RecordingListener()
        return await self._start(self.plan, listener), listener

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


async def printed(kernel: kernel_module.Kernel, listener: RecordingListener, code: str) -> str:
    msg_id = await listener.run(kernel, code)
    return "".join(message.content["text"] for message in listener.of(msg_id, "stream"))


async def same_identity(real: Real, path: Path) -> None:
    await real.ready()
    listener = RecordingListener()
    kernel = await real.pool.launch(real.plan, listener)
    cold, cold_listener = await real.cold()
    mine = json.loads(await printed(kernel, listener, IDENTITY))
    other = json.loads(await printed(cold, cold_listener, IDENTITY))
    assert kernel.env_source == real.plan.env_source
    assert mine == other
    assert (mine["cwd"], mine["umask"], mine["environ"]["WISH"]) == (str(path), 0o027, "1")
    counts = [
        message.content["execution_count"] for message in listener.messages if message.msg_type == "execute_input"
    ]
    assert counts == [1]
    types = {message.msg_type for message in listener.messages}
    assert types == {"status", "execute_input", "stream", "execute_reply"}, "the handover sends nothing to the listener"
    number = "import random; print(random.random())"
    numbers = await printed(kernel, listener, number), await printed(cold, cold_listener, number)
    assert numbers[0] != numbers[1]
    await kernel.shutdown()
    await cold.shutdown()


test_it_is_like_one_that_was_just_started = with_real(same_identity, WISH="1")


@with_real
async def test_history_has_no_lines_of_the_wait(real: Real, path: Path) -> None:
    await real.ready()
    listener = RecordingListener()
    kernel = await real.pool.launch(real.plan, listener)
    await listener.run(kernel, "first = 1")
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
    listener = RecordingListener()
    kernel = await real.pool.launch(real.plan, listener)
    assert kernel.process_id != waiting.kernel.process_id
    assert await printed(kernel, listener, "print(1)") == "1\n"
    await kernel.shutdown()


@with_real
async def test_a_prewarmed_kernel_that_does_not_answer_is_ended(real: Real, path: Path) -> None:
    waiting = await real.ready()
    assert waiting.kernel is not None and waiting.kernel.process_id
    os.kill(waiting.kernel.process_id, signal.SIGSTOP)
    limit, kernel_module.HANDOVER_LIMIT = kernel_module.HANDOVER_LIMIT, 0.2
    try:
        kernel = await real.pool.launch(real.plan, RecordingListener())
    finally:
        kernel_module.HANDOVER_LIMIT = limit
    assert kernel.process_id != waiting.kernel.process_id
    await gone(waiting.kernel.process_id)
    await kernel.shutdown()


@with_real
async def test_death_between_handover_and_first_cell_reaches_the_new_listener(real: Real, path: Path) -> None:
    await real.ready()
    listener = RecordingListener()
    kernel = await real.pool.launch(real.plan, listener)
    os.kill(kernel.process_id or 0, signal.SIGKILL)
    await listener.until(lambda: listener.deaths)
    assert listener.deaths == ["Kernel died: killed by SIGKILL"]


@with_real
async def test_a_directory_that_is_gone_fails_as_a_cold_start_does(real: Real, path: Path) -> None:
    await real.ready()
    with pytest.raises(LaunchError, match="missing"):
        await real.pool.launch(real.plan._replace(cwd=str(path / "missing")), RecordingListener())


async def startup_files(real: Real, path: Path) -> None:
    startup = Path(real.plan.env["IPYTHONDIR"]) / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "where.py").write_text("import os\nwhere = os.getcwd()\n")
    await real.ready()
    listener = RecordingListener()
    kernel = await real.pool.launch(real.plan, listener)
    assert await printed(kernel, listener, "print(where)") == f"{path}\n"
    await kernel.shutdown()


@pytest.mark.kernel
def test_startup_files_of_the_user_run_where_the_kernel_is(tmp_path: Path) -> None:
    with_real(startup_files, IPYTHONDIR=str(tmp_path / "ipython"))(tmp_path)


@pytest.mark.kernel
def test_a_session_gets_the_prewarmed_kernel(tmp_path: Path) -> None:
    pytest.importorskip("runtimed_ffi._binding.ffi", reason="the C library is not built")
    import runtimed_ffi
    from daemon.test_service import pool as ask

    def stands_by() -> dict[str, int]:
        (answer,) = ask(Path(daemon.socket_path), {"type": "status"})
        return answer["stats"]["kernels"]

    with runtimed_ffi.Daemon(tmp_path / "d", arguments=["--kernel-pool-size", "1"]) as daemon:
        deadline = time.monotonic() + LIMIT
        while stands_by()["ready"] != 1:
            assert time.monotonic() < deadline, "no prewarmed kernel"
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
