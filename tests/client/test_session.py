"""The session without a daemon: preconditions and texts, ends of executions, callbacks, threads, on a stand-in."""

from __future__ import annotations

import gc
import inspect
import json
import logging
import math
import os
import queue
import re
import signal
import threading
import warnings

import pytest
from fakes import SECONDS, CtrlC, FakeNative, in_thread

import runtimed_ffi
from runtimed_ffi import errors
from runtimed_ffi._binding import ffi
from runtimed_ffi._binding.events import Done, Event, EventKind, OutputChange

OUT = {"output_type": "stream", "name": "stdout", "text": "hi\n"}
FAIL = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": ["t"]}


@pytest.fixture
def session(monkeypatch):
    """A session whose connection is a stand-in; `session.fake` is the current one."""
    made = []

    class Session(runtimed_ffi.Session):
        @property
        def fake(self):
            return made[-1]

    def make(*positional, **named):
        made.append(FakeNative(*positional, **named))
        return made[-1]

    monkeypatch.setattr("runtimed_ffi._client.connection.NativeSession", make)
    session = Session("room", socket_path="nowhere", autostart=False)
    yield session
    session.disconnect()


@pytest.fixture
def ready(session):
    session.start_kernel()
    return session


def test_construction_does_nothing():
    session = runtimed_ffi.Session()
    assert re.fullmatch(r"agent-session-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", session.notebook_id)
    assert repr(session) == f"Session(id={session.notebook_id}, status=disconnected)"
    assert (session.is_connected, session.kernel_started, session.env_source) == (False, False, None)
    assert runtimed_ffi.Session("").notebook_id == ""
    session.close()
    session.disconnect()
    with pytest.raises(TypeError, match=r"^argument 'notebook_id': 'int' object"):
        runtimed_ffi.Session(1)


def test_signatures_extend_the_seeds():
    seed = {
        "connect": [],
        "start_kernel": ["kernel_type", "env_source"],
        "interrupt": [],
        "shutdown_kernel": [],
        "close": [],
        "create_cell": ["source", "cell_type", "index"],
        "set_source": ["cell_id", "source"],
        "get_cell": ["cell_id"],
        "get_cells": [],
        "delete_cell": ["cell_id"],
        "execute_cell": ["cell_id", "timeout_secs"],
        "run": ["code", "timeout_secs"],
    }
    for name, parameters in seed.items():
        signature = inspect.signature(getattr(runtimed_ffi.Session("x"), name))
        positional = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert positional == parameters, name
    defaults = inspect.signature(runtimed_ffi.Session.start_kernel).parameters
    assert (defaults["kernel_type"].default, defaults["env_source"].default) == ("python", "uv:prewarmed")
    with pytest.raises(TypeError):
        runtimed_ffi.Session("x").run("1", 2.0, 3.0)


def test_preconditions_before_connecting(session):
    for call in (lambda: session.execute_cell("c"), lambda: session.run("1"), lambda: session.submit_cell("c")):
        with pytest.raises(errors.KernelNotStartedError, match=r"^Kernel not started. Call start_kernel\(\) first.$"):
            call()
    for call in (
        lambda: session.set_source("a", "b"),
        lambda: session.get_cell("a"),
        session.get_cells,
        lambda: session.delete_cell("a"),
        session.interrupt,
        session.shutdown_kernel,
        session.sync,
    ):
        with pytest.raises(errors.NotConnectedError, match=r"^Not connected$"):
            call()


def test_arguments_are_checked_before_anything_happens(session):
    with pytest.raises(OverflowError, match=r"^can't convert negative int to unsigned$"):
        session.create_cell("x", "code", -1)
    with pytest.raises(TypeError, match=r"^argument 'source': 'bytes' object is not an instance of 'str'$"):
        session.create_cell(b"x")
    with pytest.raises(UnicodeEncodeError):
        session.create_cell("\ud800")
    for bad in (-1, math.nan, math.inf):
        with pytest.raises(ValueError):
            session.run("1", bad)
    with pytest.raises(TypeError, match="must be real number, not str"):
        session.execute_cell("c", "1")
    assert not session.is_connected


