"""Where a daemon is looked for: environment variables, development mode, and the order."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile

import pytest

import runtimed_ffi
from runtimed_ffi._client import autostart, discovery
from runtimed_ffi._client.discovery import locate, own_socket_path, reference_socket_path
from runtimed_ffi._system.filelock import acquire

VARIABLES = ["RUNTIMED_SOCKET_PATH", "RUNTIMED_DEV", "CONDUCTOR_WORKSPACE_PATH", "XDG_CACHE_HOME"]


@pytest.fixture
def home(monkeypatch):
    """An empty home with a path short enough for sockets, and none of the variables set."""
    directory = tempfile.mkdtemp(prefix="rtd-")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", directory)
    monkeypatch.setattr(sys, "platform", "linux")
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def listen():
    """Accept connections at a path, in the kernel's backlog."""
    opened = []

    def listen(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        opened.append(listener)
        listener.bind(path)
        listener.listen(5)
        return listener

    yield listen
    for listener in opened:
        listener.close()


def test_defaults(home):
    assert reference_socket_path() == f"{home}/.cache/runt/runtimed.sock"
    assert own_socket_path() == f"{home}/.cache/runtimed-ffi/runtimed.sock"
    assert locate() == (own_socket_path(), False)


def test_cache_directory(home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert reference_socket_path() == "/elsewhere/runt/runtimed.sock"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert reference_socket_path() == f"{home}/.cache/runt/runtimed.sock"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert reference_socket_path() == f"{home}/Library/Caches/runt/runtimed.sock"


@pytest.mark.parametrize("workspace", ["/w/x", "/w/x/", "", "relative é"])
def test_development_mode_by_workspace(home, monkeypatch, workspace):
    monkeypatch.setenv("CONDUCTOR_WORKSPACE_PATH", workspace)
    digits = hashlib.sha256(workspace.encode()).hexdigest()[:12]
    assert reference_socket_path() == f"{home}/.cache/runt/worktrees/{digits}/runtimed.sock"


def test_development_mode_by_git(home, monkeypatch):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    monkeypatch.setenv("RUNTIMED_DEV", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", os.path.dirname(home))
    monkeypatch.chdir(home)
    assert reference_socket_path() == f"{home}/.cache/runt/runtimed.sock", "no workspace, normal path"
    subprocess.run(["git", "init", "-q"], check=True)
    top = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, check=True).stdout.strip()
    digits = hashlib.sha256(top).hexdigest()[:12]
    assert reference_socket_path() == f"{home}/.cache/runt/worktrees/{digits}/runtimed.sock"
    monkeypatch.setenv("RUNTIMED_DEV", "true")
    assert reference_socket_path() == f"{home}/.cache/runt/runtimed.sock", "only 1 counts"


@pytest.mark.parametrize("value", ["", None])
def test_without_a_home_the_password_database_has_one(home, monkeypatch, value):
    monkeypatch.delenv("HOME")
    if value is not None:
        monkeypatch.setenv("HOME", value)
    expected = os.path.join(pwd.getpwuid(os.getuid()).pw_dir, ".cache")
    assert own_socket_path() == os.path.join(expected, "runtimed-ffi", "runtimed.sock")
    assert reference_socket_path() == os.path.join(expected, "runt", "runtimed.sock")


def test_order(home, monkeypatch, listen):
    os.makedirs(os.path.dirname(reference_socket_path()))
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(reference_socket_path())
    dead.close()
    assert locate() == (own_socket_path(), False), "a dead socket file is no daemon"
    os.unlink(reference_socket_path())
    listen(reference_socket_path())
    assert locate() == (reference_socket_path(), False)
    monkeypatch.setenv("RUNTIMED_SOCKET_PATH", "")
    assert locate() == (reference_socket_path(), False), "an empty variable counts as unset"
    monkeypatch.setenv("RUNTIMED_SOCKET_PATH", "/x/y.sock")
    assert locate() == ("/x/y.sock", True)
    assert locate("/z.sock") == ("/z.sock", True)


def test_default_socket_path_is_a_text_that_exists(home, monkeypatch):
    path = runtimed_ffi.default_socket_path()
    assert isinstance(path, str) and not path.exists()
    os.makedirs(path)
    assert path.exists()


def test_no_daemon(home):
    with pytest.raises(
        runtimed_ffi.ConnectError, match=r"^Failed to connect: No such file or directory \(os error 2\)$"
    ):
        runtimed_ffi.Session(autostart=False).connect()
    client = runtimed_ffi.DaemonClient()
    assert repr(client) == "DaemonClient(disconnected)"
    assert client.ping() is client.is_running() is False
    for call in (client.status, client.list_rooms, client.flush_pool, client.shutdown):
        with pytest.raises(
            runtimed_ffi.ConnectError, match=r"^Failed to connect to daemon: No such file or directory \(os error 2\)$"
        ):
            call()
    assert not os.listdir(home), "a look-up leaves no files"


def test_a_given_path_starts_nothing(home, monkeypatch):
    started = []
    monkeypatch.setattr("runtimed_ffi.session.ensure_running", started.append)
    with pytest.raises(runtimed_ffi.ConnectError):
        runtimed_ffi.Session(socket_path=f"{home}/a.sock").connect()
    monkeypatch.setenv("RUNTIMED_SOCKET_PATH", f"{home}/b.sock")
    with pytest.raises(runtimed_ffi.ConnectError):
        runtimed_ffi.Session().connect()
    assert not started
    with pytest.raises(runtimed_ffi.ConnectError):
        runtimed_ffi.Session(autostart=True).connect()
    assert started == [f"{home}/b.sock"]


LISTENER = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1]); listener.listen(64)
with open(sys.argv[1] + ".starts", "a") as file: file.write("x")
ready = int(sys.argv[sys.argv.index("--ready-fd") + 1])
os.write(ready, b"ready\\n"); os.close(ready)
while listener.accept()[0].recv(1) != b"q": pass
"""


def stand_in(program):
    """A daemon command that runs a small program with the socket; the start adds `--ready-fd` and a descriptor."""
    return lambda option, path, *others: [sys.executable, "-c", program, path]


def test_one_start_for_many(home, monkeypatch):
    from fakes import in_thread

    monkeypatch.setattr(autostart, "daemon_command", stand_in(LISTENER))
    path = f"{home}/run/x.sock"
    for join in [in_thread(lambda: autostart.ensure_running(path)) for _ in range(8)]:
        join()
    with open(path + ".starts") as file:
        assert file.read() == "x"
    assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(path)
        end.send(b"q")
    autostart._started[-1].wait(20)


def test_waiting_for_a_stopped_starter_is_bounded(home, monkeypatch):
    monkeypatch.setattr(autostart, "daemon_command", stand_in("raise SystemExit('it is broken')"))
    monkeypatch.setattr(autostart, "LOCK_SECONDS", 0.05)
    path = f"{home}/run/x.sock"
    os.mkdir(f"{home}/run")
    with open(f"{home}/run/start.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(
            runtimed_ffi.ConnectError, match=r"another process .* 0.05 seconds; it holds .*start\.lock$"
        ):
            autostart.ensure_running(path)
    monkeypatch.setattr(autostart, "LOCK_SECONDS", 20.0)
    with pytest.raises(runtimed_ffi.ConnectError, match="it is broken"):
        autostart.ensure_running(path)


def test_a_lock_is_granted_as_soon_as_it_is_free(tmp_path):
    from fakes import SECONDS, in_thread

    path = tmp_path / "lock"
    with open(path, "w") as first, open(path) as second, open(path) as third:
        assert acquire(first.fileno(), fcntl.LOCK_EX, 0)
        assert not acquire(second.fileno(), fcntl.LOCK_EX, 0.01)
        join = in_thread(lambda: acquire(third.fileno(), fcntl.LOCK_SH, SECONDS))
        second.close()
        first.close()
        assert join()
    with open(path) as last:
        assert acquire(last.fileno(), fcntl.LOCK_EX, SECONDS), "a waiter that has given up does not hold it"


def test_a_file_system_without_locks_is_a_clear_error(home, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(runtimed_ffi.ConnectError, match=r"^Failed to connect: cannot start a daemon in .*os error 37"):
        autostart.ensure_running(f"{home}/run/x.sock")


def test_a_path_may_be_bytes(home):
    assert discovery.locate(b"/a/b.sock") == ("/a/b.sock", True)
    with pytest.raises(TypeError):
        discovery.locate(7)


def test_a_failed_start_shows_the_log(home, monkeypatch):
    monkeypatch.setattr(autostart, "daemon_command", stand_in("print('no kernel'); raise SystemExit('it is broken')"))
    os.mkdir(f"{home}/run")
    with open(f"{home}/run/runtimed.log", "w") as log:
        log.write("of an earlier daemon\n")
    for _ in range(2):
        with pytest.raises(runtimed_ffi.ConnectError, match=r"^Failed to connect: (.|\n)*it is broken") as raised:
            autostart.ensure_running(f"{home}/run/x.sock")
        assert "earlier" not in str(raised.value) and str(raised.value).count("it is broken") == 1
    assert discovery.accepts(f"{home}/run/x.sock") is not None
