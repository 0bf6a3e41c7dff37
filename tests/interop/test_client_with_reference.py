"""Our client against the reference's daemon, emulated with its quirks (see `reference_daemon`)."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

pytest.importorskip("runtimed_ffi._binding.ffi", reason="the C library is not built")

import runtimed_ffi
from interop.daemons import until
from interop.reference_daemon import ReferenceDaemon, reference
from interop.reference_kernel import recorded_orders

pytestmark = pytest.mark.interop

Make = Callable[..., Any]


class World:
    """A daemon and the sessions with it."""

    def __init__(self, daemon: ReferenceDaemon) -> None:
        self.daemon = daemon
        self.sessions: list[Any] = []

    def session(self, kernel: bool = True) -> Any:
        session = runtimed_ffi.Session("nb", socket_path=self.daemon.path, autostart=False)
        self.sessions.append(session)
        session.connect()
        if kernel:
            session.start_kernel()
        return session


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(**quirks: Any) -> World:
        directory = tmp_path / str(len(made))
        directory.mkdir()
        from interop.reference_daemon import Quirks

        made.append(World(ReferenceDaemon(directory, Quirks(**quirks))))
        return made[-1]

    yield make
    for each in made:
        for session in each.sessions:
            session.disconnect()
        each.daemon.stop()


def actions(world: World) -> list[str]:
    return [request["action"] for request in world.daemon.requests]


# -- connect and edit


def test_connect_edit_and_run(world: Callable[..., World]) -> None:
    here = world()
    session, other = here.session(), here.session(kernel=False)
    assert session.env_source == "uv:prewarmed"
    cell = session.create_cell("x = 1")
    session.set_source(cell, "print('hello')\n6 * 7")
    until(lambda: [each.source for each in other.get_cells()] == ["print('hello')\n6 * 7"])
    result = session.execute_cell(cell)
    assert (result.success, result.stdout, result.execution_count) == (True, "hello\n", 1)
    assert result.display_data[0].data == {"text/plain": "42"}
    failed = session.run("print('before')\n1 / 0")
    assert (failed.success, failed.stdout, failed.error.ename) == (False, "before\n", "ZeroDivisionError")
    assert failed.error.traceback
    session.delete_cell(cell)
    until(lambda: cell not in [each.id for each in other.get_cells()])


def test_the_handshake_asks_for_v2(world: Callable[..., World]) -> None:
    here = world()
    here.session(kernel=False)
    assert here.daemon.handshakes[-1]["protocol"] == "v2"
    assert here.daemon.handshakes[-1]["channel"] == "notebook_sync"


def test_protocol_1(world: Callable[..., World]) -> None:
    here = world(only_v1=True)
    session, other = here.session(kernel=False), here.session(kernel=False)
    cell = session.create_cell("# v1", "markdown")
    until(lambda: [each.source for each in other.get_cells()] == ["# v1"])
    other.set_source(cell, "# both")
    until(lambda: session.get_cell(cell).source == "# both")
    with pytest.raises(runtimed_ffi.RuntimedError, match="requires v2 protocol"):
        session.start_kernel()


def test_a_running_kernel_is_adopted(world: Callable[..., World]) -> None:
    here = world()
    one, two = here.session(), here.session()
    assert two.kernel_started
    one.run("kept = 5")
    assert two.run("kept").display_data[0].data == {"text/plain": "5"}


# -- ends of executions


def test_there_are_many_recorded_orders() -> None:
    orders = recorded_orders()
    assert len(orders) >= 4
    assert any(order.startswith("D") for order in orders)


def test_two_hundred_failing_executions(world: Callable[..., World]) -> None:
    """All end in an error with its traceback, and with their own outputs only."""
    here = world(seed=random.randrange(1 << 30))
    session = here.session()
    cells = [session.create_cell(), session.create_cell()]
    for number in range(200):
        cell = cells[number % 2 if number < 100 else 0]
        session.set_source(cell, f"print('run {number}')\nraise ValueError({number})")
        result = session.execute_cell(cell, timeout_secs=30)
        where = f"seed {here.daemon.quirks.seed}, run {number}: {result.outputs}"
        assert not result.success, where
        assert result.state == "error", where
        assert [output.output_type for output in result.outputs] == ["stream", "error"], where
        assert result.stdout == f"run {number}\n", where
        assert result.error.evalue == str(number), where
        assert result.error.traceback, where
        assert result.execution_count == number + 1, where


def test_three_hundred_outputs_of_which_most_broadcasts_are_lost(world: Callable[..., World]) -> None:
    here = world(behind=True)
    session = here.session()
    result = session.run("for n in range(300): display(n)", timeout_secs=60)
    assert [output.data["text/plain"] for output in result.outputs] == [str(number) for number in range(300)]
    assert result.success


def test_lost_broadcasts_of_a_failing_cell(world: Callable[..., World]) -> None:
    here = world(behind=True)
    session = here.session()
    for number in range(5):
        source = f"for n in range(100): display(n)\nraise ValueError({number})"
        result = session.run(source, timeout_secs=60)
        assert (result.success, len(result.outputs)) == (False, 101)


def test_a_second_run_returns_its_own_outputs(world: Callable[..., World]) -> None:
    session = world().session()
    session.run("n = 0")
    cell = session.create_cell("n += 1\nprint('run', n)")
    for number in range(1, 20):
        assert session.execute_cell(cell).stdout == f"run {number}\n"


def test_the_same_cell_submitted_twice_while_it_runs(world: Callable[..., World]) -> None:
    """The second request is ignored by the daemon (5.9); both end with the one execution there is."""
    here = world()
    session = here.session()
    cell = session.create_cell("print('once')\nwait()")
    first = session.submit_cell(cell, timeout_secs=30)
    assert next(iter(first)).text == "once\n"
    second = session.submit_cell(cell, timeout_secs=30)
    session.queue_state()
    session.interrupt()
    for execution in (first, second):
        result = execution.result()
        assert result.error.ename == "KeyboardInterrupt"
        assert result.stdout == "once\n"


def test_stop_on_error_cancels_what_was_queued(world: Callable[..., World]) -> None:
    session = world().session()
    cells = [session.create_cell(text) for text in ("print(0)", "wait()", "print(2)", "print(3)")]
    executions = [session.submit_cell(cell, timeout_secs=30) for cell in cells]
    until(lambda: session.queue_state() == {"executing": cells[1], "queued": cells[2:]})
    session.interrupt()
    assert executions[0].result().stdout == "0\n"
    assert executions[1].result().state == "interrupted"
    for execution in executions[2:]:
        with pytest.raises(runtimed_ffi.ExecutionCancelledError):
            execution.result()
    assert session.run("print('on')").stdout == "on\n"


def test_interrupt_by_another_session(world: Callable[..., World]) -> None:
    here = world()
    session, other = here.session(), here.session(kernel=False)
    execution = session.submit_cell(session.create_cell("print('on')\nwait()"), timeout_secs=30)
    assert next(iter(execution)).text == "on\n"
    other.interrupt()
    assert execution.result().error.ename == "KeyboardInterrupt"


def test_shutdown_of_the_kernel_while_a_cell_runs(world: Callable[..., World]) -> None:
    """There is no execution_done then (5.12)."""
    here = world()
    session, other = here.session(), here.session(kernel=False)
    running = session.submit_cell(session.create_cell("print('on')\nwait()"), timeout_secs=30)
    waiting = session.submit_cell(session.create_cell("1"), timeout_secs=30)
    assert next(iter(running)).text == "on\n"
    other.shutdown_kernel()
    for execution in (running, waiting):
        with pytest.raises(runtimed_ffi.ExecutionCancelledError):
            execution.result()
        assert execution.state == "cancelled"


def test_a_silently_dead_kernel_ends_by_the_time_limit(world: Callable[..., World]) -> None:
    session = world(silent_death=True).session()
    with pytest.raises(runtimed_ffi.TimeoutError_, match=r"timed out after 0\.5 seconds"):
        session.run("1", timeout_secs=0.5)


def test_the_daemon_is_killed(world: Callable[..., World]) -> None:
    here = world()
    session = here.session()
    execution = session.submit_cell(session.create_cell("print('on')\nwait()"), timeout_secs=30)
    assert next(iter(execution)).text == "on\n"
    threading.Thread(target=here.daemon.stop).start()
    with pytest.raises(runtimed_ffi.DisconnectedError):
        execution.result()
    assert execution.state == "disconnected"
    assert not session.is_connected


@pytest.mark.long
def test_a_connection_that_answers_nothing_is_closed(world: Callable[..., World]) -> None:
    """Framing is lost: the daemon goes on sending broadcasts, but answers nothing (2.5).

    Twenty seconds of waiting; `csrc/tests/execution_rules/` shows the rule with time that is passed in.
    """
    here = world()
    session = here.session()
    cell = session.create_cell("1")
    session.sync()
    here.daemon.quirks.deaf = True
    with pytest.raises(runtimed_ffi.DisconnectedError, match="does not answer"):
        session.execute_cell(cell, timeout_secs=60)
    here.daemon.quirks.deaf = False
    session.start_kernel()
    assert session.run("print('again')").stdout == "again\n"


# -- withheld changes (5.5)


def test_a_withheld_edit_does_not_lose_the_execution(world: Callable[..., World]) -> None:
    session = world(withhold_from_client=True).session()
    for number in range(10):
        assert session.run(f"print({number})", timeout_secs=30).stdout == f"{number}\n"


def test_withheld_outputs_are_asked_for(world: Callable[..., World]) -> None:
    here = world(withhold_to_client=0.5)
    session = here.session()
    for number in range(20):
        result = session.run("for n in range(10): display(n)", timeout_secs=30)
        assert [output.data["text/plain"] for output in result.outputs] == [str(n) for n in range(10)], number


# -- blobs


@pytest.mark.parametrize("place", ["beside", "file", "asked"])
def test_large_outputs(world: Callable[..., World], place: str) -> None:
    here = world(blobs=place)
    session = here.session()
    result = session.run("print('0123456789' * 20000)\ndisplay({'text/html': 'h' * 8192, 'text/plain': 'p' * 8191})")
    assert result.stdout == "0123456789" * 20000 + "\n"
    assert result.display_data[0].data == {"text/html": "h" * 8192, "text/plain": "p" * 8191}
    failed = session.run("raise ValueError('v' * 9000)")
    assert failed.error.evalue == "v" * 9000
    assert any("v" * 9000 in line for line in failed.error.traceback)
    assert not failed.success
    assert failed.state == "error"


# -- DaemonClient


def test_daemon_client(world: Callable[..., World]) -> None:
    here = world(shutdowns=3)
    session = here.session()
    client = runtimed_ffi.DaemonClient(socket_path=here.daemon.path)
    assert client.ping()
    assert client.status() == {"uv_available": 3, "conda_available": 2, "uv_warming": 0, "conda_warming": 1}
    assert client.list_rooms() == [
        {
            "notebook_id": "nb",
            "active_peers": 1,
            "has_kernel": True,
            "kernel_type": "python",
            "kernel_status": "idle",
            "env_source": "uv:prewarmed",
        }
    ]
    client.flush_pool()
    client.shutdown()
    assert here.daemon.stopped.is_set()
    assert not client.ping()
    until(lambda: not session.is_connected)


def test_a_daemon_of_one_test_leaves_nothing(tmp_path: Path) -> None:
    before = threading.active_count()
    with reference(tmp_path / "d") as daemon:
        session = runtimed_ffi.Session("x", socket_path=daemon.path, autostart=False)
        session.connect()
        session.disconnect()
    until(lambda: threading.active_count() <= before)
