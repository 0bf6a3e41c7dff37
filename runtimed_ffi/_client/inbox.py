"""Sorts the events of one connection into mailboxes and news, without threads and without waiting.

Storey 6 (client). Imports only `_binding.events` and `backlog`. `Router` waits for it on threads; an event loop can do
the same with a reader on the descriptor.

Each request has a token and a `Mailbox`; its events go there. Events that belong to the session and not to a token
(changes, outputs for subscribers, broadcasts) queue up as *news*. Both are bounded (`Backlog`): a mailbox that is not
read, or a subscriber that is slow, finds a `RESYNC`.

A `KeyboardInterrupt` can strike between any two bytecodes. So an event stays the source's next event until it is
routed and confirmed, and stays the mailbox's next event until its owner has accepted it; event numbers show
repetitions.
"""

from __future__ import annotations

import itertools
from typing import Callable, Protocol
from weakref import WeakValueDictionary

from runtimed_ffi._binding.events import TERMINAL, Event, EventKind
from runtimed_ffi._client.backlog import Backlog

Waker = Callable[[], object]


class EventSource(Protocol):
    """What the inbox needs of a connection; see `NativeSession`."""

    fd: int

    def next_event(self) -> Event | None:
        """The oldest unconfirmed event, or `None`."""

    def confirm(self, seq: int) -> None:
        """The event with this number has been routed."""

    def close(self) -> None:
        """Called once, by the consumer, after `CLOSED`."""


class Mailbox:
    """The events of one token, in order. Collected with its owner: the inbox holds it weakly."""

    def __init__(self, token: int) -> None:
        self.token = token
        self.errors: list[Exception] = []
        """What subscribers raised on the thread that was waiting for this mailbox."""
        self._events = Backlog()
        self._accepted = 0
        self.wakers: list[Waker] = []
        """Called when an event comes; see `Inbox.add_waker`."""

    def peek(self) -> Event | None:
        """The oldest event that was not accepted yet, or `None`."""
        event = self._events.first()
        while event is not None and event.seq <= self._accepted:
            self._events.take()
            event = self._events.first()
        return event

    def accept(self, event: Event) -> None:
        """The owner has dealt with the event; until then it stays the next one."""
        self._accepted = event.seq

    def put(self, event: Event) -> None:
        """Add an event and wake those that wait for one."""
        self._events.put(event)
        for wake in self.wakers:
            wake()


class Inbox:
    """The events of one connection, routed.

    Args:
        source: where they come from.
        wants: whether an event is news that has subscribers; is shown every event, in order, and must be quick.

    Threads: the caller locks.
    """

    def __init__(self, source: EventSource, wants: Callable[[Event], bool]) -> None:
        self._source = source
        self._wants = wants
        self._tokens = itertools.count(1)
        self._boxes: WeakValueDictionary[int, Mailbox] = WeakValueDictionary()
        self._waiting: dict[Waker, None] = {}
        self._news = Backlog()
        self._taken = 0
        self.life = Mailbox(0)
        """The mailbox of the connection itself: its beginning and its end."""
        self.ended: Event | None = None
        """The connection's last event, once it was routed."""

    @property
    def has_news(self) -> bool:
        """Whether news wait for delivery."""
        return bool(self._news)

    def open(self) -> Mailbox:
        """A mailbox with a new token. It lives as long as the caller keeps it."""
        box = Mailbox(next(self._tokens))
        self._boxes[box.token] = box
        return box

    def next(self, box: Mailbox) -> Event | None:
        """A mailbox's next event; the connection's last event when nothing can come any more; else `None`."""
        return box.peek() or self.ended

    def drain(self) -> None:
        """Route every event that the source has now."""
        while self.ended is None:
            event = self._source.next_event()
            if event is None:
                return
            self.route(event)
            self._source.confirm(event.seq)

    def route(self, event: Event) -> None:
        """Put one event where it belongs. The same event may be shown again after a `KeyboardInterrupt`."""
        if event.kind == EventKind.CLOSED:
            self.ended = event
            for wake in self._waiting:
                wake()
        elif event.kind == EventKind.READY:
            self.life.put(event)
        elif event.kind == EventKind.RESYNC:
            # Progress of every execution was dropped; each of them must look into the document.
            for box in list(self._boxes.values()):
                box.put(event)
        elif event.token:
            owner = self._boxes.get(event.token)
            if owner is not None:
                owner.put(event)
            if event.kind in TERMINAL:
                self._boxes.pop(event.token, None)
        if self._wants(event):
            self._news.put(event)

    def take_news(self) -> Event | None:
        """Remove the oldest piece of news, or `None`. Repetitions are left out."""
        while self._news:
            event = self._news.take()
            if event.seq > self._taken:
                self._taken = event.seq
                return event
        return None

    def mute(self) -> None:
        """Keep no news any more; events still reach their mailboxes."""
        self._wants = lambda event: False
        self._news.clear()

    def add_waker(self, box: Mailbox, wake: Waker) -> None:
        """Have `wake` called when the mailbox gets an event, or the connection ends."""
        self._waiting[wake] = None
        box.wakers.append(wake)

    def remove_waker(self, box: Mailbox, wake: Waker) -> None:
        """Undo `add_waker`, as far as it was done."""
        self._waiting.pop(wake, None)
        if wake in box.wakers:
            box.wakers.remove(wake)

    def wake_one(self) -> None:
        """Wake the one that has waited longest, if any."""
        for wake in self._waiting:
            wake()
            break
