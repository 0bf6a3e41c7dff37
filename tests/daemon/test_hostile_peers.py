"""Malicious peers, as raw sockets against a whole daemon: each affects its own connection only."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("runtimed_ffi._binding.ffi", reason="the C library is not built")

import runtimed_ffi
from daemon.test_service import LIMIT, _exactly, pool

ANSWER = 10.0
"""Seconds within which other peers are answered, on a busy machine."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[runtimed_ffi.Daemon]:
    with runtimed_ffi.Daemon() as daemon:
        yield daemon


@pytest.fixture
def attacker(daemon: runtimed_ffi.Daemon) -> Iterator[socket.socket]:
    with _connect(daemon) as connection:
        yield connection


def _connect(daemon: runtimed_ffi.Daemon) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    # Blocking: with a time limit Linux refuses at once while many others wait to be accepted.
    connection.connect(daemon.socket_path)
    connection.settimeout(LIMIT)
    return connection


def _frame(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _others_are_served(daemon: runtimed_ffi.Daemon) -> None:
    start = time.monotonic()
    assert pool(Path(daemon.socket_path), {"type": "ping"}, {"type": "list_rooms"})[0] == {"type": "pong"}
    with daemon.session("bystander") as session:
        cell = session.create_cell("x = 1")
        assert session.get_cell(cell).source == "x = 1"
    assert time.monotonic() - start < ANSWER


def _is_hung_up(connection: socket.socket) -> bool:
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


POOL = _frame(b'{"channel":"pool"}')
BLOB = _frame(b'{"channel":"blob"}')
NOTEBOOK = _frame(b'{"channel":"notebook_sync","notebook_id":"hostile","protocol":"v2"}')
DEEP = b"[" * 100_000 + b"]" * 100_000
DEEP_OBJECT = b'{"type":"ping","x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        bytes(range(256)) * 64,
        _frame(b""),
        _frame(b"\xff\xfe"),
        _frame(b'{"channel":"nothing"}'),
        _frame(b'{"channel":"pool"} trailing'),
        b"\xff\xff\xff\xff",
        (65537).to_bytes(4, "big"),
        _frame(DEEP[:30_000] + DEEP[-30_000:]),
        POOL + b"\x06\x40\x00\x01",
        POOL + _frame(DEEP),
        POOL + _frame(DEEP_OBJECT),
        POOL + _frame(b'{"type":"inspect_notebook","notebook_id":5}'),
        POOL + _frame(b'{"type":"take","env_type":"../../etc"}'),
        BLOB + _frame(DEEP_OBJECT),
        BLOB + _frame(b'{"action":"store","media_type":5}') + _frame(b"x"),
        NOTEBOOK + _frame(b"\x07unknown"),
        NOTEBOOK + _frame(b"\x00no sync message"),
        NOTEBOOK + _frame(b"\x01" + DEEP_OBJECT),
        NOTEBOOK + _frame(b"\x01not json"),
    ],
    ids=lambda data: repr(data[:40]),
)
def test_garbage_ends_its_connection_only(daemon: runtimed_ffi.Daemon, attacker: socket.socket, data: bytes) -> None:
    try:
        attacker.sendall(data)
    except ConnectionError:
        pass  # The daemon closed the connection before all of it was sent.
    assert _is_hung_up(attacker)
    _others_are_served(daemon)


@pytest.mark.parametrize("length", [1, 60_000])
def test_a_room_may_have_any_name(daemon: runtimed_ffi.Daemon, length: int) -> None:
    for character in ("\0", "/", "é", "\U0001f600", "\n"):
        size = len(json.dumps(character, ensure_ascii=False).encode()) - 2
        name = character * max(length // size, 1)
        with daemon.session(name) as session:
            cell = session.create_cell("x = 1")
            assert session.get_cell(cell).source == "x = 1"
    _others_are_served(daemon)


def test_numbers_and_names_without_end_are_answered_with_errors(daemon: runtimed_ffi.Daemon) -> None:
    requests: list[dict[str, Any]] = [
        {"type": "inspect_notebook", "notebook_id": "../" * 10_000 + "etc/passwd"},
        {"type": "return", "env": {"env_type": "uv", "venv_path": daemon.directory, "python_path": "/"}},
        {"type": "status", "details": [1] * 10_000},
    ]
    answers = pool(Path(daemon.socket_path), *requests)
    assert answers[0]["type"] == "error"
    assert os.path.exists(daemon.log_path), "no path that a peer names is touched"
    assert "daemon" not in answers[2]


def test_a_peer_that_never_reads_is_alone_with_that(daemon: runtimed_ffi.Daemon, attacker: socket.socket) -> None:
    with daemon.session("large") as session:
        session.create_cell("#" * 300_000)
        try:
            attacker.sendall(POOL + _frame(b'{"type":"inspect_notebook","notebook_id":"large"}') * 100)
        except ConnectionError:
            pass  # The daemon has closed the connection already.
        _others_are_served(daemon)
        assert len(session.get_cells()) == 1


def test_a_peer_that_stops_in_a_frame_affects_no_other(daemon: runtimed_ffi.Daemon) -> None:
    with ExitStack() as stack:
        for start in (b"\0", POOL[:7], POOL + b"\0\0", BLOB + (100_000_000).to_bytes(4, "big") + b"x", NOTEBOOK[:-1]):
            stack.enter_context(_connect(daemon)).sendall(start)
        _others_are_served(daemon)


def test_two_thousand_connections(daemon: runtimed_ffi.Daemon) -> None:
    """Connections beyond the limit are closed at once; earlier ones are served, and later ones afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"this process may have only {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    with daemon.session("before") as session, _connect(daemon) as before:
        before.sendall(POOL)
        session.create_cell("x = 1")
        with ExitStack() as stack:
            refused = 0
            for _ in range(2000):
                try:
                    stack.enter_context(_connect(daemon)).sendall(POOL)
                except ConnectionError:
                    refused += 1
            start = time.monotonic()
            before.sendall(_frame(b'{"type":"ping"}'))
            length = int.from_bytes(_exactly(before, 4), "big")
            assert json.loads(_exactly(before, length)) == {"type": "pong"}
            cell = session.create_cell("y = 2")
            assert session.get_cell(cell).source == "y = 2"
            assert time.monotonic() - start < ANSWER
        deadline = time.monotonic() + LIMIT
        while not daemon.client().ping():  # The daemon notices the closed sockets one by one.
            assert time.monotonic() < deadline
    _others_are_served(daemon)


@pytest.mark.kernel
def test_an_interrupt_of_a_dead_kernel_is_answered(daemon: runtimed_ffi.Daemon) -> None:
    """In the reference it never returns and blocks every new connection (protocol 2, section 5.11)."""
    with daemon.session("dead") as session:
        session.start_kernel()
        pid = int(session.run("import os; print(os.getpid())").stdout)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            os.kill(pid, number)
            asker = threading.Thread(target=_interrupt, args=(session,))
            asker.start()
            _others_are_served(daemon)
            asker.join(LIMIT)
            assert not asker.is_alive()


def _interrupt(session: runtimed_ffi.Session) -> None:
    try:
        session.interrupt()
    except runtimed_ffi.RuntimedError:
        pass  # There is no kernel any more.
