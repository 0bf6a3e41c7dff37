"""Executions on a real kernel: what waits for what, what ends a wait, and what callbacks may do."""

from __future__ import annotations

import math
import os
import threading
import time
from typing import Callable

import pytest
from cells import FOREVER, Gate

import runtimed_ffi
from integration.tools import LIMIT, Recorder, Thread, first_output
from runtimed_ffi import Output, OutputEvent


def test_three_threads_in_one_session_get_their_own_outputs(session: runtimed_ffi.Session) -> None:
    def work(name: str) -> list[str]:
        return [session.run(f"for _ in range(20): print('{name}', {i}, flush=True)").stdout for i in range(10)]

    threads = {name: Thread(work, name) for name in "abc"}
    for name, thread in threads.items():
        assert thread.get() == [f"{name} {i}\n" * 20 for i in range(10)]


def test_an_interrupt_from_another_thread_while_a_third_waits(session: runtimed_ffi.Session) -> None:
    execution = session.submit_cell(session.create_cell(FOREVER))
    after = session.submit_cell(session.create_cell("print('after')"))
    waiters = [Thread(execution.result), Thread(execution.result)]
    assert first_output(execution).text == "begun\n"
    Thread(session.interrupt).get()
    for waiter in waiters:
        result = waiter.get()
        assert result.state == "interrupted"
        assert not result.success
        assert result.error is not None
        assert result.error.ename == "KeyboardInterrupt"
        assert result.stdout == "begun\n"
    assert after.state in ("queued", "running", "submitted", "done")
    with pytest.raises(runtimed_ffi.ExecutionCancelledError):
        after.result()
    assert session.run("print('alive')").stdout == "alive\n"


def test_an_interrupt_from_another_session(session: runtimed_ffi.Session, other: runtimed_ffi.Session) -> None:
    execution = session.submit_cell(session.create_cell(FOREVER))
    first_output(execution)
    other.interrupt()
    assert execution.result().state == "interrupted"


def test_an_execution_requested_after_an_interrupt_runs(session: runtimed_ffi.Session) -> None:
    for _ in range(10):
        execution = session.submit_cell(session.create_cell(FOREVER))
        before = session.submit_cell(session.create_cell("print('before')"))
        first_output(execution)
        session.interrupt()
        assert session.run("print('after')").stdout == "after\n"
        assert execution.result().state == "interrupted"
        with pytest.raises(runtimed_ffi.ExecutionCancelledError):
            before.result()


def test_joining_a_waiting_cell_that_is_cancelled_gives_no_earlier_output(
    session: runtimed_ffi.Session, other: runtimed_ffi.Session, gate: Gate
) -> None:
    cell = session.run("print('past')").cell_id
    failing = session.submit_cell(session.create_cell(gate.code + "1 / 0"))
    first_output(failing)
    mine = session.submit_cell(cell)
    other.sync()
    theirs = other.submit_cell(cell)
    assert cell in session.queue_state()["queued"] and cell in other.queue_state()["queued"]
    gate.open()
    for execution in (mine, theirs):
        with pytest.raises(runtimed_ffi.ExecutionCancelledError) as caught:
            execution.result()
        assert caught.value.result is not None
        assert caught.value.result.outputs == []


def test_many_interrupts_at_once_hit_one_cell(session: runtimed_ffi.Session) -> None:
    for _ in range(10):
        execution = session.submit_cell(session.create_cell(FOREVER))
        session.interrupt()  # Also before the cell has begun.
        assert execution.result().state == "interrupted"
    assert session.run("print('alive')").stdout == "alive\n"


def test_an_interrupt_without_a_cell_does_nothing(session: runtimed_ffi.Session) -> None:
    for _ in range(5):
        session.interrupt()
        assert session.run("print('alive')").stdout == "alive\n"


def test_what_is_queued_behind_a_failure_is_cancelled(
    session: runtimed_ffi.Session, other: runtimed_ffi.Session, gate: Gate
) -> None:
    before = session.submit_cell(session.create_cell(gate.code))
    first_output(before)
    first = session.submit_cell(session.create_cell("print('first')"))
    second = session.submit_cell(session.create_cell("1 / 0"))
    third = session.submit_cell(session.create_cell("print('third')"))
    fourth = other.submit_cell(other.create_cell("print('fourth')"))
    assert len(session.queue_state()["queued"]) >= 3 and len(other.queue_state()["queued"]) == 4
    gate.open()
    assert before.result().success
    assert first.result().stdout == "first\n"
    assert second.result().error is not None
    with pytest.raises(runtimed_ffi.ExecutionCancelledError) as caught:
        third.result()
    assert third.state == "cancelled"
    assert caught.value.result is not None
    assert caught.value.result.outputs == []
    assert fourth.result().stdout == "fourth\n"


