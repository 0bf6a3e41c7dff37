"""Ctrl-C in every call that waits: KeyboardInterrupt at once, and the session is as usable as before."""

from __future__ import annotations

import os
import sys

import pytest

from integration.tools import finish, python

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc whether a thread sleeps"),
]

SCRIPT = """
    import os, signal, socket, sys, threading, time
    import runtimed_ffi

    MAIN = threading.get_native_id()

    def sleeps():
        with open(f"/proc/self/task/{MAIN}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "S"

    def press(ended, begun, pressed):
        # When the main thread is in a system call; again if the signal came between Python's last look and the call.
        seen = 0
        while not ended.wait(0.01):
            seen = seen + 1 if begun() and sleeps() else 0
            if seen >= 5:
                seen = -100
                pressed.append(time.monotonic())
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def interrupted(name, call, begun=lambda: True):
        ended, pressed = threading.Event(), []
        thread = threading.Thread(target=press, args=(ended, begun, pressed))
        try:
            try:
                thread.start()
                value = call()
            finally:
                ended.set()
                thread.join()
        except KeyboardInterrupt:
            # Less than any limit of the calls themselves.
            assert time.monotonic() - pressed[0] < 8, f"{name}: {time.monotonic() - pressed[0]} s"
            print(name, flush=True)
        else:
            raise AssertionError(f"{name} returned {value!r}")

    daemon = runtimed_ffi.Daemon().start()
    pid = daemon.pid
    session = daemon.session("signals")
    session.start_kernel()
    cell = session.create_cell("print('cell')")
    submitted = []

    def submit():
        submitted.append(session.submit_cell(cell))
        return submitted[-1]

    client = daemon.client()
    calls = {
        "connect": lambda: daemon.session("another").connect(),
        "start_kernel": lambda: session.start_kernel(),
        "run": lambda: session.run("print('run')"),
        "run with output": lambda: session.run("print('run')", on_output=print),
        "execute_cell": lambda: session.execute_cell(cell),
        "result": lambda: submit().result(),
        "iteration": lambda: next(iter(submit())),
        "run_all": lambda: session.run_all(),
        "sync": lambda: (session.set_source(cell, "print('changed')"), session.sync()),
        "queue_state": lambda: session.queue_state(),
        "kernel_info": lambda: session.kernel_info(),
        "interrupt": lambda: session.interrupt(),
        "ping": lambda: client.ping(),
        "status": lambda: client.status(),
        "list_rooms": lambda: client.list_rooms(),
        "flush_pool": lambda: client.flush_pool(),
    }
    for name, call in calls.items():
        # A stopped daemon answers nothing, and no connection ends.
        if name == "start_kernel":
            session.shutdown_kernel()
        os.kill(pid, signal.SIGSTOP)
        try:
            interrupted(name, call)
        finally:
            os.kill(pid, signal.SIGCONT)
        if name != "start_kernel":
            assert session.is_connected
        session.start_kernel()
        assert session.run("print('alive')").stdout == "alive\\n", name
    # What was begun goes on, and can be waited for again.
    assert [execution.result().state for execution in submitted] == ["done"] * len(submitted)
    for end in ("disconnect", "close"):
        session.shutdown_kernel()
        session.start_kernel()  # The session that launched the kernel stops it in `close`.
        os.kill(pid, signal.SIGSTOP)
        try:
            session.create_cell("x" * 500_000)  # More than the socket takes.
            interrupted(end, getattr(session, end))
        finally:
            os.kill(pid, signal.SIGCONT)
        session.start_kernel()
        assert session.run("print('alive')").stdout == "alive\\n", end
    session.close()
    session.disconnect()
    os.kill(pid, signal.SIGSTOP)
    interrupted("shutdown", client.shutdown)
    os.kill(pid, signal.SIGCONT)
    daemon.stop()

    # The queue of connections that wait for `accept` is full: connecting itself waits.
    with runtimed_ffi.Daemon() as empty, socket.socket(socket.AF_UNIX) as listener:
        path = os.path.join(empty.directory, "full")
        listener.bind(path)
        listener.listen(0)
        first = socket.socket(socket.AF_UNIX)
        first.connect(path)
        interrupted("connect in a full line", runtimed_ffi.Session(socket_path=path, autostart=False).connect)
        first.close()
    starting = runtimed_ffi.Daemon(sys.argv[1])
    interrupted("start of a daemon", starting.start, lambda: starting.pid is not None)
"""
CALLS = [
    "connect",
    "start_kernel",
    "run",
    "run with output",
    "execute_cell",
    "result",
    "iteration",
    "run_all",
    "sync",
    "queue_state",
    "kernel_info",
    "interrupt",
    "ping",
    "status",
    "list_rooms",
    "flush_pool",
    "disconnect",
    "close",
    "shutdown",
    "connect in a full line",
    "start of a daemon",
]


def test_ctrl_c_ends_every_wait_and_leaves_the_session_usable(directory: str) -> None:
    out = finish(python(SCRIPT, os.path.join(directory, "d")), 100.0)
    assert [line for line in out.splitlines() if line in CALLS] == CALLS
