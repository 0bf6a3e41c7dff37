"""The pool channel (protocol 2, section 4)."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from daemon.fakes import FakeBlobs, FakeHost, FakeRecipe, KernelFactory, eventually
from daemon.stage import by_default, until
from runtimed_ffi.daemon.channels.pool_requests import PoolRequests
from runtimed_ffi.daemon.environments.diagnosis import BuildError
from runtimed_ffi.daemon.environments.pools import PoolSet
from runtimed_ffi.daemon.environments.removals import Removals
from runtimed_ffi.daemon.rooms.rooms import Rooms


class Pool:
    def __init__(self, directory: Path) -> None:
        self.host = FakeHost()
        self.announced: list[Any] = []
        self.rooms = Rooms(self.host, FakeBlobs(), KernelFactory(), str(directory), automatic=by_default)
        self.recipe = FakeRecipe()
        recipes = {"uv": self.recipe, "conda": FakeRecipe()}
        self.pools = PoolSet(str(directory / "envs"), {"uv": 1}, self.announced.append, recipes, Removals())
        self.stopped: list[str] = []
        self.pool = PoolRequests(self.host, self.rooms, self.pools, self.read, self.stopped.append)

    def read(self, data: bytes) -> list[Any]:
        return list(json.loads(data))

    async def ask(self, **request: Any) -> Any:
        self.host.log.clear()
        self.pool.handle(1, 9, json.dumps(request).encode())
        await until(lambda: bool(self.host.log))
        response = self.host.responses()[0]
        del response["token"]
        return response


def test_requests(tmp_path: Path) -> None:
    async def body() -> None:
        pool = Pool(tmp_path)
        kept = tmp_path / "environment"
        kept.mkdir()
        env = {"env_type": "uv", "venv_path": str(kept), "python_path": "p"}
        counts = {"uv_available": 0, "uv_warming": 0, "conda_available": 0, "conda_warming": 0}
        assert await pool.ask(type="ping") == {"type": "pong"}
        assert await pool.ask(type="status") == {"type": "stats", "stats": counts}
        assert await pool.ask(type="take", env_type="uv") == {"type": "empty"}
        assert await pool.ask(type="take", env_type="conda") == {"type": "empty"}
        assert await pool.ask(type="return", env=env) == {"type": "returned"}
        assert await pool.ask(type="return", env=dict(env, venv_path="/")) == {"type": "returned"}
        assert kept.exists(), "what a peer names is never deleted"
        assert await pool.ask(type="flush_pool") == {"type": "flushed"}
        assert pool.stopped == []
        assert await pool.ask(type="shutdown") == {"type": "shutting_down"}
        assert len(pool.stopped) == 1

    asyncio.run(body())


def test_an_environment_is_taken_and_given_back(tmp_path: Path) -> None:
    async def body() -> None:
        pool = Pool(tmp_path)
        await pool.pools.start()
        await eventually(lambda: pool.pools.stats()["uv_available"] == 1)
        answer = await pool.ask(type="take", env_type="uv")
        env = answer["env"]
        assert answer["type"] == "env"
        assert env["env_type"] == "uv"
        assert os.path.dirname(env["venv_path"]) == str(tmp_path / "envs")
        assert os.access(env["python_path"], os.X_OK)
        await eventually(lambda: pool.pools.stats()["uv_available"] == 1)
        other = (await pool.ask(type="take", env_type="uv"))["env"]
        assert other["venv_path"] != env["venv_path"]
        pool.recipe.gate.clear()
        assert await pool.ask(type="return", env=env) == {"type": "returned"}
        assert (await pool.ask(type="take", env_type="uv"))["env"] == env
        stats = (await pool.ask(type="status"))["stats"]
        assert stats == {"uv_available": 0, "uv_warming": 1, "conda_available": 0, "conda_warming": 0}
        await pool.pools.close(10)
        assert Path(env["venv_path"]).exists() and Path(other["venv_path"]).exists(), "they are the client's"

    asyncio.run(body())


def test_an_environment_that_was_not_taken_cannot_be_returned(tmp_path: Path) -> None:
    async def body() -> None:
        pool = Pool(tmp_path)
        await pool.pools.start()
        await eventually(lambda: pool.pools.stats()["uv_available"] == 1)
        env = (await pool.ask(type="take", env_type="uv"))["env"]
        await eventually(lambda: pool.pools.stats()["uv_available"] == 1)
        idle = next(path for path in (tmp_path / "envs").iterdir() if path.is_dir() and str(path) != env["venv_path"])
        foreign = tmp_path / "envs" / ("runtimed-uv-" + "0" * 8 + "-0000" * 3 + "-" + "0" * 12)
        foreign.mkdir()
        link = tmp_path / "envs" / ("runtimed-uv-" + "1" * 8 + "-0000" * 3 + "-" + "0" * 12)
        link.symlink_to(tmp_path)
        tricks = [str(idle), str(foreign), str(link), env["venv_path"] + "/../..", "envs", "", "\0", str(tmp_path)]
        for path in tricks:
            request = {"type": "return", "env": dict(env, venv_path=path)}
            assert await pool.ask(**request) == {"type": "returned"}, path
        assert await pool.ask(type="return", env=dict(env, env_type="conda")) == {"type": "returned"}
        assert idle.exists() and foreign.exists() and link.is_symlink() and tmp_path.exists()
        assert pool.pools.stats()["uv_available"] == 1
        await pool.pools.close(10)

    asyncio.run(body())


def test_flush_removes_the_idle_ones_and_builds_at_once(tmp_path: Path) -> None:
    async def body() -> None:
        pool = Pool(tmp_path)
        await pool.pools.start()
        await eventually(lambda: pool.pools.stats()["uv_available"] == 1)
        before = [path for path in (tmp_path / "envs").iterdir() if path.is_dir()]
        pool.recipe.gate.clear()
        assert await pool.ask(type="flush_pool") == {"type": "flushed"}
        assert not before[0].exists()
        assert pool.pools.stats()["uv_warming"] == 1
        pool.recipe.gate.set()
        await eventually(lambda: pool.pools.stats()["uv_available"] == 1)
        await pool.pools.close(10)

    asyncio.run(body())


def test_the_error_of_a_pool_is_in_the_statistics_and_announced(tmp_path: Path) -> None:
    async def body() -> None:
        pool = Pool(tmp_path)
        pool.recipe.failure = BuildError("no space left: free some", "pandas")
        await pool.pools.start()
        await eventually(lambda: bool(pool.announced))
        error = {"message": "no space left: free some", "failed_package": "pandas", "consecutive_failures": 1}
        stats = (await pool.ask(type="status"))["stats"]
        assert 25 <= stats["uv_error"].pop("retry_in_secs") <= 30
        assert stats["uv_error"] == error
        assert "conda_error" not in stats
        state = pool.pools.state()
        assert state["conda_error"] is None
        assert state["uv_error"]["failed_package"] == "pandas"
        assert list((tmp_path / "envs").iterdir()) == [], "a failed build leaves nothing behind"
        pool.recipe.failure = None
        pool.pools.settings_changed()
        await eventually(lambda: pool.pools.stats()["uv_available"] == 1)
        assert pool.announced[-1] == {"uv_error": None, "conda_error": None}
        await pool.pools.close(10)

    asyncio.run(body())


def test_rooms_and_their_kernels(tmp_path: Path) -> None:
    async def body() -> None:
        pool = Pool(tmp_path)
        identity = "3f2b8c1e-5a4d-4c6f-9b7a-0d1e2f3a4b5c"
        for notebook_id in ("plain", identity):
            pool.rooms.wanted(notebook_id)
            pool.rooms.joined(notebook_id, 1, 1)
        await until(lambda: getattr(pool.rooms.get(identity), "kernel", None) is not None)
        plain, automatic = (await pool.ask(type="list_rooms"))["rooms"]
        assert plain == {"notebook_id": "plain", "active_peers": 0, "has_kernel": False}
        facts = {"kernel_type": "python", "env_source": "uv:prewarmed"}
        assert automatic == {
            "notebook_id": identity,
            "active_peers": 0,
            "has_kernel": True,
            "kernel_status": "idle",
            **facts,
        }
        state = await pool.ask(type="inspect_notebook", notebook_id=identity)
        assert state["kernel_info"] == {"status": "idle", **facts}
        await pool.rooms.close("end", 1)

    asyncio.run(body())


def test_inspection(tmp_path: Path) -> None:
    async def body() -> None:
        pool = Pool(tmp_path)
        pool.rooms.wanted("live")
        pool.rooms.joined("live", 1, 1)
        pool.host.add_cell("live", "a", "x = 1\n")
        cell = {"id": "a", "cell_type": "code", "source": "x = 1\n", "execution_count": "null", "outputs": []}
        state = await pool.ask(type="inspect_notebook", notebook_id="live")
        assert state == {
            "type": "notebook_state",
            "notebook_id": "live",
            "cells": [cell],
            "source": "live_room",
            "kernel_info": None,
        }
        journal = Path(pool.rooms.journal("stored") or "")
        journal.write_text(json.dumps([dict(cell, execution_count=5)]))
        state = await pool.ask(type="inspect_notebook", notebook_id="stored")
        assert state["source"] == "persisted_file"
        assert state["cells"] == [dict(cell, execution_count="5")]
        journal.write_text("{")
        error = await pool.ask(type="inspect_notebook", notebook_id="stored")
        assert error["message"].startswith("Failed to parse Automerge doc: ")
        error = await pool.ask(type="inspect_notebook", notebook_id="none")
        path = pool.rooms.journal("none")
        message = f'Notebook not found: no active room and no persisted file at "{path}"'
        assert error == {"type": "error", "message": message}

    asyncio.run(body())


def test_nonsense_ends_its_connection_only(tmp_path: Path) -> None:
    async def body() -> None:
        pool = Pool(tmp_path)
        for payload in (b"", b"[]", b'{"type":"nope"}', b'{"type":[]}', b'{"type":"inspect_notebook"}', b"\xff"):
            pool.pool.handle(1, 9, payload)
        assert pool.host.disconnected == [9] * 6
        assert await pool.ask(type="ping") == {"type": "pong"}

    asyncio.run(body())
