"""Sessions of whole processes against a real daemon: warnings, Ctrl-C, exits, and the end of the daemon."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import warnings

import pytest
from cells import BEGUN
from fakes import SECONDS, in_thread

import runtimed_ffi
from runtimed_ffi import errors
from runtimed_ffi._binding.native_session import NativeSession

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    "end, warns", [(None, True), (runtimed_ffi.Session.close, False), (runtimed_ffi.Session.disconnect, False)]
)
def test_a_dropped_session_warns_unless_it_was_closed(daemon, end, warns):
    session = daemon.session()
    session.connect()
    if end is not None:
        end(session)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del session
        gc.collect()
    dropped = [str(warning.message) for warning in caught if "connection of a Session" in str(warning.message)]
    assert dropped == ["the connection of a Session was not closed"] * warns


def test_a_stopped_connection_may_be_dropped(daemon):
    native = NativeSession(daemon.socket_path, "dropped", connect_timeout_ms=-1)
    native.stop()
    native.stop()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del native
        gc.collect()
    assert [warning for warning in caught if "connection of a Session" in str(warning.message)] == []


CTRL_C = """
import os, signal, sys, threading
import runtimed_ffi
with runtimed_ffi.Session("ctrl-c", socket_path=sys.argv[1]) as session:
    session.start_kernel()
    kill = lambda: os.kill(os.getpid(), signal.SIGINT)
    begun = lambda output: output.data and kill()
    execution = session.submit_cell(session.create_cell("display('begun')\\nwhile True: pass"), begun)
    try:
        execution.result()
    except KeyboardInterrupt:
        session.interrupt()
        print(execution.result().error.ename)
        print(session.run("print('usable')").stdout)
"""


@pytest.mark.parametrize("where", ["callback", "wait"])
def test_ctrl_c(daemon, where):
    program = CTRL_C
    if where == "wait":
        program = program.replace("and kill()", "and threading.Timer(0.1, kill).start()")
    done = subprocess.run(
        [sys.executable, "-c", program, daemon.socket_path], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr, done.returncode) == ("KeyboardInterrupt\nusable\n\n", "", 0)


EXIT = """
import sys, threading
import runtimed_ffi
session = runtimed_ffi.Session(socket_path=sys.argv[1])
session.on_output(lambda event: None)
session.start_kernel()
session.start_pump()
begun = threading.Event()
def load():
    try:
        session.run("for i in range(20000): print(i, flush=True)", None, on_output=lambda output: begun.set())
    except runtimed_ffi.RuntimedError:
        pass
threading.Thread(target=load, daemon=True).start()
assert begun.wait(30)
"""


def test_interpreter_exit_under_load(daemon):
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", EXIT, daemon.socket_path], capture_output=True, text=True, timeout=60
        )
        assert (done.stderr, done.returncode) == ("", 0)


def test_a_killed_daemon_ends_the_waiter():
    with runtimed_ffi.Daemon() as daemon:
        session = daemon.session("killed")
        session.start_kernel()
        begun = threading.Event()
        code = BEGUN + "while True: pass"
        join = in_thread(lambda: session.run(code, None, on_output=lambda output: begun.set()))
        assert begun.wait(SECONDS)
        pid = daemon.pid
        daemon.kill()
        with pytest.raises(errors.DisconnectedError, match=r"^Broadcast channel closed") as gone:
            join()
        assert gone.value.result.stdout == "begun\n"
        assert not session.is_connected
        with pytest.raises(errors.DisconnectedError, match=r"^Channel closed$"):
            session.sync()
        with pytest.raises(errors.ConnectError, match=r"^Failed to connect: Connection refused"):
            session.connect()
        assert daemon.pid is None and pid
        assert not daemon.client().ping()
    assert not os.path.exists(os.path.dirname(session._socket_path))


# -- the daemon client


def test_daemon_client(daemon, session):
    with daemon.client() as client:
        assert client.ping() and client.is_running()
        assert repr(client) == "DaemonClient(connected)"
        assert list(client.status()) == ["uv_available", "conda_available", "uv_warming", "conda_warming"]
        room = next(room for room in client.list_rooms() if room["notebook_id"] == session.notebook_id)
        assert room == {"notebook_id": session.notebook_id, "active_peers": 1, "has_kernel": False}
        client.flush_pool()


def test_shutdown_returns_when_the_daemon_is_gone():
    with runtimed_ffi.Daemon() as daemon:
        client = daemon.client()
        client.shutdown()
        assert not client.ping()
        with pytest.raises(errors.ConnectError, match=r"^Failed to connect to daemon: "):
            client.shutdown()


def test_environment_variable(daemon, monkeypatch):
    monkeypatch.setenv("RUNTIMED_SOCKET_PATH", daemon.socket_path)
    assert runtimed_ffi.DaemonClient().ping()
    session = runtimed_ffi.Session()
    session.connect()
    assert session.is_connected
    session.disconnect()
    assert runtimed_ffi.default_socket_path() == daemon.socket_path
