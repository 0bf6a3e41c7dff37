"""The events of the host, each handed to whom it concerns.

Storey: daemon (7).
"""

from __future__ import annotations

import logging

from .. import host as hosting
from ..host import ChannelKind, EventKind
from . import logbook
from .channels.blob_channel import BlobRequests
from .channels.pool import PoolRequests
from .channels.settings import Settings
from .limits import Limits
from .ports import HostEvent
from .rooms.requests import NotebookRequests
from .rooms.rooms import Rooms

log = logging.getLogger(__name__)


class Dispatch:
    """Hands each event of the host to whom it concerns.  Never raises: one bad event costs its sender only."""

    def __init__(
        self,
        host: hosting.Host,
        rooms: Rooms,
        notebook: NotebookRequests,
        pool: PoolRequests,
        blobs: BlobRequests,
        settings: Settings,
        limits: Limits,
    ) -> None:
        self._host = host
        self._rooms = rooms
        self._notebook = notebook
        self._pool = pool
        self._blobs = blobs
        self._settings = settings
        self._limits = limits

    def __call__(self, event: HostEvent) -> None:
        logbook.about(room=event.id, peer=event.peer)
        try:
            if event.kind == EventKind.REQUEST:
                self._request(event)
            elif event.kind == EventKind.ROOM_WANTED:
                self._rooms.wanted(event.id)
            elif event.kind == EventKind.PEER_JOINED:
                self._rooms.joined(event.id, event.peer, event.number)
                self._limits.look()
            elif event.kind == EventKind.PEER_LEFT:
                self._rooms.left(event.id, event.peer)
            elif event.kind == EventKind.ROOM_FAILED:
                self._rooms.failed(event.id, event.code, event.text)
            elif event.kind == EventKind.SETTINGS_CHANGED:
                self._settings.changed()
            elif event.kind == EventKind.SETTINGS_FAILED:
                self._settings.failed(event.code, event.text)
        except Exception:
            log.exception("an event of kind %d failed", event.kind)

    def _request(self, event: HostEvent) -> None:
        if event.code == ChannelKind.NOTEBOOK:
            self._notebook.handle(event.id, event.token, event.peer, event.payload)
        elif event.code == ChannelKind.POOL:
            self._pool.handle(event.token, event.peer, event.payload)
        elif event.code == ChannelKind.BLOB:
            self._blobs.handle(event.token, event.id, event.payload)
        else:
            self._host.disconnect(event.peer)
