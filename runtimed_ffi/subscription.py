"""Subscriptions of a session: the callbacks for outputs, changes and broadcasts, and what they are called with.

Storey 6 (client). Knows events and outputs; knows nothing of connections, so that subscriptions outlive a reconnect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable

from runtimed_ffi._binding.events import Event, EventKind
from runtimed_ffi._system.process import ProcessLock
from runtimed_ffi.output import OutputEvent

Callback = Callable[[Any], Any]


@dataclass(frozen=True)
class Change:
    """What `Session.on_change` subscribers get: a hint that others changed the document. Hints may be combined."""

    cells: tuple[str, ...] = ()
    """Ids of the cells whose content changed."""
    order: bool = False
    """True when cells were inserted, deleted or moved."""
    metadata: bool = False
    """True when the notebook's metadata changed."""
    missed: bool = False
    """True when events were dropped because no thread fetched them: anything may have changed, read the document."""


class Subscription:
    """One callback of one session. `remove()` ends it; as a context manager it ends with the block."""

    def __init__(self, remove: Callable[[], None]) -> None:
        self._remove = remove

    def remove(self) -> None:
        """Stop calling the callback. Idempotent; a call in progress in another thread goes on to its end."""
        self._remove()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class Subscriptions:
    """The subscribers of a session.

    Threads: may be used from any thread; callbacks run on the thread that calls `deliver`, and no lock is held then.
    """

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self._callbacks: dict[int, tuple[Callback, ...]] = {}

    def add(self, kind: int, callback: Callback) -> Subscription:
        """Call `callback` for events of a kind. The same callback may be added more than once."""
        if not callable(callback):
            raise TypeError(f"argument 'callback': '{type(callback).__name__}' object is not callable")
        with self._lock:
            self._callbacks[kind] = (*self._callbacks.get(kind, ()), callback)
        removed: list[bool] = []

        def remove() -> None:
            with self._lock:
                if removed:
                    return
                removed.append(True)
                left = list(self._callbacks[kind])
                left.remove(callback)
                self._callbacks[kind] = tuple(left)

        return Subscription(remove)

    def any(self, kind: int) -> bool:
        """Whether events of this kind have subscribers."""
        return bool(self._callbacks.get(kind))

    def wants(self, event: Event) -> bool:
        """Whether this event has subscribers."""
        return self.any(EventKind.CHANGED if event.kind == EventKind.RESYNC else event.kind)

    def deliver(self, event: Event, read_output: Callable[[Event], OutputEvent | None]) -> list[Exception]:
        """Call the subscribers of one event, in the order they subscribed.

        `read_output` makes what subscribers get of an output, and may fetch the content; `None`: nothing new.

        Returns:
            What the callbacks raised; each of them is called whatever the others do.
        """
        kind = EventKind.CHANGED if event.kind == EventKind.RESYNC else event.kind
        errors: list[Exception] = []
        try:
            argument = _argument(event, read_output)
        except Exception as error:
            return [error]
        if argument is None:
            return errors
        for callback in self._callbacks.get(kind, ()):
            try:
                callback(argument)
            except Exception as error:
                errors.append(error)
        return errors


def _argument(event: Event, read_output: Callable[[Event], OutputEvent | None]) -> Any:
    if event.kind == EventKind.OUTPUT:
        return read_output(event)
    if event.kind == EventKind.RESYNC:
        return Change(order=True, metadata=True, missed=True)
    value = event.json()
    if event.kind == EventKind.BROADCAST or not isinstance(value, Mapping):
        return value
    return Change(
        cells=tuple(map(str, value.get("cells") or ())),
        order=bool(value.get("order")),
        metadata=bool(value.get("metadata")),
    )
