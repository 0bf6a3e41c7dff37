"""Which part of the daemon handles which event of the host."""

from __future__ import annotations

import contextvars
from typing import Any
from unittest.mock import Mock, call

import pytest

from runtimed_ffi._binding.events import Event
from runtimed_ffi.daemon import logging_setup
from runtimed_ffi.daemon.dispatch import Dispatch
from runtimed_ffi.host import ChannelKind, EventKind

PARTS = ("host", "rooms", "notebook", "pool", "blobs", "settings", "limits")
EVENT = {"id": "nb", "peer": 7, "number": 2, "code": 5, "text": "why", "token": 9, "payload": b"{}"}


def dispatch() -> tuple[Mock, Dispatch]:
    """Mocks of all handlers, and the dispatch to them."""
    handlers = Mock()
    return handlers, Dispatch(*(getattr(handlers, part) for part in PARTS))


def request(channel: int) -> Event:
    return Event(EventKind.REQUEST, **{**EVENT, "code": channel})


@pytest.mark.parametrize(
    "event, calls",
    [
        (Event(EventKind.ROOM_WANTED, **EVENT), [call.rooms.wanted("nb")]),
        (Event(EventKind.PEER_JOINED, **EVENT), [call.rooms.joined("nb", 7, 2), call.limits.look()]),
        (Event(EventKind.PEER_LEFT, **EVENT), [call.rooms.left("nb", 7)]),
        (Event(EventKind.ROOM_FAILED, **EVENT), [call.rooms.failed("nb", 5, "why")]),
        (Event(EventKind.SETTINGS_CHANGED, **EVENT), [call.settings.changed()]),
        (Event(EventKind.SETTINGS_FAILED, **EVENT), [call.settings.failed(5, "why")]),
        (request(ChannelKind.NOTEBOOK), [call.notebook.handle("nb", 9, 7, b"{}")]),
        (request(ChannelKind.POOL), [call.pool.handle(9, 7, b"{}")]),
        (request(ChannelKind.BLOB), [call.blobs.handle(9, "nb", b"{}")]),
        (request(99), [call.host.disconnect(7)]),
        (Event(EventKind.ROOM_CHANGED, **EVENT), []),
        (Event(EventKind.CLOSED, **EVENT), []),
        (Event(99, **EVENT), []),
    ],
)
def test_each_event_goes_to_its_handler(event: Event, calls: list[Any]) -> None:
    handlers, give = dispatch()
    contextvars.copy_context().run(give, event)
    assert handlers.mock_calls == calls


def test_a_handler_that_fails_affects_its_event_only(caplog: pytest.LogCaptureFixture) -> None:
    handlers, give = dispatch()
    handlers.rooms.left.side_effect = ValueError("a defect")
    for peer in (1, 2):
        contextvars.copy_context().run(give, Event(EventKind.PEER_LEFT, id="nb", peer=peer))
    assert handlers.mock_calls == [call.rooms.left("nb", 1), call.rooms.left("nb", 2)]
    assert [record.message for record in caplog.records] == [f"an event of kind {EventKind.PEER_LEFT:d} failed"] * 2


def test_what_is_logged_meanwhile_names_room_and_peer() -> None:
    handlers, give = dispatch()
    subjects: list[Any] = []

    def note(*_: Any) -> None:
        subjects.append(dict(logging_setup.subject()))

    handlers.rooms.left.side_effect = note
    contextvars.copy_context().run(give, Event(EventKind.PEER_LEFT, **EVENT))
    assert subjects == [{"room": "nb", "peer": 7}]
