"""Subscribers of a session, on a stand-in for the connection: what they get and raise, the pump, and reconnects."""

from __future__ import annotations

import logging
import queue
import threading

import pytest
from fakes import OUT, SECONDS, in_thread

import runtimed_ffi
from runtimed_ffi import errors
from runtimed_ffi._binding import ffi
from runtimed_ffi._binding.events import Event, EventKind


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


def test_an_error_of_a_subscriber_is_raised(ready):
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


def test_at_exit_a_session_sends_the_rest_and_calls_no_subscriber(ready):
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
