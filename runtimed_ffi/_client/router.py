"""Delivery of one connection's events to any number of waiting threads, without a thread of its own.

Storey 6 (client). Imports only `_binding.events` and `backlog`.

Each request has a token and a `Mailbox`. Any number of threads may wait, each for its own mailbox. One of them, the
leader, polls the connection's descriptor and puts every event into the mailbox it belongs to; the others sleep until
their mailbox has something. When the leader's own wait is over, or a `KeyboardInterrupt` ends it, the next waiting
thread leads. There is no time limit here: deadlines live in the library, which ends every token with exactly one
terminal event.

Events that belong to the session and not to a token (changes, outputs for subscribers, broadcasts) queue up as
*news*. The leader gives up the lead before it delivers them, so that a slow subscriber delays nobody; one thread at a
time delivers, in order, holding no lock, and may itself wait for something inside a subscriber.

Mailboxes and news are bounded (`Backlog`): an owner who does not come, or a subscriber who is slow, finds a `RESYNC`.

A `KeyboardInterrupt` can strike between any two bytecodes. Events therefore stay the source's next event until they are
routed and confirmed, and stay the mailbox's next event until its owner has accepted them; event numbers tell
repetitions.
"""

from __future__ import annotations

import itertools
import os
import select
import threading
from typing import Callable, Protocol
from weakref import WeakValueDictionary

from runtimed_ffi._binding.events import ENDED, READY, RESYNC, TERMINAL, Event
from runtimed_ffi._client.backlog import Backlog


class EventSource(Protocol):
    """What the router needs of a connection; see `NativeSession`."""

    fd: int

    def next_event(self) -> Event | None:
        """The oldest unconfirmed event, or `None`."""

    def confirm(self, seq: int) -> None:
        """The event with this number has been routed."""

    def free(self) -> None:
        """Called once, by the consumer, after `ENDED`."""


class Mailbox:
    """The events of one token, in order. Collected with its owner: the router holds it weakly."""

    def __init__(self, token: int) -> None:
        self.token = token
        self.errors: list[Exception] = []
        """What subscribers raised while the owner of this mailbox was waiting."""
        self._events = Backlog()
        self._accepted = 0
        self._sleepers: list[_Waiter] = []

    def accept(self, event: Event) -> None:
        """The owner has dealt with the event; until then `Router.wait` answers the same one again."""
        self._accepted = event.seq

    def _peek(self) -> Event | None:
        event = self._events.first()
        while event is not None and event.seq <= self._accepted:
            self._events.take()
            event = self._events.first()
        return event