def test_states_and_reprs(session):
    session.connect()
    fake = session.fake
    session.connect()
    assert session.fake is fake, "connecting twice keeps the connection"
    assert repr(session) == "Session(id=room, status=connected)"
    session.start_kernel()
    assert repr(session) == "Session(id=room, status=kernel_running)"
    assert (session.kernel_started, session.env_source) == (True, "uv:prewarmed")
    assert fake.requests == [
        {
            "action": "launch_kernel",
            "kernel_type": "python",
            "env_source": "uv:prewarmed",
            "notebook_path": None,
        }
    ]
    assert fake.timeouts[-1] >= 120_000, "environments take minutes"
    session.shutdown_kernel()
    assert (session.kernel_started, session.env_source) == (False, None)


def test_kernel_answers(session):
    session.connect()
    answers = session.fake.answers
    answers["launch_kernel"] = {"result": "error", "error": "Conda pool empty - no environment available"}
    with pytest.raises(errors.LaunchFailedError, match=r"^Conda pool empty - no environment available$"):
        session.start_kernel(env_source="conda:prewarmed")
    running = {"result": "kernel_already_running", "kernel_type": "deno", "env_source": "deno"}
    answers["launch_kernel"] = running
    text = "^Kernel type mismatch: requested 'python' but 'deno' is already running$"
    with pytest.raises(errors.KernelMismatchError, match=text):
        session.start_kernel()
    assert not session.kernel_started
    session.start_kernel("deno")
    assert session.env_source == "deno"
    answers["launch_kernel"] = events_timeout()
    with pytest.raises(TimeoutError, match=r"^Connection timeout$"):
        session.start_kernel()
    answers["interrupt_execution"] = {"result": "no_kernel"}
    with pytest.raises(errors.NoKernelError, match=r"^No kernel running$"):
        session.interrupt()
    answers["interrupt_execution"] = {"result": "error", "error": "Failed to interrupt: x"}
    with pytest.raises(errors.DaemonError, match=r"^Failed to interrupt: x$"):
        session.interrupt()
    answers["shutdown_kernel"] = {"result": "no_kernel"}
    session.shutdown_kernel()
    answers["run_all_cells"] = {"result": "strange"}
    answers["launch_kernel"] = dict(running, kernel_type="python")
    session.start_kernel()
    with pytest.raises(errors.DaemonError, match=r"^Unexpected response: "):
        session.run_all()


def test_save(session):
    with pytest.raises(errors.NotConnectedError):
        session.save()
    session.connect()
    session.fake.answers["save_notebook"] = {"result": "notebook_saved"}
    assert session.save() == session.notebook_id
    session.fake.answers["save_notebook"] = {"result": "error", "error": "Failed to save notebook: x"}
    with pytest.raises(errors.DaemonError, match=r"^Failed to save notebook: x$"):
        session.save()


def events_timeout():
    from runtimed_ffi._binding.ffi import TIMEOUT

    return TIMEOUT


def test_document(session):
    first = session.create_cell("x = 1")
    assert re.fullmatch(r"cell-[0-9a-f-]{36}", first)
    session.create_cell("# t", "weird", 0)
    assert [cell.cell_type for cell in session.get_cells()] == ["weird", "code"]
    session.set_source(first, "x = 2")
    assert session.get_cell(first) == runtimed_ffi.Cell(first, "code", "x = 2")
    session.delete_cell(first)
    for call in (session.get_cell, session.delete_cell, lambda cell: session.set_source(cell, "")):
        with pytest.raises(errors.CellNotFoundError, match=f"^Cell not found: {first}$"):
            call(first)


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


def test_no_kernel_any_more(ready):
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


def test_a_thread_that_waits_for_its_turn_sleeps_until_it_is_rung(ready, monkeypatch):
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


