"""The inbox: where an event goes, without any thread."""

from __future__ import annotations

from fakes import FakeSource

from runtimed_ffi._binding.events import Event, EventKind
from runtimed_ffi._client.inbox import Inbox


def make():
    source = FakeSource()
    return source, Inbox(source, lambda event: event.kind == EventKind.CHANGED)


def test_events_go_to_their_mailboxes_and_to_the_backlog():
    source, inbox = make()
    first, second = inbox.open(), inbox.open()
    source.push(
        Event(EventKind.READY),
        Event(EventKind.OUTPUT, token=second.token, number=5),
        Event(EventKind.CHANGED, number=1),
        Event(EventKind.CHANGED, number=2),
    )
    inbox.drain()
    assert inbox.life.peek().kind == EventKind.READY
    assert first.peek() is None
    assert second.peek().number == 5
    assert [inbox.take_news().number for _ in range(2)] == [1, 2]
    assert inbox.take_news() is None and not inbox.has_news


def test_an_event_delivered_again_counts_once():
    _, inbox = make()
    box = inbox.open()
    for event in (Event(EventKind.OUTPUT, seq=1, token=box.token), Event(EventKind.CHANGED, seq=2)):
        inbox.route(event)
        inbox.route(event)
    box.accept(box.peek())
    assert box.peek() is None
    assert inbox.take_news().seq == 2
    assert inbox.take_news() is None


def test_a_muted_inbox_drops_its_backlog_and_takes_no_more():
    _, inbox = make()
    inbox.route(Event(EventKind.CHANGED, seq=1))
    inbox.mute()
    inbox.route(Event(EventKind.CHANGED, seq=2))
    assert not inbox.has_news


def test_wakers_are_called_for_their_mailbox_and_at_the_end():
    _, inbox = make()
    first, second, woken = inbox.open(), inbox.open(), []
    wakers = [lambda: woken.append(1), lambda: woken.append(2)]
    inbox.add_waker(first, wakers[0])
    inbox.add_waker(second, wakers[1])
    inbox.route(Event(EventKind.DONE, seq=1, token=second.token))
    assert woken == [2]
    inbox.wake_one()
    assert woken == [2, 1], "the mailbox that has waited longest"
    inbox.remove_waker(first, wakers[0])
    inbox.remove_waker(first, wakers[0])
    inbox.route(Event(EventKind.CLOSED, seq=2))
    assert woken == [2, 1, 2]
    assert inbox.next(first).kind == EventKind.CLOSED, "nothing else can come"
