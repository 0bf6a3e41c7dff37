"""Pools on a real disk with a fake recipe: adoption, leases, waiting launches, cancellation."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.fakes import FakeRecipe, eventually, make_fake_environment
from runtimed_ffi.daemon.environments import leases
from runtimed_ffi.daemon.environments.diagnosis import BuildError
from runtimed_ffi.daemon.environments.pool_state import MAXIMUM_AGE
from runtimed_ffi.daemon.environments.pools import PoolSet
from runtimed_ffi.daemon.environments.removals import Removals


class Scene:
    def __init__(self, directory: Path, uv: int = 1, conda: int = 0) -> None:
        self.directory = directory / "envs"
        self.uv, self.conda = FakeRecipe(), FakeRecipe()
        self.said: list[str] = []
        self.states: list[Any] = []
        recipes = {"uv": self.uv, "conda": self.conda}
        self.removals = Removals()
        self.pools = PoolSet(
            str(self.directory), {"uv": uv, "conda": conda}, self.states.append, recipes, self.removals
        )

    async def start(self) -> None:
        """Begin, and see old environments removed."""
        await self.pools.start()
        await self.removals.settle()

    async def close(self) -> None:
        await self.pools.close(10)
        await self.removals.close(10)

    def available(self, kind: str = "uv") -> int:
        return int(self.pools.stats()[f"{kind}_available"])

    @property
    def names(self) -> list[str]:
        """Environments on disk, without their marks."""
        return sorted(entry.name for entry in self.directory.iterdir() if entry.is_dir())

    @property
    def left(self) -> list[str]:
        return sorted(os.listdir(self.directory)) if self.directory.exists() else []


def forge(directory: Path, number: int, state: str, **facts: Any) -> Path:
    """An environment on disk, as a dead daemon left it."""
    path = directory / f"runtimed-uv-{number:08x}-0000-4000-8000-000000000000"
    make_fake_environment(str(path))
    lease = leases.acquire(str(path), create=True)
    assert lease is not None
    lease.write(state, **{"kind": "uv", "made": time.time(), "ingredients": {"packages": ["ipywidgets"]}, **facts})
    lease.release()
    return path


def test_what_was_left_on_disk(tmp_path: Path) -> None:
    async def body() -> None:
        scene = Scene(tmp_path, uv=2)
        scene.uv.gate.clear()
        directory = scene.directory
        good = forge(directory, 1, leases.READY)
        incomplete = forge(directory, 2, leases.BUILDING)
        used = forge(directory, 3, leases.USED)
        old = forge(directory, 4, leases.READY, made=time.time() - MAXIMUM_AGE - 1)
        outdated = forge(directory, 5, leases.READY, ingredients={"packages": ["x"]})
        broken = forge(directory, 6, leases.READY)
        (broken / "bin" / "python").unlink()
        given = forge(directory, 7, leases.GIVEN)
        held = forge(directory, 8, leases.READY)
        holder = leases.acquire(str(held))  # As another living daemon has it: locks belong to the open file.
        inhabited = forge(directory, 9, leases.USED)
        os.unlink(inhabited / "bin" / "python")
        os.symlink(sys.executable, inhabited / "bin" / "python")
        command = [str(inhabited / "bin" / "python"), "-c", "import sys; print('up', flush=True); sys.stdin.read()"]
        foreign = directory / "runtimed-uv-reference"
        foreign.mkdir()
        unmarked = directory / "runtimed-uv-0000000a-0000-4000-8000-000000000000"
        unmarked.mkdir()
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tenant:
            assert tenant.stdout is not None and tenant.stdin is not None
            assert tenant.stdout.readline() == b"up\n"
            await scene.start()
            assert scene.available() == 1
            for path in (good, given, held, inhabited, foreign, unmarked):
                assert path.exists(), path.name
            for path in (incomplete, used, outdated, broken):
                assert not path.exists(), path.name
            await eventually(lambda: not old.exists())
            taken = scene.pools.take("uv")
            assert taken is not None and taken["venv_path"] == str(good)
            tenant.stdin.close()
        assert holder is not None
        holder.release()
        await scene.close()

    asyncio.run(body())


def test_more_than_the_target_is_not_kept(tmp_path: Path) -> None:
    async def body() -> None:
        scene = Scene(tmp_path, uv=1)
        for number in range(3):
            forge(scene.directory, number, leases.READY)
        await scene.start()
        assert scene.available() == 1
        assert len(scene.names) == 1
        assert scene.uv.made_paths == []
        await scene.close()

    asyncio.run(body())


def test_what_is_ready_stays_for_the_next_daemon(tmp_path: Path) -> None:
    async def body() -> None:
        first = Scene(tmp_path)
        await first.pools.start()
        await eventually(lambda: first.available() == 1)
        await first.close()
        second = Scene(tmp_path)
        await second.pools.start()
        assert second.available() == 1
        assert second.uv.made_paths == []
        await second.close()

    asyncio.run(body())


def test_a_removal_that_takes_too_long_is_left_to_the_next_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rm = tmp_path / "bin" / "rm"
    rm.parent.mkdir()
    rm.write_text(f"#!/bin/sh\n: > {tmp_path}/begun\nexec sleep 600\n")
    rm.chmod(0o755)
    path = os.environ["PATH"]

    async def body() -> None:
        first = Scene(tmp_path, uv=0)
        forge(first.directory, 1, leases.READY)
        await first.start()
        monkeypatch.setenv("PATH", f"{rm.parent}{os.pathsep}{path}")
        environment = await first.pools.acquire("uv", first.said.append)
        environment.end()
        await eventually((tmp_path / "begun").exists)
        await asyncio.wait_for(first.removals.close(0.1), 30)
        assert first.names == [os.path.basename(environment.path)]
        lease = leases.acquire(environment.path)
        assert lease is not None and lease.read() == {"state": leases.BUILDING}, "it is no complete environment"
        lease.release()
        monkeypatch.setenv("PATH", path)
        second = Scene(tmp_path, uv=0)
        await second.start()
        assert second.left == []
        await second.close()

    asyncio.run(body())


def test_a_removal_that_ends_before_it_begins_gives_up_the_hold(tmp_path: Path) -> None:
    async def body() -> None:
        path = forge(tmp_path, 1, leases.READY)
        lease = leases.acquire(str(path))
        assert lease is not None
        removals = Removals()
        removals.begin(lease).cancel()
        await removals.settle()
        again = leases.acquire(str(path))
        assert again is not None and again.read() == {"state": leases.BUILDING}, "the next daemon goes on"
        again.release()

    asyncio.run(body())


def test_an_awaited_removal_does_not_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, rm, gate = shutil.which("rm"), tmp_path / "bin" / "rm", tmp_path / "gate"
    os.mkfifo(gate)
    rm.parent.mkdir()
    # The first two wait at the gate, and would delay those behind them.
    rm.write_text(f'#!/bin/sh\ncase "$3" in *slow*) read -r line < {gate} ;; esac\nexec {real} "$@"\n')
    rm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{rm.parent}{os.pathsep}{os.environ['PATH']}")

    async def body() -> None:
        removals, held = Removals(), []
        for name in ("slow-1", "slow-2", "behind", "wanted"):
            make_fake_environment(str(tmp_path / name))
            lease = leases.acquire(str(tmp_path / name), create=True)
            assert lease is not None
            held.append(lease)
        for lease in held[:3]:
            removals.begin(lease)
        await asyncio.wait_for(removals.begin(held[3], awaited=True), 30)
        left = [name for name in ("slow-1", "slow-2", "behind", "wanted") if (tmp_path / name).exists()]
        assert left == ["slow-1", "slow-2", "behind"], "no more than two of the others at once"
        with open(gate, "w") as lines:
            lines.write("\n\n")
            lines.flush()
            await asyncio.wait_for(removals.settle(), 30)
        assert not any((tmp_path / name).exists() for name in ("slow-1", "slow-2", "behind", "wanted"))

    asyncio.run(body())


def test_an_environment_with_a_process_is_not_taken_back(tmp_path: Path) -> None:
    async def body() -> None:
        scene = Scene(tmp_path)
        path = forge(scene.directory, 1, leases.READY)
        os.unlink(path / "bin" / "python")
        os.symlink(sys.executable, path / "bin" / "python")
        await scene.start()
        scene.uv.gate.clear()
        assert scene.pools.take("uv") is not None
        command = [str(path / "bin" / "python"), "-c", "import sys; print('up', flush=True); sys.stdin.read()"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tenant:
            assert tenant.stdout is not None and tenant.stdin is not None
            assert tenant.stdout.readline() == b"up\n"
            await scene.pools.give_back("uv", str(path))
            assert scene.available() == 0 and path.exists()
            tenant.stdin.close()
        await scene.pools.give_back("uv", str(path))
        assert scene.available() == 1
        await scene.close()

    asyncio.run(body())


def test_two_daemons_share_a_directory(tmp_path: Path) -> None:
    async def body() -> None:
        first, second = Scene(tmp_path), Scene(tmp_path)
        await first.pools.start()
        await eventually(lambda: first.available() == 1)
        await second.pools.start()
        await eventually(lambda: second.available() == 1)
        assert len(first.names) == 2
        await second.pools.flush()
        assert first.pools.take("uv") is not None
        await first.close()
        await second.close()

    asyncio.run(body())


def test_a_launch_waits_and_gets_the_progress(tmp_path: Path) -> None:
    async def body() -> None:
        scene = Scene(tmp_path, uv=0, conda=0)
        scene.conda.gate.clear()
        await scene.pools.start()
        said: list[str] = []
        launch = asyncio.ensure_future(scene.pools.acquire("conda", said.append))
        await eventually(lambda: "creating the environment" in said)
        scene.conda.gate.set()
        environment = await launch
        assert scene.conda.background == [False], "a launch waits: no low priority"
        mark = leases.marked(str(scene.directory), "")
        assert mark == [environment.path]
        assert leases.acquire(environment.path) is None, "it is held"
        environment.end()
        environment.end()
        await scene.close()
        assert scene.left == []

    asyncio.run(body())


def test_all_launches_that_wait_get_the_progress_and_an_environment(tmp_path: Path) -> None:
    async def body() -> None:
        scene = Scene(tmp_path, uv=0)
        scene.uv.gate.clear()
        await scene.pools.start()
        said: list[list[str]] = [[], [], []]
        launches = [asyncio.ensure_future(scene.pools.acquire("uv", texts.append)) for texts in said]
        await eventually(lambda: all("creating the environment" in texts for texts in said))
        scene.uv.gate.set()
        environments = await asyncio.gather(*launches)
        assert len({environment.path for environment in environments}) == 3
        before = [len(texts) for texts in said]
        (await scene.pools.acquire("uv", lambda text: None)).end()
        assert [len(texts) for texts in said] == before, "a launch that has its environment gets no progress"
        for environment in environments:
            environment.end()
        await scene.close()

    asyncio.run(body())


def test_a_cancelled_launch_leaves_the_environment_to_the_pool(tmp_path: Path) -> None:
    async def body() -> None:
        scene = Scene(tmp_path, uv=1)
        scene.uv.gate.clear()
        await scene.pools.start()
        launch = asyncio.ensure_future(scene.pools.acquire("uv", scene.said.append))
        await eventually(lambda: bool(scene.said))
        launch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await launch
        scene.uv.gate.set()
        await eventually(lambda: scene.available() == 1)
        # Cancelled in the moment it gets one.
        launch = asyncio.ensure_future(scene.pools.acquire("uv", scene.said.append))
        await asyncio.sleep(0)
        launch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await launch
        await eventually(lambda: scene.available() == 1)
        await scene.close()
        assert len(scene.names) == 1

    asyncio.run(body())


def test_failures_reach_the_launch_and_patience_ends(tmp_path: Path) -> None:
    async def body() -> None:
        scene = Scene(tmp_path, uv=1)
        scene.uv.gate.clear()
        await scene.pools.start()
        with pytest.raises(BuildError, match="still being built"):
            await scene.pools.acquire("uv", scene.said.append, 0.01)
        scene.uv.failure = BuildError("no space left")
        launch = asyncio.ensure_future(scene.pools.acquire("uv", scene.said.append))
        await eventually(lambda: len(scene.said) == 2)
        scene.uv.gate.set()
        with pytest.raises(BuildError, match=r"no space left \(tried again in \d+ s\)"):
            await launch
        with pytest.raises(BuildError, match="no space left"):
            await scene.pools.acquire("uv", scene.said.append)
        assert scene.left == []
        await scene.close()

    asyncio.run(body())


def test_the_end_of_the_daemon_ends_builds_and_removes_them(tmp_path: Path) -> None:
    async def body() -> None:
        scene = Scene(tmp_path, uv=1)
        scene.uv.gate.clear()
        await scene.pools.start()
        await eventually(lambda: bool(scene.uv.made_paths))
        launch = asyncio.ensure_future(scene.pools.acquire("uv", scene.said.append))
        await eventually(lambda: bool(scene.said))
        await scene.close()
        with pytest.raises(BuildError, match="shutting down"):
            await launch
        assert scene.left == []

    asyncio.run(body())


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "envs").write_text("in the way")

    async def body() -> None:
        scene = Scene(tmp_path)
        await scene.pools.start()
        await eventually(lambda: bool(scene.states))
        assert "--cache-dir" in scene.states[0]["uv_error"]["message"]
        await scene.close()

    asyncio.run(body())
