"""Starting our daemon: by a session that finds none, once for any number of processes, and as a private one."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

import runtimed_ffi
from runtimed_ffi import errors

pytestmark = pytest.mark.kernel


@pytest.fixture
def home():
    """An empty home in the environment of child processes; a daemon started there is stopped with the test."""
    directory = tempfile.mkdtemp(prefix="rtd-")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUNTIMED_")}
    environment.pop("XDG_CACHE_HOME", None)
    environment.pop("CONDUCTOR_WORKSPACE_PATH", None)
    environment["HOME"] = directory
    yield directory, environment
    socket_path = os.path.join(directory, ".cache", "runtimed-ffi", "runtimed.sock")
    try:
        runtimed_ffi.DaemonClient(socket_path).shutdown()
    except errors.ConnectError:
        pass
    shutil.rmtree(directory, ignore_errors=True)


RACE = """
import json, os, sys
import runtimed_ffi
sys.stdin.read(1)
session = runtimed_ffi.Session("race")
session.connect()
path = runtimed_ffi.default_socket_path()
print(json.load(open(os.path.join(os.path.dirname(path), "daemon.json")))["pid"])
"""


def test_racing_processes_get_one_daemon(home):
    directory, environment = home
    command = [sys.executable, "-c", RACE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, env=environment, **pipes) for _ in range(4)]
    for racer in racers:
        racer.stdin.write("x")
        racer.stdin.flush()
    answers = [racer.communicate(timeout=60) for racer in racers]
    assert [error for _, error in answers] == [""] * 4
    pids = {int(pid) for pid, _ in answers}
    assert len(pids) == 1
    os.kill(pids.pop(), 0)
    assert os.stat(os.path.join(directory, ".cache", "runtimed-ffi")).st_mode & 0o777 == 0o700


def test_no_daemon_without_autostart(home):
    directory, environment = home
    program = "import runtimed_ffi; runtimed_ffi.Session(autostart=False).connect()"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert "Failed to connect: No such file or directory (os error 2)" in done.stderr
    assert not os.path.exists(os.path.join(directory, ".cache"))


def test_a_private_daemon_cleans_up():
    daemon = runtimed_ffi.Daemon()
    assert daemon.pid is None
    assert repr(daemon) == "Daemon(stopped)"
    with pytest.raises(errors.StateError):
        _ = daemon.socket_path
    with daemon as same:
        assert same is daemon
        pid, directory = daemon.pid, daemon.directory
        assert repr(daemon) == f"Daemon(pid={pid}, socket={daemon.socket_path})"
        with pytest.raises(errors.StateError):
            daemon.start()
    assert not os.path.exists(directory)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    daemon.stop()
    with daemon:
        assert daemon.client().ping(), "it can be started again"


def test_a_given_directory_stays():
    directory = tempfile.mkdtemp(prefix="rtd-")
    try:
        with runtimed_ffi.Daemon(directory) as daemon:
            assert daemon.directory == directory
        assert os.path.exists(os.path.join(directory, "runtimed.log"))
    finally:
        shutil.rmtree(directory)


def test_a_private_daemon_that_cannot_start_says_why():
    with pytest.raises(errors.ConnectError, match=r"--no-such-option"):
        runtimed_ffi.Daemon(arguments=["--no-such-option"]).start()


ORPHAN = """
import os, signal, runtimed_ffi
daemon = runtimed_ffi.Daemon().start()
print(daemon.pid, daemon.directory, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_private_daemon_ends_with_its_parent():
    done = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    directory = done.stdout.split()[1]
    try:
        with open(os.path.join(directory, "daemon.lock")) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # granted when the daemon has gone
        with pytest.raises(errors.ConnectError):
            runtimed_ffi.DaemonClient(os.path.join(directory, "runtimed.sock")).status()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
