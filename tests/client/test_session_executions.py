"""Executions of a session, on a stand-in for the connection: ends, callbacks, threads that wait, dropped events."""

from __future__ import annotations

import json
import threading

import pytest
from fakes import FAIL, OUT, SECONDS, CtrlC, in_thread

import runtimed_ffi
from runtimed_ffi import errors
from runtimed_ffi._binding.events import Done, Event, EventKind, OutputChange


def test_run(ready):
    seen = []
    ready.fake.on_execute = lambda token, cell: ready.fake.finish(token, cell, OUT, dict(OUT, name="stderr"))
    result = ready.run("print('hi')", on_output=seen.append)
    assert (result.success, result.stdout, result.stderr, result.execution_count) == (True, "hi\n", "hi\n", 1)
    assert result.execution_id == "exec-" + result.execution_id[5:]
    assert seen == result.outputs
    assert ready.fake.timeouts[-1] == 60_000
    assert ready.get_cell(result.cell_id).source == "print('hi')"


def test_a_failing_cell_does_not_raise(ready):
    ready.fake.on_execute = lambda token, cell: ready.fake.finish(token, cell, OUT, FAIL, code=Done.ERROR)
    result = ready.run("1/0")
    assert not result.success
    assert (result.error.ename, result.state) == ("ValueError", "error")


def test_an_interrupted_cell_has_an_error_in_any_case(ready):
    ready.fake.on_execute = lambda token, cell: ready.fake.finish(token, cell, code=Done.INTERRUPTED)
    result = ready.run("loop()")
    assert (result.success, result.error.ename) == (False, "KeyboardInterrupt")


@pytest.mark.parametrize(
    "code, text, kind, message",
    [
        (Done.TIMED_OUT, "", errors.TimeoutError_, "Execution timed out after 0.5 seconds"),
        (Done.CANCELLED, "a cell before it failed", errors.ExecutionCancelledError, "a cell before it failed"),
        (Done.KERNEL_DIED, "exit status -9", errors.KernelDiedError, "Kernel died: exit status -9"),
        (
            Done.LAUNCH_FAILED,
            "Failed to launch kernel: x",
            errors.LaunchFailedError,
            "Failed to launch kernel: x",
        ),
        (Done.DISCONNECTED, "end of stream", errors.DisconnectedError, "Broadcast channel closed"),
        (
            Done.REFUSED,
            "Cell not found in document: c",
            errors.CellNotFoundError,
            "Cell not found in document: c",
        ),
        (
            Done.REFUSED,
            "Cannot execute non-code cell: c (type: raw)",
            errors.DaemonError,
            "Cannot execute non-code cell: c (type: raw)",
        ),
    ],
)
def test_other_ends_raise_with_the_partial_result(ready, code, text, kind, message):
    ready.fake.on_execute = lambda token, cell: ready.fake.finish(token, cell, OUT, code=code, text=text)
    with pytest.raises(kind) as raised:
        ready.run("x", 0.5)
    assert message in str(raised.value)
    assert raised.value.reason == text
    assert raised.value.result.stdout == "hi\n"
    assert not raised.value.result.success


def test_a_kernel_that_has_ended(ready):
    def refuse(token, cell):
        done = Event(EventKind.DONE, token=token, code=Done.REFUSED, payload=b'{"result":"no_kernel"}')
        ready.fake.push(done)

    ready.fake.on_execute = refuse
    with pytest.raises(errors.NoKernelError, match=r"^Unexpected response: NoKernel$"):
        ready.run("x")


def test_limits(ready):
    ready.run("x", 0)
    assert ready.fake.timeouts[-1] == 0
    ready.run("x", None)
    assert ready.fake.timeouts[-1] < 0


def test_what_a_callback_raises_comes_after_the_end(ready):
    calls = []

    def callback(output):
        calls.append(output)
        raise ZeroDivisionError("mine")

    ready.fake.on_execute = lambda token, cell: ready.fake.finish(token, cell, OUT, OUT)
    execution = ready.submit_cell(ready.create_cell(), callback)
    with pytest.raises(ZeroDivisionError, match="mine"):
        execution.result()
    assert execution.done and len(calls) == 1
    assert len(execution.result().outputs) == 2, "it is raised once"


