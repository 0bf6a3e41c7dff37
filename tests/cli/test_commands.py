"""The commands, against daemons as processes: start, stop, restart, status, logs, unit."""

from __future__ import annotations

import fcntl
import json
import os
import plistlib
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("runtimed_ffi._binding.ffi", reason="the C library is not built")

import runtimed_ffi
from runtimed_ffi.cli import observe, status

LIMIT = 60.0


class Command:
    """The command line for one daemon."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.socket = str(base / "s.sock")

    def __call__(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "runtimed_ffi", "daemon", *words, "--socket", self.socket]
        done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, check=False)
        assert done.returncode == code, (done.stdout, done.stderr)
        return done

    def status(self) -> Any:
        return json.loads(self("status", "--json").stdout)

    def info(self) -> Any:
        return json.loads((self.base / "daemon.json").read_text())


def has_ended(pid: int) -> bool:
    """Whether a process ends soon: it gives back its lock a moment before, and no process here is its parent."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path / "d")
    yield command
    command("stop", "--force")


def test_start_is_idempotent_and_stop_leaves_only_what_lasts(command: Command) -> None:
    first = command("start").stdout
    pid = command.info()["pid"]
    assert f"started (pid {pid})" in first
    assert command.socket in first
    assert f"already running (pid {pid})" in command("start").stdout
    assert "stopped" in command("stop").stdout
    assert has_ended(pid)
    left = {"blobs", "notebook-docs", "daemon.lock", "runtimed.log", "start.lock"}
    left |= {"settings.automerge", "runt-notebook"}
    assert set(os.listdir(command.base)) == left
    assert "not running" in command("stop").stdout


def test_restart_keeps_the_options(command: Command) -> None:
    command("start", "--max-peers", "5", "--eviction-delay", "7")
    before = command.status()
    command("restart", "--max-peers", "6")
    after = command.status()
    assert after["pid"] != before["pid"]
    assert after["peers"]["limit"] == 6
    assert after["arguments"] == ["--socket", command.socket, "--eviction-delay", "7.0", "--max-peers", "6"]


def test_restart_starts_what_does_not_run(command: Command) -> None:
    assert "started" in command("restart").stdout


@pytest.mark.kernel
def test_status_reports_what_the_daemon_uses(command: Command) -> None:
    command("start")
    with runtimed_ffi.Session("here", socket_path=command.socket) as session:
        session.start_kernel()
        pid = int(session.run("import os; print(os.getpid())").stdout)
        found, text = command.status(), command("status").stdout
    assert (found["running"], found["answers"], found["pid"]) == (True, True, command.info()["pid"])
    assert found["blob_port"] == command.info()["blob_port"]
    assert found["uptime_seconds"] > 0
    assert found["memory_bytes"] > 2**20
    assert 0 < found["descriptors"]["open"] < found["descriptors"]["limit"]
    assert found["peers"]["in_rooms"] == 1
    (room,) = found["rooms"]
    assert (room["notebook_id"], room["peers"]) == ("here", 1)
    assert (room["kernel"]["pid"], room["kernel"]["status"]) == (pid, "idle")
    assert room["kernel"]["memory_bytes"] > 2**20
    assert found["pools"]["uv_available"] == 0
    assert f"'here': 1 peers, python (uv:prewarmed) idle, pid {pid}, " in text
    assert f"running: pid {found['pid']}" in text


