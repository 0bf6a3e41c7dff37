"""A daemon for the tests of the reference's client, and a room in it whose streams are checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("runtimed_ffi._binding.ffi", reason="the C library is not built")

from interop.daemons import DaemonProcess, daemon, until
from interop.reference_peer import pool
from interop.rooms import Room


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with daemon(tmp_path_factory.mktemp("ref")) as process:
        yield process


@pytest.fixture
def with_pool(tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon with a pool of environments, which has made one or knows that it cannot."""

    def tried() -> bool:
        stats = json.loads(pool(str(process.socket), {"type": "status"})[0])["stats"]
        return stats["uv_available"] > 0 or "uv_error" in stats

    with daemon(tmp_path, uv=1) as process:
        # A launch waits for the pool's first attempt, on PyPy longer than the client does.
        until(tried, 110)
        yield process


@pytest.fixture
def room(running: DaemonProcess, request: pytest.FixtureRequest) -> Iterator[Room]:
    made = Room(str(running.socket), f"room of {request.node.name}")
    yield made
    try:
        made.check()
    finally:
        made.end()
