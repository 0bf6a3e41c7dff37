"""Events that wait until they are taken, and what happens when they are not.

Storey 6 (client). Imports only `_binding.events`.
"""

from __future__ import annotations

from collections import deque

from runtimed_ffi._binding.events import Event, EventKind

LIMIT = 64 * 1024 * 1024
"""Bytes that one backlog holds; as much as the library's own queue."""

_OVERHEAD = 500
"""Bytes an event takes besides what it carries."""

_DROPPABLE = frozenset(
    {EventKind.QUEUED, EventKind.STARTED, EventKind.OUTPUT, EventKind.CLEARED, EventKind.CHANGED, EventKind.BROADCAST}
)


class Backlog:
    """Events in their order.

    Beyond `LIMIT` it does as the library's queue: what the document holds anyway is dropped, and one `RESYNC` takes its
    place; what ends a token always goes in.

    Threads: the caller locks. A `KeyboardInterrupt` at any line loses nothing.
    """

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._events)

    def first(self) -> Event | None:
        """The oldest event, or `None`."""
        return self._events[0] if self._events else None

    def put(self, event: Event) -> None:
        """Add an event behind the others."""
        size = _size(event)
        # One event of any size goes in: it has been received, and there is nothing to catch up behind.
        if event.kind in _DROPPABLE and self._events and self._bytes + size > LIMIT:
            if self._events[-1].kind == EventKind.RESYNC:
                return
            event = Event(EventKind.RESYNC, seq=event.seq, token=event.token)
            size = _size(event)
        # In this order an interrupt makes it count too much, until it is empty, and never too little.
        self._bytes += size
        self._events.append(event)

    def take(self) -> Event:
        """Remove the oldest event. There must be one."""
        event = self._events.popleft()
        self._bytes = self._bytes - _size(event) if self._events else 0
        return event

    def clear(self) -> None:
        """Remove everything."""
        self._events.clear()
        self._bytes = 0


def _size(event: Event) -> int:
    return _OVERHEAD + len(event.id) + len(event.payload) + len(event.text)
