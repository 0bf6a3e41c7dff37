"""What the daemon has acknowledged survives its end, even by SIGKILL."""

from __future__ import annotations

import threading
import time

import pytest

import runtimed_ffi
from integration.tools import LIMIT, Thread


def test_cells_and_outputs_survive_a_restart(directory: str) -> None:
    with runtimed_ffi.Daemon(directory) as daemon, daemon.session("kept") as session:
        session.start_kernel()
        session.create_cell("# title", "markdown")
        result = session.run("print('out')\ndisplay('shown')\n'x' * 2_000_000")
        failed = session.run("1 / 0")
        session.set_metadata("note", "kept as well")
        session.sync()
        cells = session.get_cells()
        session.disconnect()
    for _ in range(2):
        with runtimed_ffi.Daemon(directory) as daemon, daemon.session("kept") as session:
            session.connect()
            assert session.get_cells() == cells
            assert session.get_outputs(result.cell_id) == result.outputs
            assert session.get_outputs(failed.cell_id) == failed.outputs
            assert session.get_metadata()["note"] == "kept as well"
            assert [cell.execution_count for cell in session.get_cells()] == [None, 1, 2]
            session.disconnect()


LONG = pytest.mark.long
"""`tests/stress/test_crash.py` kills at chosen calls, which is harder; here the sessions are those of users."""


@pytest.mark.stress
@pytest.mark.parametrize("delay", [0.15, *(pytest.param(delay, marks=LONG) for delay in (0.05, 0.3, 0.5))])
def test_a_killed_daemon_loses_no_acknowledged_edit(directory: str, delay: float) -> None:
    acknowledged: list[str] = []
    begun = threading.Event()

    def write(session: runtimed_ffi.Session, name: str) -> None:
        cell = session.create_cell("")
        for number in range(100_000):
            text = f"{name} {number};"
            session.splice_source(cell, len(session.get_cell(cell).source), 0, text)
            if number % 10 == 0:
                session.create_cell(text, "markdown", 0)
            session.sync()
            acknowledged.append(text)
            begun.set()

    with runtimed_ffi.Daemon(directory) as daemon:
        sessions = [daemon.session("edits") for _ in range(2)]
        for session in sessions:
            session.connect()
        writers = [Thread(write, session, name) for session, name in zip(sessions, ("one", "two"))]
        assert begun.wait(LIMIT)
        threading.Event().wait(delay)  # At a different moment in each run.
        daemon.kill()
        for writer in writers:
            with pytest.raises(runtimed_ffi.RuntimedError):
                writer.get()
        for session in sessions:
            session.disconnect()
    with runtimed_ffi.Daemon(directory) as daemon, daemon.session("edits") as session:
        session.connect()
        cells = session.get_cells()
        for text in acknowledged:
            assert any(text in cell.source for cell in cells), f"{text} was acknowledged and is lost"
            if text[4:-1].isdigit() and int(text[4:-1]) % 10 == 0:
                assert any(text == cell.source for cell in cells if cell.cell_type == "markdown")
        session.create_cell("and it can be edited")
        session.sync()
        session.disconnect()


def test_what_was_acknowledged_before_a_kill_has_its_outputs(directory: str) -> None:
    with runtimed_ffi.Daemon(directory) as daemon:
        session = daemon.session("outputs")
        session.start_kernel()
        result = session.run("for i in range(100): display(i)\nprint('x' * 100_000)")
        daemon.kill()
        session.disconnect()
    with runtimed_ffi.Daemon(directory) as daemon, daemon.session("outputs") as session:
        session.connect()
        assert session.get_outputs(result.cell_id) == result.outputs
        session.disconnect()


def test_rooms_keep_to_themselves(daemon: runtimed_ffi.Daemon) -> None:
    names = ["a", "b", "a/b", "../a", "ä" * 100, "x" * 5000, " ", ""]
    sessions = [daemon.session(name) for name in names]
    for session, name in zip(sessions, names):
        session.connect()
        session.create_cell(f"in {name}")
        session.sync()
    for session, name in zip(sessions, names):
        assert [cell.source for cell in session.get_cells()] == [f"in {name}"]
    assert sorted(room["notebook_id"] for room in daemon.client().list_rooms()) == sorted(names)
    for session in sessions:
        session.disconnect()


def test_the_daemon_forgets_peers_that_have_left(daemon: runtimed_ffi.Daemon) -> None:
    session = daemon.session("left")
    for _ in range(5):
        session.connect()
        session.disconnect()
    deadline = time.monotonic() + LIMIT
    while any(room["active_peers"] for room in daemon.client().list_rooms()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
