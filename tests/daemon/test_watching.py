"""Noticing changes of files."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtimed_ffi.daemon.files.watching import Watcher

LIMIT = 20.0


@pytest.fixture
def reports() -> queue.Queue[str]:
    return queue.Queue()


@pytest.fixture
def watcher(reports: queue.Queue[str]) -> Iterator[Watcher]:
    watcher = Watcher(reports.put)
    yield watcher
    watcher.close()
    watcher.close()


def reported_until(reports: queue.Queue[str], mark: str) -> set[str]:
    """Paths reported before ``mark``; events of one directory come in order."""
    found: set[str] = set()
    while True:
        path = reports.get(timeout=LIMIT)
        if path == mark:
            return found
        found.add(path)


class Marks:
    """Watched files; a report of the newest one shows that all earlier reports have come."""

    def __init__(self, directory: Path, watcher: Watcher, reports: queue.Queue[str]) -> None:
        self._directory, self._watcher, self._reports = directory, watcher, reports
        self._number = 0

    def reported(self) -> set[str]:
        self._number += 1
        mark = self._directory / f"mark{self._number}"
        self._watcher.watch(self._number, str(mark))
        mark.write_text("")
        found = reported_until(self._reports, str(mark))
        self._watcher.forget(self._number)
        # Further reports of the mark itself do not count.
        return {path for path in found if "mark" not in path}


@pytest.fixture
def marks(tmp_path: Path, watcher: Watcher, reports: queue.Queue[str]) -> Marks:
    return Marks(tmp_path, watcher, reports)


def test_every_way_to_change_a_file_is_noticed(tmp_path: Path, watcher: Watcher, marks: Marks) -> None:
    path, other = tmp_path / "a.ipynb", tmp_path / "b.ipynb"
    watcher.watch("a", str(path))
    path.write_text("made")
    assert marks.reported() == {str(path)}
    with path.open("a") as file:
        file.write("more")
    assert marks.reported() == {str(path)}
    other.write_text("another")
    assert marks.reported() == set()
    os.replace(other, path)
    assert marks.reported() == {str(path)}
    path.unlink()
    assert marks.reported() == {str(path)}


def test_reading_is_no_change(tmp_path: Path, watcher: Watcher, marks: Marks) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text("x")
    watcher.watch("a", str(path))
    path.read_text()
    assert marks.reported() == set()


def test_a_link_reports_its_target_until_it_is_forgotten(
    tmp_path: Path, watcher: Watcher, reports: queue.Queue[str]
) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "b.ipynb", tmp_path / "a.ipynb"
    link.symlink_to(target)
    marks = Marks(tmp_path / "real", watcher, reports)
    watcher.watch("link", str(link))
    watcher.watch("target", str(target))
    target.write_text("x")
    assert marks.reported() == {str(link), str(target)}
    watcher.forget("link")
    watcher.forget("link")
    target.write_text("y")
    assert marks.reported() == {str(target)}
    watcher.forget("target")
    target.write_text("z")
    assert marks.reported() == set()


def test_forgetting_during_a_report_does_not_deadlock(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    begun, go_on = threading.Event(), threading.Event()

    def changed(_: str) -> None:
        begun.set()
        assert go_on.wait(LIMIT)

    watcher = Watcher(changed)
    watcher.watch("a", str(path))
    path.write_text("x")
    assert begun.wait(LIMIT)
    ends = [threading.Thread(target=watcher.forget, args=("a",)), threading.Thread(target=watcher.close)]
    for end in ends:
        end.start()
    go_on.set()
    for end in ends:
        end.join(LIMIT)
        assert not end.is_alive()


def test_a_closed_watcher_starts_nothing(tmp_path: Path, watcher: Watcher) -> None:
    watcher.watch("a", str(tmp_path / "a.ipynb"))
    watcher.close()
    threads = set(threading.enumerate())
    watcher.watch("b", str(tmp_path / "b.ipynb"))
    watcher.forget("b")
    assert set(threading.enumerate()) == threads


def test_what_cannot_be_watched_is_only_noted(tmp_path: Path, watcher: Watcher) -> None:
    watcher.watch("a", str(tmp_path / "none" / "a.ipynb"))
    watcher.forget("a")
