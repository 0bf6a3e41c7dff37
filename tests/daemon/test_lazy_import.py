"""Libraries are imported on first use, by several threads, one at a time."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from runtimed_ffi.daemon import lazy_import

LIMIT = 30.0


class Watched:
    """A lock that reports when a thread has to wait for it."""

    def __init__(self) -> None:
        self.waiting = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.waiting.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_no_thread_sees_a_half_imported_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate: Any = ModuleType("rtd_gate")
    gate.begun, gate.go, gate.order = threading.Event(), threading.Event(), []
    (tmp_path / "rtd_slow.py").write_text(
        f"import rtd_gate\nrtd_gate.begun.set()\nassert rtd_gate.go.wait({LIMIT})\nrtd_gate.order.append('slow')\n"
    )
    (tmp_path / "rtd_quick.py").write_text("import rtd_gate\nrtd_gate.order.append('quick')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "rtd_gate", gate)
    lock = Watched()
    monkeypatch.setattr(lazy_import, "_IMPORTING", lock)
    slow = threading.Thread(target=lazy_import.load, args=("rtd_slow",))
    quick = threading.Thread(target=lazy_import.load, args=("rtd_quick",))
    slow.start()
    assert gate.begun.wait(LIMIT)
    quick.start()
    try:
        assert lock.waiting.wait(LIMIT), "the second import does not wait for the first"
    finally:
        gate.go.set()
        slow.join()
        quick.join()
    assert gate.order == ["slow", "quick"]
    for name in ("rtd_slow", "rtd_quick"):
        del sys.modules[name]
