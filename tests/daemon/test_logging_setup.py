"""The log's JSON form, and the room and peer of its records."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtimed_ffi.daemon import logging_setup


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("runtimed_ffi")
    handlers, level = list(logger.handlers), logger.level
    yield logging.getLogger("runtimed_ffi.daemon.test")
    for handler in [handler for handler in logger.handlers if handler not in handlers]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)


def records(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_records_name_room_and_peer_by_themselves(tmp_path: Path, log: logging.Logger) -> None:
    path = tmp_path / "log"
    logging_setup.open_log(str(path), "debug", "json")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600

    async def task() -> None:
        await asyncio.sleep(0)
        log.info("in a task")

    async def body() -> None:
        log.debug("before %s", "all")
        fields = logging_setup.about(room="r\n", peer=7, other=1)
        work = asyncio.ensure_future(task())
        logging_setup.about(room="s")
        log.warning("a line\nand another", extra={"kernel": 42})
        fields["kernel"] = 43
        await work
        try:
            raise ValueError("x")
        except ValueError:
            log.exception("failed")

    asyncio.run(body())
    before, warning, in_task, failed = records(path)
    assert before["message"] == "before all"
    assert "room" not in before
    assert set(before) == {"time", "level", "logger", "message"}
    assert (warning["room"], warning["kernel"], warning["level"]) == ("s", 42, "warning")
    assert warning["message"] == "a line\nand another"
    assert (in_task["room"], in_task["peer"], in_task["kernel"]) == ("r\n", 7, 43)
    assert "other" not in in_task
    assert "ValueError: x" in failed["exception"]


def test_level_and_text(tmp_path: Path, log: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUST_LOG", "error")
    logging_setup.open_log(str(tmp_path / "log"), None)
    log.warning("not this")
    log.error("but this")
    line = (tmp_path / "log").read_text()
    assert line.endswith("ERROR   runtimed_ffi.daemon.test: but this\n")


def test_a_crash_of_the_interpreter_prints_its_stack(tmp_path: Path) -> None:
    pytest.importorskip("runtimed_ffi._binding.ffi", reason="the C library is not built")
    from interop.daemons import DaemonProcess

    limit, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
    try:
        daemon = DaemonProcess(tmp_path / "d", uv=0)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (limit, most))
    try:
        daemon.process.send_signal(signal.SIGSEGV)
        assert daemon.process.wait(30) == -signal.SIGSEGV
        said = daemon.log.read_text()
    finally:
        daemon.kill()
    assert "Segmentation fault" in said
    assert "daemon/service.py" in said