def test_subscriptions(ready):
    outputs, changes, broadcasts = [], [], []
    subscriptions = [ready.on_output(outputs.append), ready.on_change(changes.append)]
    subscriptions.append(ready.on_broadcast(broadcasts.append))
    assert ready.fake.watching
    ready.fake.push(
        Event(EventKind.CHANGED, payload=b'{"cells":["a"],"order":true,"metadata":false}'),
        Event(EventKind.BROADCAST, payload=b'{"event":"kernel_status","status":"idle","cell_id":null}'),
        Event(EventKind.OUTPUT, id="b", number=2, payload=b'{"output_type":"stream","text":"x"}'),
        Event(EventKind.RESYNC),
    )
    ready.interrupt()
    assert changes == [
        runtimed_ffi.Change(("a",), order=True),
        runtimed_ffi.Change(order=True, metadata=True, missed=True),
    ]
    assert broadcasts[0]["status"] == "idle"
    assert (outputs[0].cell_id, outputs[0].index, outputs[0].output.text, outputs[0].replaced) == ("b", 2, "x", False)
    for subscription in subscriptions:
        subscription.remove()
        subscription.remove()
    ready.fake.push(Event(EventKind.BROADCAST, payload=b"{}"))
    ready.interrupt()
    assert len(broadcasts) == 1
    with ready.on_broadcast(broadcasts.append):
        ready.fake.push(Event(EventKind.BROADCAST, payload=b"{}"))
        ready.interrupt()
    assert len(broadcasts) == 2
    with pytest.raises(TypeError):
        ready.on_change(None)


def test_what_a_subscriber_raises_does_not_vanish(ready):
    def broken(change):
        raise ZeroDivisionError("mine")

    ready.on_change(broken)
    ready.fake.push(Event(EventKind.CHANGED, payload=b"{}"))
    with pytest.raises(ZeroDivisionError):
        ready.run("1")
    ready.run("1")
    taken = []
    ready.on_error = taken.append
    ready.fake.push(Event(EventKind.CHANGED, payload=b"{}"))
    ready.run("1")
    assert [type(error) for error in taken] == [ZeroDivisionError]


def test_what_several_subscribers_raise_is_raised_and_logged(ready, caplog):
    for number in range(3):
        ready.on_change(lambda change, number=number: [].pop(number))
    ready.fake.push(Event(EventKind.CHANGED, payload=b"{}"))
    with caplog.at_level(logging.ERROR, "runtimed_ffi"), pytest.raises(IndexError):
        ready.run("1")
    assert caplog.text.count("IndexError") == 2


def test_what_a_subscriber_raises_during_an_execution_is_raised_once(ready):
    ready.on_change(lambda change: [].pop())
    ready.fake.on_execute = lambda token, cell: None
    execution = ready.submit_cell(ready.create_cell())
    ready.fake.push(Event(EventKind.CHANGED, payload=b"{}"))
    ready.fake.push(Event(EventKind.DONE, token=execution._call._box.token))
    with pytest.raises(IndexError):
        execution.result()
    assert execution.result().success


def test_what_a_subscriber_raises_while_leaving_comes_out_of_disconnect(ready):
    def broken(change):
        raise ZeroDivisionError("mine")

    ready.on_change(broken)
    ready.fake.push(Event(EventKind.CHANGED, payload=b"{}"))
    with pytest.raises(ZeroDivisionError):
        ready.disconnect()
    assert not ready.is_connected


def test_close_never_raises_but_logs(ready, caplog, monkeypatch):
    monkeypatch.setattr(ready, "_is_alone", lambda connection: True)

    def broken(change):
        raise errors.StateError("mine")

    ready.on_change(broken)
    ready.fake.push(Event(EventKind.CHANGED, payload=b"{}"))
    with caplog.at_level(logging.ERROR, "runtimed_ffi"):
        ready.close()
    assert "StateError: mine" in caplog.text
    assert not ready.kernel_started


