"""Events of the library as immutable Python values: every pointer of an `rtd_event` is copied before it is handed out.

Storey 5 (binding). The numbers come from the header, through the extension.
"""

import json
from dataclasses import dataclass
from typing import Any

from runtimed_ffi._binding.ffi import CData, borrowed, ffi, lib

READY: int = lib.RTD_EV_READY
CHANGED: int = lib.RTD_EV_CHANGED
RESPONSE: int = lib.RTD_EV_RESPONSE
QUEUED: int = lib.RTD_EV_QUEUED
STARTED: int = lib.RTD_EV_STARTED
OUTPUT: int = lib.RTD_EV_OUTPUT
CLEARED: int = lib.RTD_EV_CLEARED
DONE: int = lib.RTD_EV_DONE
BROADCAST: int = lib.RTD_EV_BROADCAST
SYNCED: int = lib.RTD_EV_SYNCED
RESYNC: int = lib.RTD_EV_RESYNC
ENDED: int = lib.RTD_EV_CLOSED
"""The last event of a connection (`RTD_EV_CLOSED`); not to be confused with the result code of the same name."""

ROOM_WANTED: int = lib.RTD_EV_ROOM_WANTED
PEER_JOINED: int = lib.RTD_EV_PEER_JOINED
PEER_LEFT: int = lib.RTD_EV_PEER_LEFT
REQUEST: int = lib.RTD_EV_REQUEST
ROOM_CHANGED: int = lib.RTD_EV_ROOM_CHANGED
ROOM_FAILED: int = lib.RTD_EV_ROOM_FAILED

OUTPUT_APPENDED: int = lib.RTD_OUTPUT_APPENDED
OUTPUT_REPLACED: int = lib.RTD_OUTPUT_REPLACED
OUTPUT_JOINED: int = lib.RTD_OUTPUT_JOINED
OUTPUT_REPLACED_ALL: int = lib.RTD_OUTPUT_REPLACED_ALL

DONE_OK: int = lib.RTD_DONE_OK
DONE_ERROR: int = lib.RTD_DONE_ERROR
DONE_INTERRUPTED: int = lib.RTD_DONE_INTERRUPTED
DONE_CANCELLED: int = lib.RTD_DONE_CANCELLED
DONE_KERNEL_DIED: int = lib.RTD_DONE_KERNEL_DIED
DONE_LAUNCH_FAILED: int = lib.RTD_DONE_LAUNCH_FAILED
DONE_TIMED_OUT: int = lib.RTD_DONE_TIMED_OUT
DONE_DISCONNECTED: int = lib.RTD_DONE_DISCONNECTED
DONE_REFUSED: int = lib.RTD_DONE_REFUSED

TERMINAL = frozenset({RESPONSE, DONE, SYNCED})
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