def test_status_of_none_and_of_a_dead_one(command: Command) -> None:
    assert "not running" in command("status", code=3).stdout
    command("start")
    pid = command.info()["pid"]
    os.kill(pid, signal.SIGKILL)
    with open(command.base / "daemon.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # granted when it has gone
    assert os.path.exists(command.socket), "a stale socket"
    assert json.loads(command("status", "--json", code=3).stdout)["running"] is False
    assert "not running" in command("stop").stdout
    assert "started" in command("start").stdout, "files of a dead daemon do not prevent a start"


def test_a_missing_or_foreign_daemon_json_does_not_hinder(command: Command) -> None:
    command("start")
    pid = command.info()["pid"]
    (command.base / "daemon.json").write_text(json.dumps({"pid": 1, "endpoint": "elsewhere"}))
    assert command.status()["pid"] == pid
    os.unlink(command.base / "daemon.json")
    assert command.status()["pid"] == pid
    assert "stopped" in command("stop").stdout
    assert has_ended(pid)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the listener's process is known on Linux only")
def test_a_daemon_that_does_not_answer_is_killed_on_request_only(command: Command, monkeypatch: Any) -> None:
    monkeypatch.setattr(observe, "ANSWER_SECONDS", 0.2)
    command("start")
    pid = command.info()["pid"]
    os.unlink(command.base / "daemon.json")
    os.kill(pid, signal.SIGSTOP)
    found = observe.observe(_paths(command))
    assert (found.running, found.report, found.pid) == (True, None, pid)
    assert any("does not answer" in line for line in status._lines(_paths(command), found))
    assert "--force" in command("stop", "--timeout", "0.1", code=1).stderr
    assert "killed" in command("stop", "--timeout", "0.1", "--force").stdout
    assert has_ended(pid)


def test_a_lock_that_outlives_its_daemon_is_named(command: Command) -> None:
    command.base.mkdir(mode=0o700)
    with open(command.base / "daemon.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (command.base / "daemon.json").write_text(json.dumps({"pid": 2**22 + 1, "endpoint": "gone"}))
        assert "its lock is held" in command("status", code=4).stdout
        for word in ("stop", "start"):
            assert f"is held by process {os.getpid()}" in command(word, code=1).stderr


@pytest.mark.parametrize("number", [0, -1, 10**30])
def test_no_number_but_that_of_a_process_is_signalled(command: Command, number: int) -> None:
    # To `os.kill` these are a group of processes, all processes of the user, and an OverflowError.
    command.base.mkdir(mode=0o700)
    with open(command.base / "daemon.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (command.base / "daemon.json").write_text(json.dumps({"pid": number}))
        assert observe.observe(_paths(command)).pid is None


def test_an_unsafe_directory_is_refused_with_advice(command: Command) -> None:
    command.base.mkdir()
    command.base.chmod(0o777)
    for word in ("start", "run"):
        error = command(word, code=1).stderr
        assert f"other users can write into {command.base}; run `chmod o-w {command.base}`" in error
    assert os.listdir(command.base) == []


def test_logs(command: Command) -> None:
    assert "there is no log" in command("logs", code=1).stderr
    command("start", "--log-format", "json")
    said = [json.loads(line)["message"] for line in command("logs", "-n", "100").stdout.splitlines()]
    assert any("listening" in message for message in said), said
    # The latest lines come last.
    assert len(command("logs", "-n", "1").stdout.splitlines()) == 1
    line = [sys.executable, "-m", "runtimed_ffi", "daemon", "logs", "-f", "-n", "0", "--socket", command.socket]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, start_new_session=True) as follower:
        assert follower.stdout is not None
        # The end of the log as it was is not shown, so only what is written once the follower looks: it may be the
        # line of any of these.
        while not select.select([follower.stdout], [], [], 0)[0]:
            command("restart")
        assert json.loads(follower.stdout.readline())["level"] == "info"
        os.killpg(follower.pid, signal.SIGINT)
        follower.communicate(timeout=LIMIT)
        assert follower.returncode == 0


def test_systemd_unit(command: Command, tmp_path: Path) -> None:
    text = command("unit", "systemd", "--base-dir", str(tmp_path / 'a b%n$HOME"')).stdout
    assert "Type=exec" in text
    assert '"--idle-timeout" "0"' in text
    assert 'a b%%n$$HOME\\""' in text
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "runtimed-ffi.service"
    unit.write_text(text)
    line = ["systemd-analyze", "verify", "--user", "--man=no", str(unit)]
    environment = dict(os.environ, XDG_RUNTIME_DIR=str(tmp_path))
    done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, check=False, env=environment)
    assert "runtimed-ffi.service" not in done.stderr, done.stderr


def test_launchd_agent(command: Command) -> None:
    line = [sys.executable, "-m", "runtimed_ffi", "daemon", "unit", "launchd", "--socket", command.socket]
    agent = plistlib.loads(subprocess.run(line, capture_output=True, timeout=LIMIT, check=True).stdout)
    words = ["run", "--socket", command.socket, "--idle-timeout", "0"]
    assert agent["ProgramArguments"] == [sys.executable, "-m", "runtimed_ffi", "daemon", *words]
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["StandardErrorPath"] == str(command.base / "runtimed.log")


def _paths(command: Command) -> Any:
    from runtimed_ffi.places import layout

    return layout({}, socket=command.socket)


def test_times_and_sizes_for_people() -> None:
    assert [status._duration(value) for value in (0, 59.9, 60, 3725, 90061)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 h 2 min",
        "1 d 1 h",
    ]
    assert (status._size(None), status._size(3 * 2**20)) == ("unknown", "3.0 MiB")