def test_ctrl_c_in_a_request_loses_no_error_of_a_subscriber(ready, caplog):
    def broken(change):
        raise ZeroDivisionError("mine")

    def interrupted(change):
        raise KeyboardInterrupt

    ready.on_change(broken)
    ready.on_broadcast(interrupted)
    ready.fake.push(Event(EventKind.CHANGED, payload=b"{}"), Event(EventKind.BROADCAST, payload=b"{}"))
    with caplog.at_level(logging.ERROR, "runtimed_ffi"), pytest.raises(KeyboardInterrupt):
        ready.interrupt()
    assert "ZeroDivisionError: mine" in caplog.text
    ready.interrupt()


def test_what_callbacks_raise_comes_out_of_a_loop_too(ready):
    ready.fake.on_execute = lambda token, cell: ready.fake.finish(token, cell, OUT, OUT)

    def broken(output):
        raise ZeroDivisionError("mine")

    execution = ready.submit_cell(ready.create_cell(), broken)
    seen = []
    with pytest.raises(ZeroDivisionError):
        for output in execution:
            seen.append(output)
    assert len(seen) == 2, "after the end"
    assert execution.result().success, "it is raised once"


def test_disconnect_says_that_the_daemon_did_not_take_the_last_edits(ready):
    ready.fake.end = Event(EventKind.CLOSED, code=ffi.TIMEOUT, text="not taken")
    with pytest.raises(errors.TimeoutError_, match="not taken"):
        ready.disconnect()
    assert not ready.is_connected
    ready.disconnect()


def test_at_exit_it_waits_for_what_is_unsent_and_calls_no_subscriber(ready):
    called = []
    ready.on_change(called.append)
    ready.fake.unsent = True
    ready.fake.push(Event(EventKind.CHANGED, payload=b"{}"))
    connection = ready._require()
    connection.close_at_exit()
    assert connection._router.ended is not None
    assert called == []


def test_the_pump_delivers_and_logs(ready, caplog):
    arrived = threading.Event()

    def broken(change):
        arrived.set()
        raise ZeroDivisionError("mine")

    ready.on_change(broken)
    ready.start_pump()
    ready.start_pump()
    with caplog.at_level(logging.ERROR, "runtimed_ffi"):
        ready.fake.push(Event(EventKind.CHANGED, payload=b"{}"))
        assert arrived.wait(SECONDS)
        ready.stop_pump()
    assert "ZeroDivisionError: mine" in caplog.text
    ready.stop_pump()


def test_disconnect_in_a_callback_on_the_pump(ready):
    gone = threading.Event()

    def leave(change):
        ready.disconnect()
        gone.set()

    ready.on_change(leave)
    ready.start_pump()
    ready.fake.push(Event(EventKind.CHANGED, payload=b"{}"))
    assert gone.wait(SECONDS)
    assert not ready.is_connected


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


def test_the_end_of_the_connection(ready):
    ready.fake.on_execute = lambda token, cell: None
    join = in_thread(lambda: ready.run("loop()"))
    assert ready.fake.executed.wait(SECONDS)
    lost = ready.fake
    lost.state = "closed"
    lost.push(Event(EventKind.CLOSED, text="end of stream"))
    with pytest.raises(errors.DisconnectedError, match=r"^Broadcast channel closed: end of stream$") as raised:
        join()
    assert raised.value.result.state == "disconnected"
    assert not ready.is_connected
    with pytest.raises(errors.DisconnectedError, match=r"^Channel closed$"):
        ready.get_cells()
    ready.connect()
    assert ready.is_connected and ready.fake is not lost
    assert ready.run("1").success


def lose(session):
    """End the connection of a session as the end of its daemon does."""
    session.fake.state = "closed"
    session.fake.push(Event(EventKind.CLOSED, text="end of stream"))


