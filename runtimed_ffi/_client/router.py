"""Waiting for the events of one connection on any number of threads, without a thread of its own.

Storey 6 (client). Imports only `_binding.events` and `inbox`.

Any number of threads may wait, each for its own mailbox of the `Inbox`. One of them, the leader, polls the connection's
descriptor and drains it into the mailboxes; the others sleep until their mailbox has something. When the leader's own
wait is over, or a `KeyboardInterrupt` ends it, the next waiting thread leads. There is no time limit here: deadlines
live in the library, which ends every token with exactly one terminal event.

The leader gives up the lead before it delivers news, so that a slow subscriber delays no other thread; one thread at a
time delivers, in order, holding no lock, and may itself wait for something inside a subscriber.
"""

from __future__ import annotations

import os
import select
import threading
from typing import Callable

from runtimed_ffi._binding.events import Event, EventKind
from runtimed_ffi._client.inbox import EventSource, Inbox, Mailbox


class Router:
    """The events of one connection.

    Args:
        source: the connection; owned by the router from here on, freed when its last event was taken.
        wants: whether an event is news that has subscribers; called under the lock, must be quick.
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
        self._deliver = deliver
        self._lock = threading.Lock()
        self._inbox = Inbox(source, wants)
        self._leader: _Waiter | None = None
        self._delivering = False
        self._poll = select.poll()
        self._poll.register(source.fd, select.POLLIN)

    @property
    def life(self) -> Mailbox:
        """The mailbox of the connection itself: its beginning and its end."""
        return self._inbox.life

    @property
    def ended(self) -> Event | None:
        """The connection's last event, once it was taken."""
        return self._inbox.ended

    def open(self) -> Mailbox:
        """A mailbox with a new token. It lives as long as the caller keeps it."""
        with self._lock:
            return self._inbox.open()

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
                    self._inbox.remove_waker(box, waiter.ring)
                    event = self._inbox.next(box)
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
        """The connection's first event: `READY`, or `CLOSED` when it failed."""
        return self.wait(self.life)

    def wait_ended(self) -> Event:
        """The connection's last event; for a caller that has stopped it."""
        while True:
            event = self.wait(self.life)
            if event.kind == EventKind.CLOSED:
                return event
            self.life.accept(event)

    def mute(self) -> None:
        """Deliver no news any more; events still reach their mailboxes."""
        with self._lock:
            self._inbox.mute()

    def pump(self, stop: Stop, on_errors: Callable[[list[Exception]], None]) -> None:
        """Consume the events of every token on this thread, until `stop` or the end of the connection."""
        waiter = _Waiter(Mailbox(0), stop)
        stop.waiter = waiter
        try:
            while not stop.requested and self.ended is None:
                with self._lock:
                    self._inbox.remove_waker(waiter.box, waiter.ring)
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
                elif not stop.requested and self.ended is None:
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
        self._inbox.add_waker(waiter.box, waiter.ring)
        return False

    def _lead(self, waiter: _Waiter) -> None:
        """Drain the source until the leader's mailbox has an event, news wait, or a pump has been stopped."""
        poll = self._poll if waiter.stop is None else waiter.stop.poll_with(self._source.fd)
        while True:
            with self._lock:
                if self._leader is not waiter:
                    return
                self._inbox.drain()
                news = self._inbox.has_news and not self._delivering
                if news or self._inbox.next(waiter.box) is not None:
                    return
            if waiter.stop is not None and waiter.stop.requested:
                return
            poll.poll()

    def _leave_surely(self, waiter: _Waiter) -> None:
        try:
            self._leave(waiter)
        except BaseException:
            # Ctrl-C at the worst moment must not leave a leader behind that is gone.
            self._leave(waiter)
            raise

    def _leave(self, waiter: _Waiter) -> None:
        """Give up the lead, if this waiter has it; then another waiting thread takes it."""
        free = False
        with self._lock:
            self._inbox.remove_waker(waiter.box, waiter.ring)
            if self._leader is waiter:
                self._leader = None
                free = self.ended is not None
            if self._leader is None and self.ended is None:
                self._inbox.wake_one()
        if free:
            self._source.close()

    def _deliver_news(self, errors: list[Exception]) -> None:
        """Deliver the news there are, unless another thread does, and add what subscribers raise to `errors`."""
        if not self._inbox.has_news:
            return
        mine = False
        try:
            while True:
                with self._lock:
                    if not mine:
                        if self._delivering:
                            return
                        mine = self._delivering = True
                    event = self._inbox.take_news()
                    if event is None:
                        self._delivering = mine = False
                        return
                errors.extend(self._deliver(event))
        except BaseException:
            # Ctrl-C, in a subscriber or here: the rest is for the next thread that waits.
            if mine:
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
    """How to end a pump: a flag, and a pipe that ends its poll.

    The pump closes the pipe; the router's lock guards it.
    """

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
        """Close the pipe, which the pump polls no more."""
        self._closed = True
        os.close(self._reader)
        os.close(self._writer)
