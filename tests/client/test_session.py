"""The session without a daemon: preconditions and texts, ends of executions, callbacks, threads, on a stand-in."""

from __future__ import annotations

import gc
import inspect
import math
import os
import re
import signal
import warnings

import pytest
from fakes import SECONDS, in_thread

import runtimed_ffi
from runtimed_ffi import errors


@pytest.fixture
def session(fake_session):
    return fake_session


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
    # As if other threads held every lock.
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