def test_the_pump_runs_again_after_every_reconnect(ready):
    changes = queue.Queue()
    ready.on_change(changes.put)
    ready.start_pump()
    for _ in range(3):
        ready.fake.push(Event(EventKind.CHANGED, payload=b"{}"))
        assert changes.get(timeout=SECONDS)
        lose(ready)
        ready.connect()
    ready.stop_pump()
    lose(ready)
    ready.connect()
    assert ready._connection._pump is None, "a pump that was stopped stays stopped"


def test_outputs_are_watched_again_after_every_reconnect(ready):
    ready.on_output(lambda event: None)
    for _ in range(2):
        lose(ready)
        ready.connect()
        assert ready.fake.watching


def test_a_kernel_of_the_time_before_a_reconnect_is_not_shut_down(ready, monkeypatch):
    monkeypatch.setattr(ready, "_is_alone", lambda connection: True)
    lose(ready)
    ready.connect()
    assert ready.kernel_started
    ready.close()
    assert ready.fake.requests == []


def test_disconnect_ends_waiters(ready):
    ready.fake.on_execute = lambda token, cell: None
    join = in_thread(lambda: ready.run("loop()"))
    assert ready.fake.executed.wait(SECONDS)
    ready.disconnect()
    ready.disconnect()
    with pytest.raises(errors.DisconnectedError):
        join()
    assert not ready.is_connected
    with pytest.raises(errors.NotConnectedError):
        ready.get_cells()


@pytest.mark.parametrize(
    "peers, launched, stops", [(1, True, True), (2, True, False), (1, False, False), (None, True, False)]
)
def test_close_stops_only_a_kernel_of_its_own(session, monkeypatch, peers, launched, stops):
    class Client:
        def __init__(self, path):
            pass

        def list_rooms(self):
            if peers is None:
                raise errors.ConnectError("gone")
            return [{"notebook_id": "room", "active_peers": peers, "has_kernel": True}]

    monkeypatch.setattr("runtimed_ffi.session.DaemonClient", Client)
    session.connect()
    if not launched:
        joined = {"result": "kernel_already_running", "kernel_type": "python", "env_source": "uv:prewarmed"}
        session.fake.answers["launch_kernel"] = joined
    with session as same:
        assert same is session
        session.start_kernel()
    assert (session.is_connected, session.kernel_started, session.env_source) == (True, False, None)
    assert ("shutdown_kernel" in [request["action"] for request in session.fake.requests]) is stops
    session.close()
    session.start_kernel()
    assert session.kernel_started, "a closed session can be used again"


def test_the_exception_of_a_with_block_passes(session):
    with pytest.raises(ZeroDivisionError), session:
        raise ZeroDivisionError


def test_a_forked_child_is_refused(ready):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            try:
                ready.get_cells()
            except errors.StateError:
                status = 0 if not ready.is_connected else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert ready.run("1").success, "the parent is not disturbed"


def test_a_forked_child_waits_for_no_lock_of_its_parent(ready):
    subscription, execution = ready.on_change(print), ready.submit_cell(ready.create_cell())
    ready.start_pump()
    connection = ready._require()
    # As if other threads were in the middle of everything.
    with warnings.catch_warnings(), ready._connecting, ready._subscriptions._lock, connection._router._lock:
        warnings.simplefilter("ignore", DeprecationWarning)
        with execution._turn:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    signal.alarm(20)
                    subscription.remove()
                    ready.on_output(print).remove()
                    with pytest.raises(errors.StateError):
                        execution.result()
                    with pytest.raises(errors.StateError):
                        ready.connect()
                    assert not ready.is_connected
                    ready.stop_pump()
                    ready.close()
                    ready.disconnect()
                    status = 0
                finally:
                    os._exit(status)
        status = os.waitpid(child, 0)[1]
    assert status == 0, "the child hung, or was not refused"
    assert execution.result().success


def test_a_forgotten_session_can_be_collected(ready):
    import weakref

    execution = ready.submit_cell(ready.create_cell())
    execution.result()
    watched = weakref.ref(execution)
    del execution
    gc.collect()
    assert watched() is None
