"""Environments by content: built once, shared, removed when they are not used."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.fakes import eventually, make_fake_environment
from runtimed_ffi.daemon.environments import leases
from runtimed_ffi.daemon.environments.diagnosis import BuildError
from runtimed_ffi.daemon.environments.inline import InlineEnvironments
from runtimed_ffi.daemon.environments.removals import Removals


class Maker:
    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.paths: list[str] = []
        self.failure: Exception | None = None

    async def __call__(self, path: str, say: Any) -> None:
        self.paths.append(path)
        make_fake_environment(path)
        say("installing x")
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure


def python_of(path: str) -> str:
    return os.path.join(path, "bin", "python")


def test_the_same_content_is_made_once(tmp_path: Path) -> None:
    async def body() -> None:
        cache, make, said = InlineEnvironments(str(tmp_path), Removals()), Maker(), list[str]()
        make.gate.clear()
        launches = [
            asyncio.ensure_future(cache.obtain("uv", "inline-1", python_of, make, said.append)) for _ in range(3)
        ]
        await eventually(lambda: len(said) == 3)
        make.gate.set()
        held = await asyncio.gather(*launches)
        again = await cache.obtain("uv", "inline-1", python_of, make, said.append)
        assert len(make.paths) == 1
        assert {lease.path for lease in [*held, again]} == {make.paths[0]}
        assert leases.acquire(make.paths[0]) is None, "kernels use it"
        for lease in [*held, again]:
            lease.release()
        os.unlink(python_of(make.paths[0]))
        (await cache.obtain("uv", "inline-1", python_of, make, said.append)).release()
        assert len(make.paths) == 2, "a broken one is made again"

    asyncio.run(body())


def test_a_build_is_cancelled_with_the_last_launch_that_waits(tmp_path: Path) -> None:
    async def body() -> None:
        cache, make, said = InlineEnvironments(str(tmp_path), Removals()), Maker(), list[str]()
        make.gate.clear()
        one, two = (
            asyncio.ensure_future(cache.obtain("conda", "conda-inline-1", python_of, make, said.append))
            for _ in range(2)
        )
        await eventually(lambda: len(said) == 2)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        for _ in range(5):
            await asyncio.sleep(0)
        assert Path(make.paths[0]).exists() and len(make.paths) == 1, "the other still waits for the same build"
        two.cancel()
        with pytest.raises(asyncio.CancelledError):
            await two
        assert os.listdir(os.path.dirname(make.paths[0])) == [], "nothing is left behind"
        make.gate.set()
        (await cache.obtain("conda", "conda-inline-1", python_of, make, said.append)).release()

    asyncio.run(body())


def test_a_failed_build_fails_all_launches_and_leaves_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        cache, make, said = InlineEnvironments(str(tmp_path), Removals()), Maker(), list[str]()
        make.gate.clear()
        make.failure = BuildError("no package x")
        launches = [
            asyncio.ensure_future(cache.obtain("uv", "inline-1", python_of, make, said.append)) for _ in range(2)
        ]
        await eventually(lambda: len(said) == 2)
        make.gate.set()
        for launch in launches:
            with pytest.raises(BuildError, match="no package x"):
                await launch
        assert os.listdir(os.path.dirname(make.paths[0])) == []

    asyncio.run(body())


def test_two_daemons_make_the_same_content_once(tmp_path: Path) -> None:
    async def body() -> None:
        make, said = Maker(), list[str]()
        make.gate.clear()
        first, second = (
            asyncio.ensure_future(
                InlineEnvironments(str(tmp_path), Removals()).obtain("uv", "inline-1", python_of, make, said.append)
            )
            for _ in range(2)
        )
        await eventually(lambda: any("another daemon" in text for text in said))
        make.gate.set()
        (await first).release()
        (await second).release()
        assert len(make.paths) == 1

    asyncio.run(body())


def test_what_is_not_used_is_removed(tmp_path: Path) -> None:
    async def body() -> None:
        removals, make = Removals(), Maker()
        cache = InlineEnvironments(str(tmp_path), removals, keep_seconds=100, keep_count=3)
        now, held = time.time(), []
        for number in range(6):
            lease = await cache.obtain("uv", f"inline-{number}", python_of, make, lambda text: None)
            os.utime(lease.path + leases.MARKER_SUFFIX, (now, now - 50 - number))
            held.append(lease)
        os.utime(make.paths[2] + leases.MARKER_SUFFIX, (now, now - 200))
        for number, lease in enumerate(held):
            if number != 5:
                lease.release()
        await cache.prune()
        await removals.settle()
        left = sorted(name for name in os.listdir(os.path.dirname(make.paths[0])) if not name.endswith(".json"))
        # 2 is too old, 5 is in use; 4 and 3 are beyond the limit and were unused for longest.
        assert left == ["inline-0", "inline-1", "inline-5"]
        held[5].release()

    asyncio.run(body())
