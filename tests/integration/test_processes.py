"""`os.fork` and `multiprocessing`: what a child has of its parent's session, and sessions of its own."""

from __future__ import annotations

import multiprocessing
import os
import sys

import pytest
from cells import FOREVER

import runtimed_ffi
from integration.tools import finish, launch, python

CHILD = """
    import os, sys, threading, warnings
    import runtimed_ffi
    # From 3.12 on CPython warns of forks in programs with threads, which is what this is about.
    warnings.simplefilter("ignore")

    def refused(*calls):
        for call in calls:
            try:
                call()
            except runtimed_ffi.StateError as error:
                assert "fork" in str(error), error
            else:
                raise AssertionError("no error")

    def forked(function):
        # In a child, with all that runs at its exit; returns its status.
        child = os.fork()
        if child == 0:
            try:
                function()
            except SystemExit:  # of a child of the child
                raise
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            sys.exit(0)
        return os.waitpid(child, 0)[1]
"""

FORK = (
    CHILD
    + """
    session = runtimed_ffi.Session("fork", socket_path=sys.argv[1])
    session.start_kernel()
    received = []
    subscription = session.on_output(received.append)
    session.start_pump()

    # A thread waits for it, which a child does not have.
    begun = threading.Event()
    endless = session.submit_cell(session.create_cell(sys.argv[2]), lambda output: begun.set())
    waiting = threading.Thread(target=endless.result)
    waiting.start()
    assert begun.wait(30)
    assert forked(lambda: refused(lambda: endless.result(), lambda: list(endless))) == 0
    session.interrupt()
    waiting.join()
    received.clear()

    # Values, not prints: a value is one event, a print may come in pieces.
    def run(session, value):
        assert [output.data for output in session.run(repr(value)).outputs] == [{"text/plain": repr(value)}]

    cell = session.create_cell("'x'")
    execution = session.submit_cell(cell)

    def child():
        refused(
            lambda: session.run("1"), lambda: session.get_cells(), lambda: session.set_source(cell, "y"),
            lambda: session.connect(), lambda: session.sync(), lambda: session.execute_cell(cell),
            lambda: session.start_kernel(), lambda: session.interrupt(), lambda: execution.result(),
        )
        assert not session.is_connected
        with runtimed_ffi.Session("fork", socket_path=sys.argv[1]) as own:
            own.start_kernel()
            run(own, "child")
            own.disconnect()
        subscription.remove()
        session.stop_pump()
        session.close()
        session.disconnect()

    for _ in range(3):
        assert forked(child) == 0
        run(session, "parent")
    assert execution.result().success
    assert len(received) == 7, received  # one of its own at first, then one of a child and one of its own each time
    # The other way round: the parent has none yet, and its child's child has neither.
    session.disconnect()
    assert forked(lambda: forked(lambda: runtimed_ffi.Session("fork", socket_path=sys.argv[1]).connect())) == 0
"""
)


def test_a_forked_child_gets_a_clear_error_and_the_parent_goes_on(shared_daemon: runtimed_ffi.Daemon) -> None:
    finish(python(FORK, shared_daemon.socket_path, FOREVER), 100.0)


UNDER_LOAD = (
    CHILD
    + """
    # Other threads edit, connect and leave, so that forks find locks taken, here and in the library.
    path, runs = sys.argv[1], int(sys.argv[2])
    session = runtimed_ffi.Session("forks", socket_path=path)
    session.connect()
    cell, stop = session.create_cell("x"), threading.Event()
    session.on_change(lambda change: None)
    session.start_pump()

    def edit():
        number = 0
        while not stop.is_set():
            number += 1
            session.set_source(cell, f"x = {number}")
            session.sync()

    def come_and_go():
        while not stop.is_set():
            other = runtimed_ffi.Session("forks", socket_path=path)
            other.connect()
            other.set_source(cell, "x")
            other.disconnect()

    def child():
        refused(lambda: session.get_cells(), lambda: session.set_source(cell, "z"), lambda: session.connect())
        own = runtimed_ffi.Session("forks-child", socket_path=path)
        own.connect()
        own.create_cell("mine")
        own.disconnect()

    threads = [threading.Thread(target=function) for function in (edit, come_and_go)]
    for thread in threads:
        thread.start()
    try:
        assert [forked(child) for _ in range(runs)] == [0] * runs
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert session.get_cell(cell).source.startswith("x")
    session.disconnect()
    check = runtimed_ffi.Session("forks-child", socket_path=path)
    check.connect()
    assert [cell.source for cell in check.get_cells()] == ["mine"] * runs
    check.disconnect()
"""
)


@pytest.mark.pypy
@pytest.mark.stress
@pytest.mark.timeout(900)
def test_forks_while_other_threads_use_the_library(
    shared_daemon: runtimed_ffi.Daemon, pytestconfig: pytest.Config
) -> None:
    runs = pytestconfig.getoption("fork_runs")
    finish(python(UNDER_LOAD, shared_daemon.socket_path, str(runs)), 60.0 + 5.0 * runs)


POOL = """
import multiprocessing, sys, warnings
import runtimed_ffi
warnings.simplefilter("ignore")

session = None

def work(path, room):
    if session is not None:  # forked
        try:
            session.get_cells()
        except runtimed_ffi.StateError:
            pass
        else:
            return "the session of the parent answered"
    with runtimed_ffi.Session(room, socket_path=path) as own:
        own.start_kernel()
        result = own.run("print('child')")
        own.disconnect()
    return result

if __name__ == "__main__":
    path, method = sys.argv[1:]
    session = runtimed_ffi.Session("pool-" + method, socket_path=path)
    session.start_kernel()
    with multiprocessing.get_context(method).Pool(2) as pool:
        results = pool.starmap_async(work, [(path, "pool-" + method)] * 4).get(60)
        pool.close()
        pool.join()
    assert [getattr(result, "stdout", result) for result in results] == ["child\\n"] * 4, results
    session.sync()
    assert len(session.get_cells()) == 4
    session.disconnect()
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_processes_of_a_pool_use_sessions_and_send_results_back(
    shared_daemon: runtimed_ffi.Daemon, directory: str, method: str
) -> None:
    script = os.path.join(directory, "pool.py")
    with open(script, "w", encoding="utf-8") as file:
        file.write(POOL)
    finish(launch(sys.executable, script, shared_daemon.socket_path, method), 100.0)
