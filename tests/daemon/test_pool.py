"""The pool channel (protocol 2, section 4)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from runtimed_ffi.daemon.pool import PoolRequests
from runtimed_ffi.daemon.rooms import Rooms

from .fakes import FakeBlobs, FakeHost, KernelFactory
from .test_rooms import until


class Pool:
    def __init__(self, directory: Path) -> None:
        self.host = FakeHost()
        self.rooms = Rooms(self.host, FakeBlobs(), KernelFactory(), str(directory))
        self.stopped: list[str] = []
        self.pool = PoolRequests(self.host, self.rooms, self.read, self.stopped.append)

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
        assert await pool.ask(type="return", env=env) == {"type": "returned"}
        assert kept.exists(), "what a peer names is never deleted"
        assert await pool.ask(type="flush_pool") == {"type": "flushed"}
        assert pool.stopped == []
        assert await pool.ask(type="shutdown") == {"type": "shutting_down"}
        assert len(pool.stopped) == 1

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
