"""Launches of a room: answers, progress, failures, and launches that start by themselves."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from daemon.fakes import (
    FakeBlobs,
    FakeHost,
    KernelFactory,
)
from daemon.stage import LAUNCH, Stage, by_default, settled, staged, turn, until
from runtimed_ffi.daemon.environments.plans import LaunchRequest
from runtimed_ffi.daemon.ports import Launching
from runtimed_ffi.daemon.rooms import requests
from runtimed_ffi.daemon.rooms.requests import NotebookRequests
from runtimed_ffi.daemon.rooms.rooms import Rooms


@staged
async def test_a_launch_uses_the_metadata_of_the_document(s: Stage) -> None:
    snapshot = {"runt": {"schema_version": "1", "uv": {"dependencies": ["pandas"]}}}
    s.host.metadata_of["nb"] = {"runtime": "python", "notebook_metadata": json.dumps(snapshot)}
    s.ask("launch_kernel", kernel_type="python", env_source="auto", notebook_path="/n/a.ipynb")
    await until(lambda: bool(s.factory.requests))
    assert s.factory.requests == [LaunchRequest("python", "auto", "/n/a.ipynb", "nb", snapshot)]


@staged
async def test_progress_of_a_launch_is_broadcast(s: Stage) -> None:
    s.factory.gate.clear()
    s.ask(**dict(LAUNCH, env_source="auto"))
    await turn()
    s.rooms.get("nb").on_progress(Launching("python", "uv:inline"))
    s.rooms.get("nb").on_progress(Launching("python", "uv:inline", "preparing environment: installing pandas"))
    s.ask("get_kernel_info")
    assert s.host.responses()[0]["env_source"] == "uv:inline"
    s.factory.gate.set()
    await until(lambda: len(s.host.take("kernel_status")) == 3)
    assert s.host.brief() == [
        "status starting -",
        "status preparing environment: installing pandas -",
        "-> kernel_info",
        "-> kernel_launched",
        "status idle -",
    ]
    s.rooms.get("nb").on_progress(Launching("python", "uv:inline", "late"))
    assert s.host.brief() == []


@staged
async def test_an_unknown_kernel_type_is_an_answer_and_nothing_else(s: Stage) -> None:
    s.factory.failure = "Failed to launch kernel: Unsupported kernel type: julia"
    s.ask(**dict(LAUNCH, kernel_type="julia"))
    await until(lambda: bool(s.host.responses()))
    await turn()
    assert s.host.brief() == ["-> error Failed to launch kernel: Unsupported kernel type: julia"]


@staged
async def test_launch_answers_before_its_broadcasts(s: Stage) -> None:
    s.ask(**LAUNCH)
    await until(lambda: bool(s.factory.kernels))
    await turn()
    assert s.host.brief() == ["status starting -", "-> kernel_launched", "status idle -"]
    s.ask("launch_kernel", kernel_type="deno", env_source="conda:prewarmed")
    s.ask("get_kernel_info")
    launched, info = s.host.responses()
    assert (launched["result"], launched["kernel_type"]) == ("kernel_already_running", "python")
    assert (info["env_source"], info["status"]) == ("uv:prewarmed", "idle")


@staged
async def test_concurrent_launches_are_one(s: Stage) -> None:
    s.factory.gate.clear()
    s.ask(**LAUNCH)
    s.ask("launch_kernel", 2, kernel_type="deno", env_source="x")
    await turn()
    s.ask("get_kernel_info")
    assert s.host.responses()[0]["status"] == "starting"
    s.factory.gate.set()
    await until(lambda: len(s.host.responses()) == 3)
    assert [item["result"] for item in s.host.responses()[1:]] == ["kernel_launched", "kernel_already_running"]
    assert len(s.factory.kernels) == 1


@staged
async def test_execution_waits_for_the_launch_and_shares_its_failure(s: Stage) -> None:
    s.factory.gate.clear()
    s.factory.failure = "Failed to launch kernel: boom"
    s.ask(**LAUNCH)
    s.execute("a", "b")
    s.factory.gate.set()
    await until(lambda: len(s.host.take("execution_done")) == 2)
    assert s.host.brief() == [
        "status starting -",
        "-> cell_queued",
        "queue - [a]",
        "-> cell_queued",
        "queue - [a b]",
        "-> error Failed to launch kernel: boom",
        "status error: Failed to launch kernel: boom -",
        "done a launch_failed",
        "done b launch_failed",
        "queue - []",
    ]
    s.factory.failure = None
    await s.launch()
    s.execute("a")
    assert s.kernel.executed == ["code a"]


@staged
async def test_queued_during_the_launch_runs_after_it(s: Stage) -> None:
    s.factory.gate.clear()
    s.ask(**LAUNCH)
    s.execute("a")
    s.factory.gate.set()
    await until(lambda: bool(s.factory.kernels) and s.kernel.executed == ["code a"])
    assert s.host.brief()[-2:] == ["status idle -", "queue a []"]


def test_a_launch_that_takes_too_long_is_answered_and_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "LAUNCH_ANSWER_LIMIT", 0.01)

    async def body() -> None:
        s = Stage()
        s.factory.gate.clear()
        s.ask(**LAUNCH)
        await until(lambda: bool(s.host.responses()))
        assert s.host.responses()[0]["result"] == "error"
        s.factory.gate.set()
        await until(lambda: bool(s.factory.kernels))
        s.ask(**LAUNCH)
        await turn()
        assert [item["result"] for item in s.host.responses()] == ["error", "kernel_already_running"]

    asyncio.run(body())


@staged
async def test_shutdown_while_launching_answers_the_launch(s: Stage) -> None:
    s.factory.gate.clear()
    s.ask(**LAUNCH)
    await turn()
    s.ask("shutdown_kernel")
    await turn()
    assert s.host.brief() == [
        "status starting -",
        "-> kernel_shutting_down",
        "-> error Failed to launch kernel: kernel was shut down",
        "status shutdown -",
    ]
    s.factory.gate.set()
    await s.launch()
    assert len(s.factory.kernels) == 1


@pytest.mark.parametrize(
    "notebook_id, launches",
    [
        ("3f2b8c1e-5a4d-4c6f-9b7a-0d1e2f3a4b5c", True),
        ("URN:UUID:3F2B8C1E-5A4D-4C6F-9B7A-0D1E2F3A4B5C", True),
        ("{3f2b8c1e-5a4d-4c6f-9b7a-0d1e2f3a4b5c}", True),
        ("3f2b8c1e5a4d4c6f9b7a0d1e2f3a4b5c", True),
        ("test-3f2b8c1e-5a4d-4c6f-9b7a-0d1e2f3a4b5c", False),
        ("nb1", False),
        ("", False),
    ],
)
def test_automatic_launch(notebook_id: str, launches: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        host, factory = FakeHost(), KernelFactory()
        rooms = Rooms(host, FakeBlobs(), factory, automatic=by_default)
        rooms.wanted(notebook_id)
        rooms.joined(notebook_id, 1, 1)
        if launches:
            await until(lambda: bool(factory.kernels))
            assert host.brief() == ["status starting -", "status idle -"]
        else:
            await settled()
            assert not factory.kernels
        await rooms.close("end", 1)
        assert not caplog.records

    asyncio.run(body())


@pytest.mark.parametrize("meanwhile", ["left", "launched", "closed"])
def test_what_happened_while_an_automatic_launch_was_planned_counts(meanwhile: str) -> None:
    async def body() -> None:
        host, factory = FakeHost(), KernelFactory()
        asked, go_on = threading.Event(), threading.Event()

        def slowly(notebook_id: str) -> LaunchRequest | None:
            asked.set()
            assert go_on.wait(60.0)
            return LaunchRequest("python", "uv:prewarmed", None)

        rooms = Rooms(host, FakeBlobs(), factory, automatic=slowly)
        ask = NotebookRequests(host, rooms)
        rooms.wanted("nb")
        rooms.joined("nb", 1, 1)
        assert await asyncio.get_running_loop().run_in_executor(None, asked.wait, 60.0)
        if meanwhile == "left":
            rooms.left("nb", 1)
        elif meanwhile == "closed":
            rooms.failed("nb", 1, "broken")
        else:
            ask.handle("nb", 1, 1, json.dumps(LAUNCH).encode())
            await until(lambda: bool(factory.kernels))
            await turn()
        go_on.set()
        await settled()
        assert len(factory.kernels) == (meanwhile == "launched")
        await rooms.close("end", 1)

    asyncio.run(body())


@staged
async def test_every_launch_has_its_statuses(s: Stage) -> None:
    for _ in range(2):
        s.ask(**LAUNCH)
        await until(lambda: s.rooms.get("nb").kernel is not None)
        await turn()
        statuses = [item["status"] for item in s.host.take("kernel_status")]
        assert statuses == ["starting", "idle"]
        s.ask("shutdown_kernel")
        await turn()
        s.host.log.clear()
