"""What dies, and what goes on: kernels, daemons, waits, processes, interpreters."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import warnings

import pytest

import runtimed_ffi

from .tools import FOREVER, Ears, Gate, Thread, finish, first_output, launch, python

AT_ONCE = 15.0
"""Seconds for news that nothing has to wait for: less than any time limit there is, enough for a busy machine."""


# -- kernels


@pytest.mark.parametrize("whence", ["inside", "outside"])
def test_a_killed_kernel_ends_every_waiter_with_the_reason(
    session: runtimed_ffi.Session, other: runtimed_ffi.Session, directory: str, whence: str
) -> None:
    gate = Gate(directory)
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
    session: runtimed_ffi.Session, other: runtimed_ffi.Session, directory: str
) -> None:
    gate = Gate(directory)
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


def test_the_death_of_an_idle_kernel_is_told_to_every_session(
    session: runtimed_ffi.Session, other: runtimed_ffi.Session
) -> None:
    kernel = int(session.run("import os\nprint(os.getpid())").stdout)
    other.sync()
    with Ears(session) as mine, Ears(other) as theirs:
        os.kill(kernel, signal.SIGKILL)
        for ears in (mine, theirs):
            ears.until(lambda ears=ears: any("SIGKILL" in str(message) for message in ears.broadcasts))
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
        with Ears(session) as ears:
            ears.until(lambda: session.queue_state()["queued"] and len(session.get_cells()) == 4)
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
            session.run("3")  # Connects by itself, but nobody is there.
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


def test_ctrl_c_ends_a_wait_and_leaves_the_session_usable(shared_daemon: runtimed_ffi.Daemon) -> None:
    script = f"""
        import sys, time
        import runtimed_ffi
        session = runtimed_ffi.Session("ctrl-c", socket_path=sys.argv[1])
        session.start_kernel()
        for round in range(5):
            begin = None
            try:
                session.run({FOREVER!r}, on_output=lambda output: print("waiting", flush=True))
            except KeyboardInterrupt:
                begin = time.monotonic()
            assert begin is not None
            print("interrupted", flush=True)
            session.interrupt()
            assert session.run("print('alive')").stdout == "alive\\n"
            print("went on", flush=True)
        session.close()
        session.disconnect()
    """
    process = python(script, shared_daemon.socket_path)
    assert process.stdout is not None
    for _ in range(5):
        assert process.stdout.readline() == "waiting\n"
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert time.monotonic() - begin < AT_ONCE
        assert process.stdout.readline() == "went on\n"
    finish(process)


def test_disconnecting_ends_the_waits_of_other_threads(
    session: runtimed_ffi.Session, other: runtimed_ffi.Session
) -> None:
    execution = other.submit_cell(other.create_cell(FOREVER))
    first_output(execution)
    waiters = [Thread(execution.result), Thread(other.run, "1")]
    with Ears(session) as ears:
        ears.until(lambda: len(session.queue_state()["queued"]) == 1)
    other.disconnect()
    for waiter in waiters:
        with pytest.raises(runtimed_ffi.DisconnectedError):
            waiter.get(AT_ONCE)
    session.shutdown_kernel()


# -- the end of the interpreter

EXIT = """
    import sys, threading
    import runtimed_ffi

    path, room, way = sys.argv[1:]
    session = runtimed_ffi.Session(room, socket_path=path)
    session.start_kernel()
    heard = threading.Event()
    session.on_output(lambda output: heard.set())
    session.on_change(lambda change: None)
    session.on_broadcast(lambda message: None)
    if way != "thread":
        session.start_pump()

    def wait():
        try:
            session.run("1", timeout_secs=None, on_output=print)
        except runtimed_ffi.RuntimedError:
            pass

    for _ in range(2):
        threading.Thread(target=wait, daemon=True).start()
    assert heard.wait(30), "no outputs came"
    if way == "exit":
        sys.exit(0)
    if way == "cycle":
        cycle = [session]
        cycle.append(cycle)
        del session