def test_the_same_cell_from_two_sessions_runs_once(
    session: runtimed_ffi.Session, other: runtimed_ffi.Session, gate: Gate
) -> None:
    session.run("runs = 0")
    cell = session.create_cell(gate.code + "runs += 1\nruns")
    session.sync()
    other.sync()
    mine, theirs = session.submit_cell(cell), other.submit_cell(cell)
    assert session.queue_state()["executing"] == cell == other.queue_state()["executing"]
    gate.open()
    results = [Thread(mine.result).get(), theirs.result()]
    assert results[0] == results[1]
    assert results[0].stdout == "begun\n"
    assert [output.data for output in results[0].display_data] == [{"text/plain": "1"}]


def test_joining_a_running_cell_late_gives_all_of_its_output(
    session: runtimed_ffi.Session, other: runtimed_ffi.Session, gate: Gate
) -> None:
    cell = session.create_cell(gate.code + "print('ended')")
    execution = session.submit_cell(cell)
    first_output(execution)
    other.sync()
    joined = other.submit_cell(cell)
    first_output(joined)
    gate.open()
    result = joined.result()
    assert result.stdout == "begun\nended\n"
    assert execution.result() == result


def test_a_cell_deleted_while_it_runs_ends_all_the_same(
    session: runtimed_ffi.Session, other: runtimed_ffi.Session, gate: Gate
) -> None:
    cell = session.create_cell(gate.code + "print('ended')\n1 + 1")
    execution = session.submit_cell(cell)
    assert first_output(execution).text == "begun\n"
    other.delete_cell(cell)
    other.sync()
    gate.open()
    result = execution.result()
    assert result.success
    assert result.stdout.startswith("begun\n")
    session.sync()
    assert session.get_cells() == []
    assert session.run("print('alive')").stdout == "alive\n"


def test_a_cell_edited_while_it_runs(session: runtimed_ffi.Session, gate: Gate) -> None:
    cell = session.create_cell(gate.code + "print('old')")
    execution = session.submit_cell(cell)
    first_output(execution)
    session.set_source(cell, "print('new')")
    session.sync()
    gate.open()
    assert execution.result().stdout == "begun\nold\n"
    assert session.execute_cell(cell).stdout == "new\n"


def test_the_newest_source_is_what_runs(session: runtimed_ffi.Session) -> None:
    cell = session.create_cell()
    for number in range(50):
        session.set_source(cell, f"print({number})")
        assert session.execute_cell(cell).stdout == f"{number}\n"


def test_the_newest_source_of_the_other_is_what_runs(
    session: runtimed_ffi.Session, other: runtimed_ffi.Session
) -> None:
    cell = session.create_cell()
    session.sync()
    other.sync()
    for number in range(25):
        other.set_source(cell, f"print({number})")
        other.sync()
        assert session.execute_cell(cell).stdout == f"{number}\n"


# -- time limits


def test_a_time_limit_has_the_partial_result_and_leaves_the_session_usable(
    session: runtimed_ffi.Session, gate: Gate
) -> None:
    cell = session.create_cell(gate.code + "print('late')")
    begin = time.monotonic()
    with pytest.raises(runtimed_ffi.TimeoutError_, match=r"Execution timed out after 2\.5 seconds") as caught:
        session.execute_cell(cell, timeout_secs=2.5)
    assert time.monotonic() - begin > 2.45
    assert caught.value.result is not None
    assert caught.value.result.stdout == "begun\n"
    assert caught.value.result.state == "timed_out"
    # The next one waits behind it and gets none of its output.
    following = session.submit_cell(session.create_cell("print('own')"))
    gate.open()
    assert following.result().stdout == "own\n"
    assert "".join(output.text or "" for output in session.get_outputs(cell)) == "begun\nlate\n"


