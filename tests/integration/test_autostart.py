"""Sessions that find no daemon start exactly one, however many try; it ends when no session needs it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

import runtimed_ffi
from integration.tools import LIMIT, Thread, finish, python

RACER = """
    import sys
    import runtimed_ffi
    print("ready", flush=True)
    sys.stdin.readline()
    session = runtimed_ffi.Session("race")
    session.connect()
    session.create_cell("mine")
    session.sync()
    print(session._require().native.info()["capabilities"]["pid"], flush=True)
    sys.stdin.readline()
    session.disconnect()
"""


@pytest.fixture
def cache(directory: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A cache directory of this test's own, and daemons in it that end soon after their last client."""
    monkeypatch.setenv("XDG_CACHE_HOME", directory)
    monkeypatch.setenv("RUNTIMED_FFI_IDLE_TIMEOUT", "0.5")
    return os.path.join(directory, "runtimed-ffi")


def until_ended(cache: str) -> None:
    """Wait until the daemon has removed its `daemon.json` and accepts no more connections."""
    deadline = time.monotonic() + LIMIT
    client = runtimed_ffi.DaemonClient(os.path.join(cache, "runtimed.sock"))
    while os.path.exists(os.path.join(cache, "daemon.json")) or client.ping():
        assert time.monotonic() < deadline, "the daemon does not end"
        time.sleep(0.02)


@pytest.mark.stress
@pytest.mark.parametrize("round_", [0, *(pytest.param(number, marks=pytest.mark.long) for number in (1, 2))])
def test_ten_processes_at_once_get_one_daemon(cache: str, round_: int) -> None:
    racers = [python(RACER, stdin=subprocess.PIPE) for _ in range(10)]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    pids = {racer.stdout.readline() for racer in racers if racer.stdout is not None}
    assert len(pids) == 1
    with open(os.path.join(cache, "daemon.json"), encoding="utf-8") as file:
        assert {f"{json.load(file)['pid']}\n"} == pids
    with runtimed_ffi.Session("race") as session:
        session.connect()
        assert len(session.get_cells()) == 10
        session.disconnect()
    for racer in racers:
        finish(racer)
    until_ended(cache)


def test_a_started_daemon_ends_when_idle_and_is_started_again(cache: str) -> None:
    session = runtimed_ffi.Session("again")
    for number in range(2):
        session.connect()
        session.create_cell(str(number))
        session.sync()
        assert os.stat(cache).st_mode & 0o777 == 0o700
        session.disconnect()
        until_ended(cache)
    session.connect()
    assert [cell.source for cell in session.get_cells()] == ["0", "1"]
    session.disconnect()
    until_ended(cache)