class Router:
    """The events of one connection.

    Args:
        source: the connection; owned by the router from here on, freed when its last event was taken.
        wants: whether an event is news that somebody has subscribed to; called under the lock, must be quick.
        deliver: hands one piece of news to its subscribers and returns what they raised; called without any lock.

    Threads: every method may be called from any thread.
    """

    def __init__(
        self,
        source: EventSource,
        wants: Callable[[Event], bool],
        deliver: Callable[[Event], list[Exception]],
    ) -> None:
        self._source = source
        self._wants = wants
        self._deliver = deliver
        self._lock = threading.Lock()
        self._tokens = itertools.count(1)
        self._boxes: WeakValueDictionary[int, Mailbox] = WeakValueDictionary()
        self.life = Mailbox(0)
        """The mailbox of the connection itself: its beginning and its end."""
        self._asleep: dict[_Waiter, None] = {}
        self._leader: _Waiter | None = None
        self._news = Backlog()
        self._delivered = 0
        self._delivering = False
        self._ended: Event | None = None
        self._poll = select.poll()
        self._poll.register(source.fd, select.POLLIN)

    @property
    def ended(self) -> Event | None:
        """The connection's last event, once it was taken."""
        return self._ended

    def open(self) -> Mailbox:
        """A mailbox with a new token. It lives as long as the caller keeps it."""
        with self._lock:
            box = Mailbox(next(self._tokens))
            self._boxes[box.token] = box
            return box

    def wait(self, box: Mailbox) -> Event:
        """The next event of a mailbox; blocks until there is one.

        Returns:
            The oldest event that was not yet accepted, or the connection's last event when nothing can come any more.

        Raises:
            KeyboardInterrupt: at once, when the main thread waits; nothing is lost, and the wait may be repeated.
        """
        waiter = _Waiter(box)
        try:
            while True:
                with self._lock:
                    self._wake(waiter)
                    event = box._peek() or self._ended
                    if event is not None:
                        return event
                    leads = self._take_lead_or_sleep(waiter)
                if leads:
                    try:
                        self._lead(waiter)
                    finally:
                        self._leave_surely(waiter)
                    # Without the lead: subscribers may take their time, and may call back into the session.
                    self._deliver_news(box.errors)
                else:
                    waiter.bell.acquire()
        finally:
            self._leave_surely(waiter)

    def wait_ready(self) -> Event:
        """The connection's first event: `READY`, or `ENDED` when it failed."""
        return self.wait(self.life)

    def wait_ended(self) -> Event:
        """The connection's last event; for a caller who has closed it."""
        while True:
            event = self.wait(self.life)
            if event.kind == ENDED:
                return event
            self.life.accept(event)

    def mute(self) -> None:
        """Deliver no news any more; events still reach their mailboxes."""
        with self._lock:
            self._wants = lambda event: False
            self._news.clear()

    def pump(self, stop: Stop, on_errors: Callable[[list[Exception]], None]) -> None:
        """Consume events on this thread, whoever they are for, until `stop` or the end of the connection."""
        waiter = _Waiter(Mailbox(0), stop)
        stop.waiter = waiter
        try:
            while not stop.requested and self._ended is None:
                with self._lock:
                    self._wake(waiter)
                    leads = self._take_lead_or_sleep(waiter)
                if leads:
                    try:
                        self._lead(waiter)
                    finally:
                        self._leave_surely(waiter)
                    raised: list[Exception] = []
                    try:
                        self._deliver_news(raised)
                    finally:
                        on_errors(raised)
                elif not stop.requested and self._ended is None:
                    waiter.bell.acquire()
        finally:
            self._leave_surely(waiter)
            with self._lock:
                stop.close()

    def stop_pump(self, stop: Stop) -> None:
        """Make the `pump` that was given this object return soon."""
        with self._lock:
            stop.request()
            if stop.waiter is not None:
                stop.waiter.ring()

    def _take_lead_or_sleep(self, waiter: _Waiter) -> bool:
        # A leader on this very thread was interrupted before it could give up the lead.
        if self._leader is None or self._leader.thread == waiter.thread:
            self._leader = waiter
            return True
        self._asleep[waiter] = None
        waiter.box._sleepers.append(waiter)
        return False

    def _wake(self, waiter: _Waiter) -> None:
        if waiter in self._asleep:
            del self._asleep[waiter]
            waiter.box._sleepers.remove(waiter)

    def _lead(self, waiter: _Waiter) -> None:
        """Route events until the leader's mailbox has one, news wait, or a pump is told to stop."""
        poll = self._poll if waiter.stop is None else waiter.stop.poll_with(self._source.fd)
        while True:
            with self._lock:
                if self._leader is not waiter:
                    return
                self._drain()
                news = bool(self._news) and not self._delivering
                if news or self._ended is not None or waiter.box._peek() is not None:
                    return
            if waiter.stop is not None and waiter.stop.requested:
                return
            poll.poll()

    def _drain(self) -> None:
        while self._ended is None:
            event = self._source.next_event()
            if event is None:
                return
            self._route(event)
            self._source.confirm(event.seq)

    def _route(self, event: Event) -> None:
        if event.kind == ENDED:
            self._ended = event
            for waiter in self._asleep:
                waiter.ring()
        elif event.kind == READY:
            self._put(self.life, event)
        elif event.kind == RESYNC:
            # Progress of every execution was dropped; each of them must look into the document.
            for box in list(self._boxes.values()):
                self._put(box, event)
        elif event.token:
            owner = self._boxes.get(event.token)
            if owner is not None:
                self._put(owner, event)
            if event.kind in TERMINAL:
                self._boxes.pop(event.token, None)
        if self._wants(event):
            self._news.put(event)

    @staticmethod
    def _put(box: Mailbox, event: Event) -> None:
        box._events.put(event)
        for waiter in box._sleepers:
            waiter.ring()

    def _leave_surely(self, waiter: _Waiter) -> None:
        try:
            self._leave(waiter)
        except BaseException:
            # Ctrl-C at the worst moment must not leave a leader behind that is gone.
            self._leave(waiter)
            raise

    def _leave(self, waiter: _Waiter) -> None:
        """Give up the lead, if it was ours, and see that somebody leads as long as somebody waits."""
        free = False
        with self._lock:
            self._wake(waiter)
            if self._leader is waiter:
                self._leader = None
                free = self._ended is not None
            if self._leader is None and self._ended is None:
                for other in self._asleep:
                    other.ring()
                    break
        if free:
            self._source.free()

    def _deliver_news(self, errors: list[Exception]) -> None:
        """Deliver what there is, unless another thread does, and add what subscribers raise to `errors`."""
        if not self._news:
            return
        with self._lock:
            if self._delivering:
                return
            self._delivering = True
        while True:
            with self._lock:
                if not self._news:
                    self._delivering = False
                    return
                event = self._news.take()
            if event.seq <= self._delivered:
                continue
            self._delivered = event.seq
            try:
                errors.extend(self._deliver(event))
            except BaseException:
                # Ctrl-C inside a subscriber: the rest is for the next thread that waits.
                self._delivering = False
                raise


class _Waiter:
    """One wait of one thread."""

    def __init__(self, box: Mailbox, stop: Stop | None = None) -> None:
        self.box = box
        self.stop = stop
        self.thread = threading.get_ident()
        # A bare lock, because an interrupt in Condition.wait() can leave its lock in the wrong state.
        self.bell = threading.Lock()
        self.bell.acquire()

    def ring(self) -> None:
        """End the sleep; if it has not begun, it will be over at once."""
        try:
            self.bell.release()
        except RuntimeError:
            pass  # It was rung already.


class Stop:
    """How to end a pump: a flag, and a pipe that ends its poll. The pump closes the pipe; the router's lock guards
    it."""

    def __init__(self) -> None:
        self.requested = False
        self.waiter: _Waiter | None = None
        self._closed = False
        self._reader, self._writer = os.pipe()

    def request(self) -> None:
        """Set the flag and make the pipe readable."""
        if not self.requested and not self._closed:
            os.write(self._writer, b"x")
        self.requested = True

    def poll_with(self, fd: int) -> select.poll:
        """A poll object that ends on the descriptor or on the request."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(self._reader, select.POLLIN)
        return poll

    def close(self) -> None:
        """Close the pipe; nobody polls it any more."""
        self._closed = True
        os.close(self._reader)
        os.close(self._writer)