def test_a_time_limit_of_zero_has_already_passed(session: runtimed_ffi.Session) -> None:
    with pytest.raises(runtimed_ffi.TimeoutError_):
        session.run("print('unreceived')", timeout_secs=0)
    assert session.run("print('own')").stdout == "own\n"


@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan, math.inf, -math.inf])
def test_time_limits_that_mean_nothing_are_refused_before_anything_happens(
    session: runtimed_ffi.Session, seconds: float
) -> None:
    cell = session.create_cell("print('never')")
    with pytest.raises(ValueError, match="timeout_secs"):
        session.run("1", timeout_secs=seconds)
    with pytest.raises(ValueError, match="timeout_secs"):
        session.execute_cell(cell, timeout_secs=seconds)
    session.sync()
    assert [cell.id for cell in session.get_cells()] == [cell]
    assert session.get_outputs(cell) == []


@pytest.mark.parametrize("seconds", [None, 1e300, 30, 30.5])
def test_no_limit_and_far_limits(session: runtimed_ffi.Session, seconds: float) -> None:
    assert session.run("print('ok')", timeout_secs=seconds).stdout == "ok\n"


def test_limits_of_several_threads_pass_each_at_its_time(session: runtimed_ffi.Session) -> None:
    blocker = session.submit_cell(session.create_cell(FOREVER))
    first_output(blocker)

    def wait(seconds: float) -> float:
        begin = time.monotonic()
        with pytest.raises(runtimed_ffi.TimeoutError_):
            session.run("1", timeout_secs=seconds)
        return time.monotonic() - begin

    threads = {seconds: Thread(wait, seconds) for seconds in (0.2, 0.4, 0.8)}
    for seconds, thread in threads.items():
        assert thread.get() >= seconds - 0.05
    session.interrupt()
    assert blocker.result().state == "interrupted"


# -- callbacks


def test_on_output_runs_in_order_on_the_waiting_thread_while_the_cell_runs(
    session: runtimed_ffi.Session, gates: Callable[[], Gate]
) -> None:
    threads, seen = set(), []
    # The cell prints each output after the callback of the one before.
    each = [gates() for _ in range(5)]

    def received(output: Output) -> None:
        threads.add(threading.current_thread())
        seen.append(output)
        each[len(seen) - 1].open()

    result = session.run("".join(gate.code for gate in each), on_output=received)
    assert result.stdout == "begun\n" * 5
    assert [output.text for output in seen] == ["begun\n"] * 5
    assert threads == {threading.current_thread()}


def test_what_on_output_raises_comes_out_of_run_after_the_end(session: runtimed_ffi.Session) -> None:
    calls = []

    def fail(output: Output) -> None:
        calls.append(output)
        raise LookupError("in the callback")

    cell = session.create_cell("import time\nfor i in range(3):\n    display(i)\n    time.sleep(0.05)\nended = True")
    with pytest.raises(LookupError, match="in the callback"):
        session.execute_cell(cell, on_output=fail)
    assert len(calls) == 1
    assert len(session.get_outputs(cell)) == 3
    assert session.queue_state() == {"executing": None, "queued": []}
    assert session.run("print(ended)").stdout == "True\n"


def test_what_a_subscriber_raises_comes_out_of_the_wait(session: runtimed_ffi.Session) -> None:
    def fail(event: OutputEvent) -> None:
        raise LookupError("in the subscriber")

    with session.on_output(fail), pytest.raises(LookupError, match="in the subscriber"):
        session.run("'x'")
    assert session.run("print('alive')").stdout == "alive\n"


def test_on_error_takes_what_subscribers_raise(
    shared_daemon: runtimed_ffi.Daemon, session: runtimed_ffi.Session
) -> None:
    taken: list[Exception] = []
    second = runtimed_ffi.Session(session.notebook_id, socket_path=shared_daemon.socket_path, on_error=taken.append)
    second.start_kernel()
    with second.on_output(lambda event: 1 / 0):
        assert second.run("'x'").success
    second.disconnect()
    assert [type(error) for error in taken] == [ZeroDivisionError]


def test_a_subscription_removed_inside_its_callback_is_not_called_again(session: runtimed_ffi.Session) -> None:
    received = []

    def once(event: OutputEvent) -> None:
        received.append(event)
        subscription.remove()

    subscription = session.on_output(once)
    assert len(session.run("for i in range(10): display(i)").outputs) == 10
    session.sync()
    assert len(received) == 1


