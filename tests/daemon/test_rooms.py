"""The rooms of a daemon: opening, eviction, journals, ends."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from daemon.fakes import (
    FakeBlobs,
    FakeHost,
    KernelFactory,
)
from daemon.stage import LAUNCH, Evictions, Stage, by_default, settled, turn, until
from runtimed_ffi.daemon.files.paths import set_aside
from runtimed_ffi.daemon.rooms import rooms as rooms_module
from runtimed_ffi.daemon.rooms.requests import NotebookRequests
from runtimed_ffi.daemon.rooms.rooms import Rooms


def test_an_empty_room_is_evicted_with_its_kernel_but_not_while_it_works() -> None:
    async def body() -> None:
        evictions = Evictions()
        s = Stage(eviction_delay=Evictions.DELAY)
        await s.launch()
        s.execute("a")
        s.rooms.left("nb", 1)
        assert evictions.expire() == 0
        s.rooms.left("nb", 2)
        assert not s.rooms.get("nb").peers
        assert evictions.expire() == 1
        assert s.rooms.get("nb") is not None and s.rooms.active
        s.play(1)
        await turn()
        assert s.rooms.get("nb") is not None
        assert evictions.expire() == 1
        await until(lambda: s.rooms.get("nb") is None and s.kernel.stopped)
        assert s.host.closed == ["nb"]
        assert evictions.expire() == 0

    asyncio.run(body())


def test_a_room_without_peers_is_evicted() -> None:
    async def body() -> None:
        evictions = Evictions()
        host = FakeHost()
        rooms = Rooms(host, FakeBlobs(), KernelFactory(), None, Evictions.DELAY)
        rooms.wanted("nb")
        rooms.wanted("/nowhere/slow.ipynb")
        await settled()
        assert len(host.opened) == 2
        rooms.wanted("entered")
        rooms.joined("entered", 1, 1)
        assert not rooms.active or rooms.get("entered").peers == {1}
        assert evictions.expire() == 2
        assert sorted(host.closed) == ["/nowhere/slow.ipynb", "nb"]
        assert rooms.get("nb") is None and rooms.get("entered") is not None

    asyncio.run(body())


def test_a_peer_that_enters_during_eviction_keeps_the_room() -> None:
    async def body() -> None:
        evictions = Evictions()
        s = Stage(eviction_delay=Evictions.DELAY)
        await s.launch()
        s.rooms.left("nb", 1)
        s.rooms.left("nb", 2)
        s.host.entered.append("nb")
        assert evictions.expire() == 1
        await until(lambda: s.kernel.stopped)
        assert s.rooms.get("nb") is not None and not s.host.closed
        s.rooms.joined("nb", 3, 1)
        assert evictions.expire() == 0
        s.host.entered.clear()
        s.rooms.left("nb", 3)
        assert evictions.expire() == 1
        assert s.rooms.get("nb") is None and s.host.closed == ["nb"]

    asyncio.run(body())


def test_empty_rooms_are_bounded_those_with_kernels_stay(tmp_path: Path) -> None:
    async def body() -> None:
        Evictions()
        host, factory = FakeHost(), KernelFactory()
        rooms = Rooms(host, FakeBlobs(), factory, str(tmp_path), Evictions.DELAY, by_default)
        calls = NotebookRequests(host, rooms)
        for number in range(6):
            rooms.wanted(f"nb{number}")
            rooms.joined(f"nb{number}", number, 1)
        calls.handle("nb1", 1, 1, json.dumps(LAUNCH).encode())
        await until(lambda: bool(factory.kernels))
        await settled()
        for number in (2, 1, 0, 3):
            rooms.left(f"nb{number}", number)
        assert host.closed == ["nb2"]
        # A room that was entered and left again has been empty for the shortest time.
        rooms.joined("nb0", 0, 1)
        rooms.left("nb0", 0)
        rooms.left("nb4", 4)
        assert host.closed == ["nb2", "nb3"]
        assert [name for name in map("nb{}".format, range(6)) if rooms.get(name)] == ["nb0", "nb1", "nb4", "nb5"]
        await rooms.close("end", 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rooms_module, "EMPTY_LIMIT", 2)
        asyncio.run(body())


def test_a_peer_that_returns_in_time_finds_the_room() -> None:
    async def body() -> None:
        evictions = Evictions()
        s = Stage(eviction_delay=Evictions.DELAY)
        s.rooms.left("nb", 1)
        s.rooms.left("nb", 2)
        s.rooms.joined("nb", 3, 1)
        assert evictions.expire() == 0
        assert s.rooms.get("nb") is not None and not s.host.closed

    asyncio.run(body())


def test_journals_and_corrupt_files(tmp_path: Any) -> None:
    async def body() -> None:
        host = FakeHost()
        rooms = Rooms(host, FakeBlobs(), KernelFactory(), str(tmp_path))
        journal = rooms.journal("nb")
        assert journal is not None and journal.endswith(".automerge") and len(journal.split("/")[-1]) == 74
        with open(journal, "wb") as file:
            file.write(b"garbage")
        host.corrupt = [journal]
        rooms.wanted("nb")
        assert host.opened == [("nb", journal)]
        assert (tmp_path / (journal.split("/")[-1] + ".corrupt")).read_bytes() == b"garbage"
        with open(journal, "wb") as file:
            file.write(b"again")
        assert set_aside(journal).endswith(".corrupt.2")
        large = rooms.journal("large")
        with open(large, "wb") as file:
            file.truncate(2 << 20)
        rooms.wanted("large")
        await until(lambda: ("large", large) in host.opened)

    asyncio.run(body())


def test_a_failed_room_takes_only_its_kernel_with_it() -> None:
    async def body() -> None:
        s = Stage()
        await s.launch()
        s.rooms.failed("nb", -8, "No space left on device")
        assert s.rooms.get("nb") is not None, "a full disk does not end the room"
        s.rooms.failed("nb", -13, "panic")
        await turn()
        assert s.kernel.stopped and s.rooms.get("nb") is None

    asyncio.run(body())


def test_close_stops_all_kernels() -> None:
    async def body() -> None:
        s = Stage()
        await s.launch()
        s.execute("a")
        s.host.log.clear()
        await s.rooms.close("the daemon was stopped", 1)
        assert s.kernel.stopped
        assert s.host.brief() == ["status shutdown -", "done a cancelled", "queue - []"]

    asyncio.run(body())


def test_a_room_is_kept_while_the_event_of_a_new_peer_is_queued() -> None:
    async def body() -> None:
        evictions = Evictions()
        s = Stage(eviction_delay=Evictions.DELAY)
        await s.launch()
        s.rooms.left("nb", 1)
        s.rooms.left("nb", 2)
        s.host.waiting.append("nb")
        for _ in range(2):
            assert evictions.expire() == 1, "it is evicted later"
            await turn()
            assert not s.kernel.stopped and not s.host.closed, "the new peer has its kernel"
        s.host.waiting.clear()
        assert evictions.expire() == 1
        assert s.host.closed == ["nb"]

    asyncio.run(body())


def test_a_room_is_evicted_again_after_it_was_opened_again() -> None:
    async def body() -> None:
        evictions = Evictions()
        rooms = Rooms(FakeHost(), FakeBlobs(), KernelFactory(), None, Evictions.DELAY)
        for number in range(1, 3):
            rooms.wanted("nb")
            rooms.joined("nb", number, 1)
            rooms.left("nb", number)
            assert evictions.expire() == 1
            assert rooms.get("nb") is None
        await rooms.close("end", 1)

    asyncio.run(body())
