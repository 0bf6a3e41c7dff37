"""What dies, and what goes on: kernels, daemons, waits, processes, interpreters."""

from __future__ import annotations

import os
import signal
import time

import pytest
from cells import FOREVER, Gate

import runtimed_ffi
from integration.tools import Recorder, Thread, first_output

AT_ONCE = 15.0
"""Seconds for events that come at once: less than any time limit, enough for a busy machine."""


# -- kernels


@pytest.mark.parametrize("whence", ["inside", "outside"])
def test_a_killed_kernel_ends_every_waiter_with_the_reason(
    session: runtimed_ffi.Session, other: runtimed_ffi.Session, gate: Gate, whence: str
) -> None:
    kernel = int(session.run("import os\nprint(os.getpid())").stdout)
    kept = session.create_cell("kept = 1", "markdown")
    code = gate.code + "import signal\nos.kill(os.getpid(), signal.SIGKILL)" if whence == "inside" else FOREVER
    execution = session.submit_cell(session.create_cell(code))
    first_output(execution)
    waiting = other.submit_cell(other.create_cell("print('never')"))
    other.sync()  # The daemon has queued it.
    if whence == "outside":
        os.kill(kernel, signal.SIGKILL)
    else:
        gate.open()
    begin = time.monotonic()
    with pytest.raises(runtimed_ffi.KernelDiedError, match="SIGKILL") as caught:
        execution.result()
    assert time.monotonic() - begin < AT_ONCE
    assert "SIGKILL" in caught.value.reason
    assert caught.value.result is not None
    assert caught.value.result.stdout.startswith("begun\n")
    with pytest.raises(runtimed_ffi.KernelDiedError, match="SIGKILL"):
        waiting.result()
    with pytest.raises(runtimed_ffi.NoKernelError):
        session.run("1")
    session.start_kernel()
    assert session.run("print('alive')").stdout == "alive\n"
    assert session.get_cell(kept).source == "kept = 1"
    assert "".join(o.text or "" for o in session.get_outputs(execution.cell_id)).startswith("begun\n")


def test_a_kernel_that_leaves_by_itself(session: runtimed_ffi.Session) -> None:
    with pytest.raises(runtimed_ffi.KernelDiedError, match="exit code 3"):
        session.run("import os\nos._exit(3)")


def test_the_last_words_of_a_kernel_reach_every_waiter(
    session: runtimed_ffi.Session, other: runtimed_ffi.Session, gate: Gate
) -> None:
    code = gate.code + (
        "import sys\n"
        # ipykernel captures descriptor 2 and keeps the original beside it.
        "os.write(getattr(sys.stderr, '_original_stdstream_copy', 2), b'the last words')\nos._exit(3)"
    )
    dying = session.submit_cell(session.create_cell(code))
    first_output(dying)
    waiting = other.submit_cell(other.create_cell("print('never')"))
    other.sync()
    gate.open()
    for execution in (dying, waiting):
        with pytest.raises(runtimed_ffi.KernelDiedError) as caught:
            execution.result()
        assert "exit code 3" in caught.value.reason
        assert "the last words" in caught.value.reason
    session.start_kernel()
    assert other.run("print('again')").stdout == "again\n"


def test_the_death_of_an_idle_kernel_is_broadcast_to_every_session(
    session: runtimed_ffi.Session, other: runtimed_ffi.Session
) -> None:
    kernel = int(session.run("import os\nprint(os.getpid())").stdout)
    other.sync()
    with Recorder(session) as mine, Recorder(other) as theirs:
        os.kill(kernel, signal.SIGKILL)
        for recorder in (mine, theirs):
            recorder.until(lambda recorder=recorder: any("SIGKILL" in str(message) for message in recorder.broadcasts))
    with pytest.raises(runtimed_ffi.NoKernelError):
        other.run("1")
    other.start_kernel()
    assert session.run("print('again')").stdout == "again\n"


def test_a_kernel_shut_down_by_another_session_cancels(
    session: runtimed_ffi.Session, other: runtimed_ffi.Session
) -> None:
    execution = session.submit_cell(session.create_cell(FOREVER))
    first_output(execution)
    other.shutdown_kernel()
    with pytest.raises(runtimed_ffi.ExecutionCancelledError):
        execution.result()


# -- daemons


def test_a_killed_daemon_ends_every_waiter_and_the_document_comes_back(directory: str) -> None:
    with runtimed_ffi.Daemon(directory) as daemon:
        session = daemon.session("survivor")
        session.start_kernel()
        kept = session.run("print('kept')").cell_id
        execution = session.submit_cell(session.create_cell(FOREVER))
        first_output(execution)
        waiters = [Thread(execution.result), Thread(session.run, "1"), Thread(session.run, "2")]
        with Recorder(session) as recorder:
            recorder.until(lambda: session.queue_state()["queued"] and len(session.get_cells()) == 4)
            begin = time.monotonic()
            daemon.kill()
            for waiter in waiters:
                with pytest.raises(runtimed_ffi.DisconnectedError) as caught:
                    waiter.get()
                assert str(caught.value)
                assert waiter.ended_at - begin < AT_ONCE
        assert execution.state == "disconnected"
        assert not session.is_connected
        with pytest.raises(runtimed_ffi.ConnectError):
            session.run("3")  # Connects by itself, but no daemon is there.
    with runtimed_ffi.Daemon(directory) as daemon:
        session.connect()
        assert session.is_connected
        assert len(session.get_cells()) >= 4
        assert [output.text for output in session.get_outputs(kept)] == ["kept\n"]
        session.start_kernel()
        assert session.run("print('again')").stdout == "again\n"
        session.disconnect()


def test_kernels_end_with_a_killed_daemon(daemon: runtimed_ffi.Daemon) -> None:
    with daemon.session() as session:
        session.start_kernel()
        session.run("1")
        daemon.kill()
        session.disconnect()
    # The fixture of the package sees whether the kernel has ended.


def test_a_stopped_daemon_ends_the_waiter(daemon: runtimed_ffi.Daemon) -> None:
    session = daemon.session()
    session.start_kernel()
    execution = session.submit_cell(session.create_cell(FOREVER))
    first_output(execution)
    waiter = Thread(execution.result)
    daemon.client().shutdown()
    with pytest.raises((runtimed_ffi.ExecutionCancelledError, runtimed_ffi.DisconnectedError)):
        waiter.get()
    session.disconnect()


# -- waits


def test_disconnecting_ends_the_waits_of_other_threads(
    session: runtimed_ffi.Session, other: runtimed_ffi.Session
) -> None:
    execution = other.submit_cell(other.create_cell(FOREVER))
    first_output(execution)
    waiters = [Thread(execution.result), Thread(other.run, "1")]
    with Recorder(session) as recorder:
        recorder.until(lambda: len(session.queue_state()["queued"]) == 1)
    other.disconnect()
    for waiter in waiters:
        with pytest.raises(runtimed_ffi.DisconnectedError):
            waiter.get(AT_ONCE)
    session.shutdown_kernel()