def test_a_started_daemon_outlives_its_starter(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
        import runtimed_ffi
        session = runtimed_ffi.Session("outlive")
        session.start_kernel()
        print(session.run("'kept'").success)
        session.disconnect()
    """
    monkeypatch.setenv("RUNTIMED_FFI_IDLE_TIMEOUT", "3")
    assert finish(python(script)) == "True\n"
    with runtimed_ffi.Session("outlive", autostart=False) as session:
        session.connect()
        assert len(session.get_cells()) == 1
        session.disconnect()
    until_ended(cache)


def test_a_killed_daemon_is_started_again(cache: str) -> None:
    session = runtimed_ffi.Session("killed")
    session.connect()
    session.create_cell("kept")
    session.sync()
    os.kill(session._require().native.info()["capabilities"]["pid"], signal.SIGKILL)
    deadline = time.monotonic() + LIMIT
    while session.is_connected:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    session.connect()
    assert [cell.source for cell in session.get_cells()] == ["kept"]
    session.disconnect()
    until_ended(cache)


def test_a_daemon_that_hangs_up_before_it_answers_is_replaced(cache: str) -> None:
    """The socket of a daemon that is killed while a session connects; another is started only where that is allowed."""
    os.makedirs(cache, mode=0o700)

    def hang_up() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.join(cache, "runtimed.sock"))
            listener.listen()
            listening.set()
            connection, _ = listener.accept()
        connection.close()

    for autostart in (False, None):
        listening = threading.Event()
        dying = Thread(hang_up)
        assert listening.wait(LIMIT)
        session = runtimed_ffi.Session("replaced", autostart=autostart)
        if autostart is False:
            with pytest.raises(runtimed_ffi.DisconnectedError):
                session.connect()
            os.unlink(os.path.join(cache, "runtimed.sock"))
        else:
            session.connect()
            session.disconnect()
        dying.get()
    until_ended(cache)


def test_at_a_given_path_only_on_request(cache: str, directory: str) -> None:
    path = os.path.join(directory, "own", "my.sock")
    with pytest.raises(runtimed_ffi.ConnectError, match=r"Failed to connect: .* \(os error 2\)"):
        runtimed_ffi.Session("x", socket_path=path).connect()
    session = runtimed_ffi.Session("x", socket_path=path, autostart=True)
    session.connect()
    session.disconnect()
    until_ended(os.path.dirname(path))
    deadline = time.monotonic() + LIMIT
    while os.path.exists(path):
        assert time.monotonic() < deadline, "the socket is left behind"
        time.sleep(0.02)


def test_not_at_all_when_forbidden(cache: str) -> None:
    with pytest.raises(runtimed_ffi.ConnectError, match="Failed to connect"):
        runtimed_ffi.Session("x", autostart=False).connect()
    assert not os.path.exists(cache)


def test_a_path_that_cannot_be_made_is_a_clear_error(cache: str, directory: str) -> None:
    blocker = os.path.join(directory, "file")
    with open(blocker, "w", encoding="utf-8"):
        pass
    with pytest.raises(runtimed_ffi.ConnectError, match="Failed to connect"):
        runtimed_ffi.Session("x", socket_path=os.path.join(blocker, "a.sock"), autostart=True).connect()


def test_a_path_too_long_for_a_socket_is_a_clear_error(cache: str, directory: str) -> None:
    path = os.path.join(directory, "x" * 120, "a.sock")
    with pytest.raises((runtimed_ffi.ConnectError, runtimed_ffi.ArgumentError)):
        runtimed_ffi.Session("x", socket_path=path, autostart=True).connect()


def status() -> tuple[int, dict[str, Any]]:
    """The exit status of ``runtimed status --json``, run as a user would, and what it printed."""
    command = [sys.executable, "-m", "runtimed_ffi", "daemon", "status", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("case", ["plain", "workspace", "empty workspace", "checkout", "empty home", "no home"])
def test_status_and_sessions_mean_the_same_daemon(case: str, directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNTIMED_SOCKET_PATH", "RUNTIMED_DEV", "CONDUCTOR_WORKSPACE_PATH", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", directory)
    monkeypatch.chdir(directory)
    if case == "workspace":
        monkeypatch.setenv("CONDUCTOR_WORKSPACE_PATH", directory)
    elif case == "empty workspace":
        monkeypatch.setenv("CONDUCTOR_WORKSPACE_PATH", "")
    elif case == "checkout":
        subprocess.run(["git", "init", "-q"], check=True)
        monkeypatch.setenv("RUNTIMED_DEV", "1")
    elif case == "empty home":
        monkeypatch.setenv("HOME", "")
    elif case == "no home":
        monkeypatch.delenv("HOME")
    _, seen = status()
    assert seen["socket"] == runtimed_ffi.default_socket_path()
    assert ("worktrees" in seen["socket"]) == (case in ("workspace", "empty workspace", "checkout"))


def test_the_daemon_of_a_workspace_is_seen_and_stopped(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDUCTOR_WORKSPACE_PATH", cache)
    session = runtimed_ffi.Session("n")
    session.connect()
    code, seen = status()
    assert (code, seen["running"], seen["socket"]) == (0, True, runtimed_ffi.default_socket_path())
    assert os.path.dirname(os.path.dirname(seen["socket"])) == os.path.join(cache, "worktrees")
    subprocess.run([sys.executable, "-m", "runtimed_ffi", "daemon", "stop"], check=True, timeout=LIMIT)
    assert status()[0] == 3
    session.disconnect()
