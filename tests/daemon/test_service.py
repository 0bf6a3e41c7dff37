"""Whole daemons, as processes: start, lock, signals, shutdown, executions end to end.  Needs the built library."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("runtimed_ffi._binding.ffi", reason="the C library is not built")

import runtimed_ffi

LIMIT = 60.0


class Process:
    """A daemon started by its command line, ready when the constructor returns."""

    def __init__(self, *arguments: str, stdin: int | None = subprocess.DEVNULL, wait: bool = True) -> None:
        read, write = os.pipe()
        command = [sys.executable, "-m", "runtimed_ffi", "daemon", *arguments]
        if wait:
            command += ["--ready-fd", str(write)]
        self.process = subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[write]
        )
        os.close(write)
        try:
            if wait:
                assert _line(read) == b"ready\n"
        except BaseException:
            self.end(signal.SIGKILL)
            raise
        finally:
            os.close(read)

    def end(self, number: int | None = signal.SIGTERM) -> int:
        if number is not None:
            self.process.send_signal(number)
        try:
            self.process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode


def _line(descriptor: int) -> bytes:
    assert select.select([descriptor], [], [], LIMIT)[0], "the daemon did not become ready"
    data = b""
    while not data.endswith(b"\n"):
        part = os.read(descriptor, 65536)
        assert part, "the daemon ended before it was ready"
        data += part
    return data


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "d"


@pytest.fixture
def running(base: Path) -> Iterator[Process]:
    daemon = Process("run", "--socket", str(base / "s.sock"))
    yield daemon
    if daemon.process.poll() is None:
        daemon.end()


def pool(path: Path, *requests: Any) -> list[Any]:
    """Raw requests on one pool connection."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LIMIT)
        connection.connect(str(path))
        _send(connection, {"channel": "pool"})
        answers = []
        for request in requests:
            _send(connection, request)
            length = int.from_bytes(_exactly(connection, 4), "big")
            answers.append(json.loads(_exactly(connection, length)))
        return answers


def _send(connection: socket.socket, value: Any) -> None:
    data = json.dumps(value).encode()
    connection.sendall(len(data).to_bytes(4, "big") + data)


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        assert part, "the daemon closed the connection"
        data += part
    return data


def test_files_and_modes(running: Process, base: Path) -> None:
    assert stat.S_IMODE(os.stat(base).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(base / "s.sock").st_mode) == 0o600
    assert (base / "blobs").is_dir()
    info = json.loads((base / "daemon.json").read_text())
    assert info["pid"] == running.process.pid
    assert info["endpoint"] == str(base / "s.sock")
    assert (info["endpoint"], info["pid"]) == (str(base / "s.sock"), running.process.pid)


def test_only_one_daemon(running: Process, base: Path) -> None:
    second = Process("run", "--socket", str(base / "s.sock"), wait=False)
    _, errors = second.process.communicate(timeout=LIMIT)
    assert second.process.returncode == 1
    assert str(running.process.pid) in errors.decode()
    assert pool(base / "s.sock", {"type": "ping"}) == [{"type": "pong"}]


def test_a_live_socket_is_never_taken(base: Path) -> None:
    base.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(base / "s.sock"))
        other.listen()
        daemon = Process("run", "--socket", str(base / "s.sock"), wait=False)
        daemon.process.communicate(timeout=LIMIT)
        assert daemon.process.returncode == 1
        assert (base / "s.sock").exists()
    assert not (base / "daemon.json").exists()


def test_what_a_killed_daemon_left_does_not_hinder(running: Process, base: Path) -> None:
    running.end(signal.SIGKILL)
    assert (base / "s.sock").exists()
    assert (base / "daemon.json").exists()
    second = Process("run", "--socket", str(base / "s.sock"))
    assert pool(base / "s.sock", {"type": "ping"}) == [{"type": "pong"}]
    assert second.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it_cleanly(running: Process, base: Path, number: int) -> None:
    start = time.monotonic()
    with runtimed_ffi.Session(socket_path=str(base / "s.sock")) as session:
        session.start_kernel()
        pid = int(session.run("import os; print(os.getpid())").stdout)
        assert running.end(number) == 0
    assert time.monotonic() - start < LIMIT
    assert not (base / "s.sock").exists()
    assert not (base / "daemon.json").exists()
    assert not (base / "kernels").exists()
    with pytest.raises(OSError, match="No such process"):
        os.kill(pid, 0)


def test_the_end_takes_less_than_five_seconds_with_a_stubborn_kernel(running: Process, base: Path) -> None:
    session = runtimed_ffi.Session(socket_path=str(base / "s.sock"))
    session.start_kernel()
    cell = session.create_cell("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass")
    with pytest.raises(runtimed_ffi.RuntimedError, match="timed out"):
        session.execute_cell(cell, timeout_secs=1)
    start = time.monotonic()
    assert running.end() == 0
    assert time.monotonic() - start < 5


