"""Events of the library as immutable Python values: every pointer of an `rtd_event` is copied before it is handed out.

Storey 5 (binding). The numbers come from the header, through the extension.
"""

import json
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from runtimed_ffi._binding.ffi import CData, borrowed, ffi, lib


class EventKind(IntEnum):
    """What an event is (`rtd_event_kind`)."""

    # Of a session.
    READY = lib.RTD_EV_READY
    CHANGED = lib.RTD_EV_CHANGED
    RESPONSE = lib.RTD_EV_RESPONSE
    QUEUED = lib.RTD_EV_QUEUED
    STARTED = lib.RTD_EV_STARTED
    OUTPUT = lib.RTD_EV_OUTPUT
    CLEARED = lib.RTD_EV_CLEARED
    DONE = lib.RTD_EV_DONE
    BROADCAST = lib.RTD_EV_BROADCAST
    SYNCED = lib.RTD_EV_SYNCED
    RESYNC = lib.RTD_EV_RESYNC
    CLOSED = lib.RTD_EV_CLOSED
    """The last event of a session or host."""
    # Of a host.
    ROOM_WANTED = lib.RTD_EV_ROOM_WANTED
    """A peer asks for the room ``id``, which is not open: ``open_room`` or ``refuse_room``."""
    PEER_JOINED = lib.RTD_EV_PEER_JOINED
    PEER_LEFT = lib.RTD_EV_PEER_LEFT
    """``number`` of the two: peers in the room now."""
    REQUEST = lib.RTD_EV_REQUEST
    """``payload`` is the request, ``code`` its `ChannelKind`: ``respond`` once."""
    ROOM_CHANGED = lib.RTD_EV_ROOM_CHANGED
    """Peers changed the document of the room ``id``; only with ``watch_changes``."""
    ROOM_FAILED = lib.RTD_EV_ROOM_FAILED
    """``code`` and ``text`` say why; the room goes on only if its journal could not be written."""
    SETTINGS_CHANGED = lib.RTD_EV_SETTINGS_CHANGED
    """Peers changed the settings. Comes again only after `Host.settings` was called."""
    SETTINGS_FAILED = lib.RTD_EV_SETTINGS_FAILED
    """As ``ROOM_FAILED``, for the settings."""


class ChannelKind(IntEnum):
    """Where a request came in (`rtd_channel`): the ``code`` of a ``REQUEST``."""

    NOTEBOOK = lib.RTD_CHANNEL_NOTEBOOK
    POOL = lib.RTD_CHANNEL_POOL
    BLOB = lib.RTD_CHANNEL_BLOB


class OutputChange(IntEnum):
    """What an output does to the list of outputs (`rtd_output_change`): the ``code`` of an ``OUTPUT``."""

    APPENDED = lib.RTD_OUTPUT_APPENDED
    REPLACED = lib.RTD_OUTPUT_REPLACED
    JOINED = lib.RTD_OUTPUT_JOINED
    REPLACED_ALL = lib.RTD_OUTPUT_REPLACED_ALL


class Done(IntEnum):
    """How an execution ended (`rtd_done`): the ``code`` of a ``DONE``."""

    OK = lib.RTD_DONE_OK
    ERROR = lib.RTD_DONE_ERROR
    INTERRUPTED = lib.RTD_DONE_INTERRUPTED
    CANCELLED = lib.RTD_DONE_CANCELLED
    KERNEL_DIED = lib.RTD_DONE_KERNEL_DIED
    LAUNCH_FAILED = lib.RTD_DONE_LAUNCH_FAILED
    TIMED_OUT = lib.RTD_DONE_TIMED_OUT
    DISCONNECTED = lib.RTD_DONE_DISCONNECTED
    REFUSED = lib.RTD_DONE_REFUSED


TERMINAL = frozenset({EventKind.RESPONSE, EventKind.DONE, EventKind.SYNCED})
"""Kinds that end a token: each token gets exactly one of them, and nothing afterwards."""


@dataclass(frozen=True)
class Event:
    """One event. Which members mean something depends on `kind`; see the header's comment on `rtd_event`."""

    kind: int
    code: int = 0
    seq: int = 0
    token: int = 0
    peer: int = 0
    number: int = -1
    id: str = ""
    payload: bytes = b""
    text: str = ""

    def json(self) -> Any:
        """The payload read as JSON; `None` when there is none. Raises `ValueError` when it is not JSON."""
        return json.loads(self.payload) if self.payload else None


def new_event() -> CData:
    """An `rtd_event *` for `next_event` to fill."""
    event = ffi.new("rtd_event *")
    event.struct_size = ffi.sizeof("rtd_event")
    return event


def decode_event(event: CData) -> Event:
    """Copy a filled `rtd_event`; its pointers are borrowed only until the next call on the same handle."""
    return Event(
        kind=event.kind,
        code=event.code,
        seq=event.seq,
        token=event.token,
        peer=event.peer,
        number=event.number,
        id=borrowed(event.id, event.id_len).decode("utf-8", "replace"),
        payload=borrowed(event.payload, event.payload_len),
        text=borrowed(event.text, event.text_len).decode("utf-8", "replace"),
    )
