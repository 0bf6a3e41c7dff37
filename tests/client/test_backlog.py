"""A backlog keeps what fits, reports what it dropped, and never drops an end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimed_ffi._binding.events import Event, EventKind
from runtimed_ffi._client import backlog
from runtimed_ffi._client.backlog import Backlog

DROPPABLE = [
    EventKind.QUEUED,
    EventKind.STARTED,
    EventKind.OUTPUT,
    EventKind.CLEARED,
    EventKind.CHANGED,
    EventKind.BROADCAST,
]
KEPT = [EventKind.READY, EventKind.RESPONSE, EventKind.DONE, EventKind.SYNCED, EventKind.CLOSED, EventKind.RESYNC]
LIMIT = 5_000


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(backlog, "LIMIT", LIMIT)


def drain(backlog):
    taken = []
    while backlog:
        assert backlog.first() is not None
        taken.append(backlog.take())
    assert backlog.first() is None
    return taken


@pytest.mark.parametrize("kind", DROPPABLE)
def test_what_does_not_fit_is_one_resync(kind):
    backlog = Backlog()
    for seq in range(1, 100):
        backlog.put(Event(kind, seq=seq, token=7, id="i" * 100, payload=b"p" * 200, text="t" * 200))
    first = drain(backlog)
    assert [event.seq for event in first] == [1, 2, 3, 4, 5, 6]
    assert [event.kind for event in first] == [kind] * 5 + [EventKind.RESYNC]
    assert first[-1] == Event(EventKind.RESYNC, seq=6, token=7)
    backlog.put(Event(kind, seq=100))
    assert [event.kind for event in drain(backlog)] == [kind], "there is room again"


@pytest.mark.parametrize("kind", KEPT)
def test_ends_and_answers_always_go_in(kind):
    backlog = Backlog()
    for seq in range(1, 100):
        backlog.put(Event(kind, seq=seq, payload=b"p" * 200))
    assert len(drain(backlog)) == 99


def test_one_event_may_be_as_large_as_it_is():
    backlog = Backlog()
    for seq in (1, 2):
        backlog.put(Event(EventKind.OUTPUT, seq=seq, payload=b"p" * 2 * LIMIT))
    assert [event.kind for event in drain(backlog)] == [EventKind.OUTPUT, EventKind.RESYNC]


def test_what_was_taken_makes_room_although_it_is_never_empty():
    backlog = Backlog()
    backlog.put(Event(EventKind.OUTPUT, seq=0, payload=b"p" * 1_000))
    for seq in range(1, 50):
        backlog.put(Event(EventKind.OUTPUT, seq=seq, payload=b"p" * 1_000))
        assert backlog.take().kind == EventKind.OUTPUT
    assert [event.seq for event in drain(backlog)] == [49]


def test_every_overflow_is_one_resync():
    backlog = Backlog()
    for seq in range(20):
        backlog.put(Event(EventKind.OUTPUT, seq=seq, payload=b"p" * 1_000))
    backlog.put(Event(EventKind.DONE, seq=20))
    for seq in range(21, 40):
        backlog.put(Event(EventKind.OUTPUT, seq=seq, payload=b"p" * 1_000))
    kinds = [event.kind for event in drain(backlog)]
    assert kinds[-3:] == [EventKind.RESYNC, EventKind.DONE, EventKind.RESYNC]


def test_a_cleared_backlog_is_as_new():
    backlog = Backlog()
    for _ in range(2):
        for seq in range(20):
            backlog.put(Event(EventKind.OUTPUT, seq=seq))
        backlog.clear()
    backlog.put(Event(EventKind.OUTPUT, payload=b"p" * 4_000))
    assert [event.kind for event in drain(backlog)] == [EventKind.OUTPUT]


STEPS = st.lists(st.one_of(st.none(), st.tuples(st.sampled_from(DROPPABLE + KEPT), st.integers(0, 3_000))), max_size=60)


@given(STEPS)
def test_order_bound_and_no_silent_loss(steps):
    """Puts (a kind and bytes) and takes: the order stays, nothing comes twice, a RESYNC is where something is not."""
    backlog, put, taken = Backlog(), [], []
    for seq, step in enumerate(steps, 1):
        if step is None:
            if backlog:
                taken.append(backlog.take())
        else:
            event = Event(step[0], seq=seq, payload=b"p" * step[1])
            put.append(event)
            backlog.put(event)
    taken += drain(backlog)
    by_seq = {event.seq: event for event in taken}
    assert [event.seq for event in taken] == sorted(by_seq)
    missed = False
    for event in put:
        there = by_seq.get(event.seq)
        if there is not None:
            missed = there.kind == EventKind.RESYNC
        assert there == event or missed, event
        assert event.kind not in KEPT or there == event