def test_a_second_signal_kills_kernels_at_once(running: Process, base: Path) -> None:
    session = runtimed_ffi.Session(socket_path=str(base / "s.sock"))
    session.start_kernel()
    code = "import os, signal, sys\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += "sys.stdout.write(f'{os.getpid()}\\n')\nsys.stdout.flush()\nwhile True: pass"
    pid = int(next(iter(session.submit_cell(session.create_cell(code)))).text or "")
    running.process.send_signal(signal.SIGTERM)
    log, deadline = base / "runtimed.log", time.monotonic() + LIMIT
    while "stopping: SIGTERM" not in log.read_text():
        assert time.monotonic() < deadline
    assert running.end() == 0
    assert "SIGTERM again: kernels are killed" in log.read_text()
    with pytest.raises(OSError, match="No such process"):
        os.kill(pid, 0)


def test_the_first_shutdown_request_is_enough(running: Process, base: Path) -> None:
    assert pool(base / "s.sock", {"type": "shutdown"}) == [{"type": "shutting_down"}]
    assert running.end(None) == 0
    assert not (base / "s.sock").exists()


@pytest.mark.kernel
def test_reference_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runtimed.sock"
    line = ["run", "--socket", str(path), "--cache-dir", str(tmp_path / "envs"), "--blob-store-dir"]
    line += [str(tmp_path / "blobs"), "--uv-pool-size", "1", "--conda-pool-size", "0"]
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    daemon = Process(*line)
    client = runtimed_ffi.DaemonClient(socket_path=str(path))
    assert client.ping()
    assert client.status()["uv_available"] == 0
    with runtimed_ffi.Session(socket_path=str(path)) as session:
        session.start_kernel()  # No package index: the pool cannot build, the kernel starts all the same.
        assert session.run("1 + 1").success
    client.shutdown()
    assert daemon.end(None) == 0


def test_status_and_stop(running: Process, base: Path) -> None:
    def command(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "runtimed_ffi", "daemon", *words, "--socket", str(base / "s.sock")]
        return subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, check=False)

    assert json.loads(command("status", "--json").stdout)["pid"] == running.process.pid
    assert command("stop").returncode == 0
    assert running.end(None) == 0
    assert command("status").returncode == 3


def test_it_ends_with_standard_input(base: Path) -> None:
    read, write = os.pipe()
    daemon = Process("run", "--socket", str(base / "s.sock"), "--exit-with-stdin", stdin=read)
    os.close(read)
    os.close(write)
    assert daemon.end(None) == 0


def test_it_ends_when_idle_but_not_while_a_peer_is_connected(base: Path) -> None:
    daemon = Process("run", "--socket", str(base / "s.sock"), "--idle-timeout", "1.5")
    session = runtimed_ffi.Session(socket_path=str(base / "s.sock"))
    session.connect()
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.process.wait(3.0)
    session.disconnect()
    assert daemon.end(None) == 0


def test_a_room_survives_the_daemon(running: Process, base: Path) -> None:
    session = runtimed_ffi.Session("kept", socket_path=str(base / "s.sock"))
    session.connect()
    cell = session.create_cell("x = 1")
    running.end()
    again = Process("run", "--socket", str(base / "s.sock"))
    second = runtimed_ffi.Session("kept", socket_path=str(base / "s.sock"))
    second.connect()
    assert second.get_cell(cell).source == "x = 1"
    assert again.end() == 0


def test_a_broken_journal_is_kept_and_the_room_opens(running: Process, base: Path) -> None:
    import hashlib

    name = hashlib.sha256(b"broken").hexdigest() + ".automerge"
    (base / "notebook-docs" / name).write_bytes(b"no document")
    session = runtimed_ffi.Session("broken", socket_path=str(base / "s.sock"))
    session.connect()
    assert session.get_cells() == []
    assert (base / "notebook-docs" / (name + ".corrupt")).read_bytes() == b"no document"


def test_the_code_of_a_full_disk_is_that_of_the_library() -> None:
    from runtimed_ffi._binding.ffi import lib
    from runtimed_ffi.daemon import ports

    assert ports.RTD_E_IO == lib.RTD_E_IO


def test_the_first_reason_to_stop_counts(tmp_path: Path) -> None:
    import asyncio

    from runtimed_ffi.daemon.options import DaemonOptions
    from runtimed_ffi.daemon.service import Service
    from runtimed_ffi.places import layout

    async def body() -> None:
        service = Service(DaemonOptions(layout({}, base=str(tmp_path))), "0")
        service.stop("before it runs")
        service._stopping = asyncio.get_running_loop().create_future()
        service.stop("a shutdown request")
        service.stop("idle")
        assert await service._stopping == "a shutdown request"

    asyncio.run(body())