def test_a_callback_may_edit_the_document(session: runtimed_ffi.Session, other: runtimed_ffi.Session) -> None:
    notes = session.create_cell("", "markdown")
    result = session.run(
        "for i in range(10): display(i)",
        on_output=lambda output: session.set_source(
            notes, session.get_cell(notes).source + (output.data or {})["text/plain"]
        ),
    )
    assert len(result.outputs) == 10
    session.sync()
    other.sync()
    assert other.get_cell(notes).source == "0123456789"


def test_a_callback_may_run_another_cell(session: runtimed_ffi.Session) -> None:
    inner: list[runtimed_ffi.Execution] = []
    result = session.run(
        "'outer'", on_output=lambda output: inner.append(session.submit_cell(session.create_cell("'inner'")))
    )
    assert [output.data for output in result.outputs] == [{"text/plain": "'outer'"}]
    assert [output.data for output in inner[0].result().outputs] == [{"text/plain": "'inner'"}]


def test_a_subscriber_may_wait_for_the_session(session: runtimed_ffi.Session) -> None:
    inner: list[str] = []

    def received(event: OutputEvent) -> None:
        if event.output.data == {"text/plain": "'outer'"}:
            inner.append(session.run("print('inner')").stdout)

    with session.on_output(received):
        assert session.run("'outer'").success
        session.sync()
    assert inner == ["inner\n"]


def test_on_output_may_interrupt(session: runtimed_ffi.Session) -> None:
    result = session.run(FOREVER, on_output=lambda output: output.name and session.interrupt())
    assert result.state == "interrupted"


# -- edits


@pytest.mark.stress
def test_edits_in_a_row_reach_a_session_that_does_nothing(join: Callable[..., runtimed_ffi.Session]) -> None:
    writer = join()
    cell = writer.create_cell("start")
    writer.sync()
    reader = join(writer.notebook_id)
    with Recorder(reader) as recorder:
        for number in range(25):
            writer.set_source(cell, f"edit {number}")
            count = number + 1
            recorder.until(lambda count=count: sum(cell in change.cells for change in recorder.changes) >= count)
            assert reader.get_cell(cell).source == f"edit {number}"


@pytest.mark.stress
def test_a_burst_of_edits_from_both_sides_converges(join: Callable[..., runtimed_ffi.Session]) -> None:
    one = join()
    two = join(one.notebook_id)
    with Recorder(one) as ears_one, Recorder(two) as ears_two:

        def write(session: runtimed_ffi.Session, name: str) -> None:
            for number in range(100):
                session.create_cell(f"{name} {number}", index=0)

        writers = [Thread(write, one, "one"), Thread(write, two, "two")]
        for writer in writers:
            writer.get()
        ears_one.until(lambda: len(one.get_cells()) == 200)
        ears_two.until(lambda: len(two.get_cells()) == 200)
        one.sync()
        two.sync()
        one.sync()
        assert one.get_cells() == two.get_cells()


# -- many sessions


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="/proc is missing")
def test_fifty_sessions_share_one_thread(shared_daemon: runtimed_ffi.Daemon) -> None:
    first = shared_daemon.session()
    first.connect()
    before = len(os.listdir("/proc/self/task"))
    sessions = [shared_daemon.session(first.notebook_id) for _ in range(50)]
    for session in sessions:
        session.connect()
    assert len(os.listdir("/proc/self/task")) == before
    cell = first.create_cell("for all sessions")
    first.sync()
    for session in sessions:
        session.sync()
        assert session.get_cell(cell).source == "for all sessions"
    for session in [*sessions, first]:
        session.disconnect()


@pytest.mark.stress
def test_sessions_that_come_and_go_leave_no_descriptors(shared_daemon: runtimed_ffi.Daemon) -> None:
    def once() -> None:
        session = shared_daemon.session("come-and-go")
        session.connect()
        session.create_cell("x")
        session.disconnect()

    once()
    before = len(os.listdir("/dev/fd"))
    for _ in range(100):
        once()
    # The I/O thread may be the last to release a connection.
    deadline = time.monotonic() + LIMIT
    while len(os.listdir("/dev/fd")) > before:
        assert time.monotonic() < deadline, "descriptors were left open"
        time.sleep(0.01)
