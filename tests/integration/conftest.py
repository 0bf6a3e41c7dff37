"""A daemon and a kernel that tests share, daemons for the tests that kill them, and a check at the end that nothing
is left.

All processes the tests start inherit a mark in their environment, and all temporary files go into one directory.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import Callable

import pytest
from cells import Gate

pytest.importorskip("runtimed_ffi._binding.ffi", reason="the C library is not built")
pytest.importorskip("ipykernel", reason="ipykernel is missing")

import runtimed_ffi

MARK = "RUNTIMED_FFI_TEST_RUN"
END_SECONDS = 10.0
"""Seconds for processes that are ending to be gone."""


@pytest.fixture(scope="package", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No process and no file outlives these tests; the discovery of daemons finds none of the user's."""
    # Short: sockets lie in it, and their paths may have no more than a hundred bytes.
    directory = tempfile.mkdtemp(prefix="rtd-test-", dir="/tmp" if os.path.isdir("/tmp") else None)
    mark = uuid.uuid4().hex
    patch = pytest.MonkeyPatch()
    patch.setenv(MARK, mark)
    patch.setenv("TMPDIR", directory)
    patch.setenv("XDG_CACHE_HOME", os.path.join(directory, "cache"))
    patch.setattr(tempfile, "tempdir", directory)
    for name in ("RUNTIMED_SOCKET_PATH", "CONDUCTOR_WORKSPACE_PATH", "RUNTIMED_DEV", "RUST_LOG"):
        patch.delenv(name, raising=False)
    try:
        yield
        processes = _ended(mark)
        files = os.listdir(directory)
    finally:
        patch.undo()
        shutil.rmtree(directory, ignore_errors=True)
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
    assert not processes, f"processes were left behind: {processes}"
    assert not files, f"temporary files were left behind: {files}"


def _ended(mark: str) -> dict[int, str]:
    """Wait for the end of every process that carries the mark; return those that do not end."""
    if not sys.platform.startswith("linux"):
        return {}
    deadline = time.monotonic() + END_SECONDS
    while True:
        living = _marked(mark)
        if not living or time.monotonic() > deadline:
            return living
        time.sleep(0.05)


def _marked(mark: str) -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                environment = file.read()
            with open(f"/proc/{name}/cmdline", "rb") as file:
                command = file.read()
        except OSError:
            continue
        if f"{MARK}={mark}".encode() in environment:
            found[int(name)] = command.replace(b"\0", b" ").decode("utf-8", "replace").strip()
    return found


@pytest.fixture(scope="package")
def shared_daemon(nothing_left_behind: None) -> Iterator[runtimed_ffi.Daemon]:
    """The daemon of all tests that leave it as it is."""
    with runtimed_ffi.Daemon() as daemon:
        yield daemon


class _Warm:
    """A room with a kernel that goes from test to test."""

    def __init__(self, daemon: runtimed_ffi.Daemon) -> None:
        self._daemon = daemon
        self._session: runtimed_ffi.Session | None = None

    def get(self) -> runtimed_ffi.Session:
        session = self._session
        if session is None or not session.is_connected:
            session = self._session = self._daemon.session()
        session.start_kernel()
        if session.queue_state()["executing"] is not None:
            # The test before left a cell running.
            session.shutdown_kernel()
            session.start_kernel()
        for cell in session.get_cells():
            session.delete_cell(cell.id)
        return session

    def close(self) -> None:
        if self._session is not None:
            self._session.disconnect()


@pytest.fixture(scope="package")
def _warm(shared_daemon: runtimed_ffi.Daemon) -> Iterator[_Warm]:
    warm = _Warm(shared_daemon)
    yield warm
    warm.close()


@pytest.fixture
def session(_warm: _Warm) -> runtimed_ffi.Session:
    """A connected session with a kernel and an empty document. The kernel keeps the state of earlier tests."""
    return _warm.get()


@pytest.fixture
def other(session: runtimed_ffi.Session, join: Callable[..., runtimed_ffi.Session]) -> runtimed_ffi.Session:
    """A second session in the same room, with the same kernel."""
    second = join(session.notebook_id)
    second.start_kernel()
    return second


@pytest.fixture
def join(shared_daemon: runtimed_ffi.Daemon) -> Iterator[Callable[..., runtimed_ffi.Session]]:
    """Makes connected sessions in rooms of the shared daemon; without a kernel of their own."""
    sessions: list[runtimed_ffi.Session] = []

    def make(notebook_id: str | None = None) -> runtimed_ffi.Session:
        made = shared_daemon.session(notebook_id)
        sessions.append(made)
        made.connect()
        return made

    yield make
    for made in sessions:
        made.disconnect()


@pytest.fixture
def daemon() -> Iterator[runtimed_ffi.Daemon]:
    """A daemon for this test alone."""
    with runtimed_ffi.Daemon() as daemon:
        yield daemon


@pytest.fixture
def gates(directory: str) -> Iterator[Callable[[], Gate]]:
    """Makes gates that cells wait for."""
    made: list[Gate] = []

    def make() -> Gate:
        made.append(Gate(os.path.join(directory, f"gate-{len(made)}")))
        return made[-1]

    yield make
    for gate in made:
        gate.close()


@pytest.fixture
def gate(gates: Callable[[], Gate]) -> Gate:
    """A gate that a cell waits for."""
    return gates()


@pytest.fixture
def directory() -> Iterator[str]:
    """An empty directory with a path short enough for sockets."""
    path = tempfile.mkdtemp(prefix="t-")
    yield path
    shutil.rmtree(path)