"""


@pytest.mark.stress
@pytest.mark.timeout(240)
def test_the_interpreter_ends_with_a_live_session_under_load(session: runtimed_ffi.Session) -> None:
    code = (
        "import time\nfrom IPython.display import clear_output\nfor i in range(100000):\n"
        "    display(i)\n    time.sleep(0.005)\n    if i % 300 == 299: clear_output()"
    )
    load = session.submit_cell(session.create_cell(code))
    first_output(load)
    path = session._require().socket_path
    ways = ["pump", "thread", "exit", "cycle"]
    running = [python(EXIT, path, session.notebook_id, "pump")]
    for number in range(49):
        running.append(python(EXIT, path, session.notebook_id, ways[number % 4]))
        finish(running.pop(0), 60.0)
    finish(running.pop(), 60.0)
    session.shutdown_kernel()


# -- processes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork is missing")
def test_a_forked_child_gets_a_clear_error_and_the_parent_goes_on(shared_daemon: runtimed_ffi.Daemon) -> None:
    script = """
        import os, sys, warnings
        import runtimed_ffi
        warnings.simplefilter("ignore")
        session = runtimed_ffi.Session("fork", socket_path=sys.argv[1])
        session.start_kernel()
        cell = session.create_cell("print('x')")
        session.start_pump()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                calls = [
                    lambda: session.run("1"), lambda: session.get_cells(), lambda: session.set_source(cell, "y"),
                    lambda: session.connect(), lambda: session.sync(), lambda: session.execute_cell(cell),
                ]
                for call in calls:
                    try:
                        call()
                    except runtimed_ffi.StateError as error:
                        assert "fork" in str(error), error
                    else:
                        raise AssertionError("no error")
                assert not session.is_connected
                own = runtimed_ffi.Session("fork", socket_path=sys.argv[1])
                own.start_kernel()
                assert own.run("print('child')").stdout == "child\\n"
                own.disconnect()
                session.close()
                status = 0
            finally:
                if status == 0:
                    sys.exit(0)  # With all that runs at exit.
                import traceback
                traceback.print_exc()
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert session.run("print('parent')").stdout == "parent\\n"
        session.disconnect()
    """
    for _ in range(3):
        finish(python(script, shared_daemon.socket_path))


SPAWN = """
import multiprocessing, sys
import runtimed_ffi

def work(path, room):
    with runtimed_ffi.Session(room, socket_path=path) as session:
        session.start_kernel()
        result = session.run("print('spawned')")
        session.disconnect()
    return result

if __name__ == "__main__":
    path = sys.argv[1]
    session = runtimed_ffi.Session("spawn", socket_path=path)
    session.start_kernel()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.starmap_async(work, [(path, "spawn")] * 4).get(60)
        pool.close()
        pool.join()
    assert [result.stdout for result in results] == ["spawned\\n"] * 4
    session.sync()
    assert len(session.get_cells()) == 4
    session.disconnect()
"""


def test_spawned_processes_use_sessions_and_send_results_back(
    shared_daemon: runtimed_ffi.Daemon, directory: str
) -> None:
    script = os.path.join(directory, "spawn.py")
    with open(script, "w", encoding="utf-8") as file:
        file.write(SPAWN)
    finish(launch(sys.executable, script, shared_daemon.socket_path))


# -- garbage


def test_sessions_that_are_forgotten_warn_and_do_no_harm(shared_daemon: runtimed_ffi.Daemon) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(20):
            session = shared_daemon.session("forgotten")
            session.connect()
            session.create_cell("x")
            cycle = [session]
            cycle.append(cycle)  # type: ignore[arg-type]
            del session, cycle
            gc.collect()
        gc.collect()
    resource = [warning for warning in caught if warning.category is ResourceWarning]
    assert any("Session" in str(warning.message) for warning in resource)
    if sys.implementation.name == "cpython":
        assert len([warning for warning in resource if "Session" in str(warning.message)]) == 20
    with shared_daemon.session("forgotten") as session:
        session.connect()
        assert len(session.get_cells()) == 20
        session.disconnect()
