"""Notebook files on the loop: what waits for what, and the answers when a file is slow."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from daemon.fakes import FakeBlobs, FakeHost, KernelFactory
from daemon.stage import Stage, turn, until
from runtimed_ffi.daemon.files.notebook_files import NotebookFiles
from runtimed_ffi.daemon.files.paths import FileError
from runtimed_ffi.daemon.rooms import requests
from runtimed_ffi.daemon.rooms.rooms import Rooms

LIMIT = 20.0


class SlowFile:
    """A file whose disk answers when the test opens the gate."""

    problem: str | None = None
    path = "/nb"

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.begun = threading.Semaphore(0)
        self.looks = 0
        self.failure: Exception | None = None
        self.closed = False

    def _work(self) -> None:
        self.begun.release()
        assert self.go_on.wait(LIMIT)
        if self.failure is not None:
            raise self.failure

    def save(self) -> None:
        self._work()

    def refresh(self) -> None:
        self.looks += 1
        self._work()

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def slow() -> Iterator[SlowFile]:
    file = SlowFile()
    yield file
    file.go_on.set()


def test_a_slow_save_is_answered_and_delays_no_other_request(
    slow: SlowFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(requests, "SAVE_ANSWER_LIMIT", 0.05)

    async def body() -> None:
        stage = Stage()
        stage.rooms._files._files["nb"] = slow  # type: ignore[assignment]
        stage.ask("save_notebook", format_cells=False)
        stage.ask("get_queue_state")
        await until(lambda: len(stage.host.responses()) == 2)
        assert [answer["result"] for answer in stage.host.responses()] == ["queue_state", "error"]
        assert "not written within" in stage.host.responses()[1]["error"]
        slow.go_on.set()
        stage.ask("save_notebook", format_cells=False)
        await until(lambda: len(stage.host.responses()) == 3)
        assert stage.host.responses()[2]["result"] == "notebook_saved"
        assert not caplog.records, "the first save succeeded"
        slow.failure = FileError("/nb is no regular file")
        stage.ask("save_notebook", format_cells=False)
        await until(lambda: len(stage.host.responses()) == 4)
        assert stage.host.responses()[3]["error"] == "Failed to save notebook: /nb is no regular file"
        await stage.rooms.close("end", LIMIT)
        assert slow.closed

    asyncio.run(body())


def test_changes_during_a_look_make_one_more(slow: SlowFile) -> None:
    async def body() -> None:
        files = NotebookFiles(FakeHost(), FakeBlobs())
        files._files["nb"] = slow  # type: ignore[assignment]
        files._look("nb")
        assert slow.begun.acquire(timeout=LIMIT)
        for _ in range(3):
            files._look("nb")
        slow.go_on.set()
        await until(lambda: not files._refreshing)
        assert slow.looks == 2
        slow.failure = ValueError("a defect")
        files._look("nb")
        await until(lambda: not files._refreshing)
        files._look("unknown")
        await files.close(LIMIT)

    asyncio.run(body())


def test_the_end_waits_for_running_work_for_a_bounded_time(slow: SlowFile) -> None:
    async def body() -> None:
        files = NotebookFiles(FakeHost(), FakeBlobs())
        files._files["nb"] = slow  # type: ignore[assignment]
        saving = asyncio.ensure_future(files.save("nb"))
        await turn()
        assert slow.begun.acquire(timeout=LIMIT)
        await files.close(0.05)
        assert slow.closed and not saving.done()
        slow.go_on.set()
        await saving
        with pytest.raises(RuntimeError):
            files.run(slow.save)

    asyncio.run(body())


def test_a_room_opens_once_and_a_defect_affects_its_file_only(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "a.ipynb")
    with open(path, "w") as file:
        file.write("{}")

    async def body() -> None:
        host = FakeHost()
        rooms = Rooms(host, FakeBlobs(), KernelFactory(), str(tmp_path))
        rooms.wanted(path)
        rooms.wanted(path)
        await until(lambda: len(host.opened) == 1 and not rooms._opening)
        # The recording host has no copies of documents, which serves as a defect.
        assert "could not be loaded" in rooms.notes(path)[0]
        with pytest.raises(AttributeError):
            await rooms.save(path)
        await rooms.close("end", LIMIT)
        assert host.opened == [(path, rooms.journal(path))]

    asyncio.run(body())


def test_a_peer_that_asks_while_others_are_refused_is_served(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "a.ipynb")

    async def body() -> None:
        host = FakeHost()
        rooms = Rooms(host, FakeBlobs(), KernelFactory(), str(tmp_path))
        prepare, failures = host.prepare_room, [OSError("once")]
        go_on, refused = threading.Event(), threading.Event()

        def failing(notebook_id: str, journal: str | None = None) -> None:
            assert go_on.wait(LIMIT)
            if failures:
                raise failures.pop()
            prepare(notebook_id, journal)

        monkeypatch.setattr(host, "prepare_room", failing)
        monkeypatch.setattr(host, "refuse_room", lambda _: refused.set())
        rooms.wanted(path)
        await turn()
        go_on.set()
        assert refused.wait(LIMIT)
        rooms.wanted(path)  # The loop has not seen the refusal yet.
        await until(lambda: len(host.opened) == 1)
        await rooms.close("end", LIMIT)

    asyncio.run(body())


def test_a_room_that_cannot_be_let_in_is_given_up(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        host = FakeHost()

        def admit(_: str) -> None:
            raise OSError("no")

        monkeypatch.setattr(host, "admit", admit)
        rooms = Rooms(host, FakeBlobs(), KernelFactory(), str(tmp_path))
        rooms.wanted("nb")
        assert (host.closed, host.refused) == (["nb"], ["nb"])
        await rooms.close("end", LIMIT)

    asyncio.run(body())