def test_an_execution_shows_its_progress(ready):
    tokens = []
    ready.fake.on_execute = lambda token, cell: tokens.append(token)
    execution = ready.submit_cell(ready.create_cell())
    assert (execution.state, execution.done, execution.outputs) == ("submitted", False, [])
    ready.fake.push(
        Event(EventKind.QUEUED, token=tokens[0], payload=b'{"execution_id":"e1"}'),
        Event(EventKind.STARTED, token=tokens[0], number=4),
        Event(EventKind.OUTPUT, token=tokens[0], number=0, payload=b'{"output_type":"stream","text":"a"}'),
    )
    outputs = iter(execution)
    assert next(outputs).text == "a"
    assert (execution.state, execution.execution_id) == ("running", "e1")
    ready.fake.push(
        Event(EventKind.OUTPUT, OutputChange.REPLACED, token=tokens[0], number=0, payload=b'{"output_type":"stream"}'),
        Event(EventKind.CLEARED, token=tokens[0]),
        Event(EventKind.OUTPUT, token=tokens[0], number=0, payload=b'{"output_type":"stream","text":"c"}'),
        Event(EventKind.DONE, token=tokens[0], number=4),
    )
    assert [output.text for output in outputs] == ["", "c"]
    assert execution.result().stdout == "c"
    assert execution.result().execution_count == 4
    assert [output.text for output in execution] == ["a", "", "c"]


def test_two_threads_wait_for_one_execution(ready):
    tokens = []
    ready.fake.on_execute = lambda token, cell: tokens.append(token)
    execution = ready.submit_cell(ready.create_cell())
    joins = [in_thread(execution.result), in_thread(lambda: list(execution))]
    ready.fake.finish(tokens[0], execution.cell_id, OUT, OUT)
    assert joins[0]().outputs == joins[1]()


def test_a_thread_that_waits_for_its_turn_sleeps_until_it_is_woken(ready, monkeypatch):
    bells, rung = [], threading.Semaphore(0)

    class Counting:
        """The module `threading`, whose locks are counted."""

        def __getattr__(self, name):
            return getattr(threading, name)

        def Lock(self):
            bells.append(threading.Lock())
            rung.release()
            return bells[-1]

    tokens = []
    ready.fake.on_execute = lambda token, cell: tokens.append(token)
    execution = ready.submit_cell(ready.create_cell())
    monkeypatch.setattr(runtimed_ffi.execution, "threading", Counting())
    joins = [in_thread(execution.result), in_thread(execution.result)]
    output = Event(EventKind.OUTPUT, token=tokens[0], payload=json.dumps(OUT).encode())
    for _ in range(3):
        assert rung.acquire(timeout=SECONDS), "one of them leads, the other waits"
        ready.fake.push(output)
    assert rung.acquire(timeout=SECONDS)
    ready.fake.push(Event(EventKind.DONE, token=tokens[0], number=1))
    assert joins[0]() == joins[1]()
    assert len(bells) == 4, "one for the beginning and one for each output"


@pytest.mark.parametrize("end", [Done.OK, Done.ERROR, Done.INTERRUPTED])
def test_dropped_events_are_read_from_the_document(ready, end):
    cell = ready.create_cell()
    ready.fake.document[cell]["outputs"] = [json.dumps(dict(OUT, text=str(n))) for n in range(3)]

    def execute(token, cell_id):
        ready.fake.push(Event(EventKind.RESYNC), Event(EventKind.DONE, token=token, number=1, code=end))

    ready.fake.on_execute = execute
    for _ in range(2):
        seen = []
        assert ready.execute_cell(cell, on_output=seen.append).stdout == "012"
        assert len(seen) == 3


def test_interrupt_while_another_thread_waits(ready):
    tokens = []
    ready.fake.on_execute = lambda token, cell: tokens.append(token)
    join = in_thread(lambda: ready.run("loop()"))
    assert ready.fake.executed.wait(SECONDS)
    ready.interrupt()
    ready.fake.finish(tokens[0], "c", FAIL, code=Done.INTERRUPTED)
    assert not join().success


def test_ctrl_c_leaves_the_session_usable(ready):
    ready.fake.on_execute = lambda token, cell: None

    def interrupt():
        assert ready.fake.executed.wait(SECONDS)
        assert ready.fake.idle.wait(SECONDS)
        ctrl_c.press()

    with CtrlC() as ctrl_c:
        join = in_thread(interrupt)
        with pytest.raises(KeyboardInterrupt):
            ready.run("loop()")
        join()
    ready.fake.on_execute = ready.fake.finish
    assert ready.run("1").success
