"""Hands the events of the host to the modules that handle them.

Storey: daemon (7).
"""

from __future__ import annotations

import logging

from runtimed_ffi import host as hosting
from runtimed_ffi.daemon import logging_setup
from runtimed_ffi.daemon.channels.blob_requests import BlobRequests
from runtimed_ffi.daemon.channels.pool_requests import PoolRequests
from runtimed_ffi.daemon.channels.settings import Settings
from runtimed_ffi.daemon.limits import Limits
from runtimed_ffi.daemon.rooms.requests import NotebookRequests
from runtimed_ffi.daemon.rooms.rooms import Rooms
from runtimed_ffi.host import ChannelKind, EventKind

log = logging.getLogger(__name__)


class Dispatch:
    """Calls the handler of each event of the host.  Never raises: a bad event affects only its sender."""

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

    def __call__(self, event: hosting.Event) -> None:
        """Handle one event."""
        logging_setup.about(room=event.id, peer=event.peer)
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

    def _request(self, event: hosting.Event) -> None:
        if event.code == ChannelKind.NOTEBOOK:
            self._notebook.handle(event.id, event.token, event.peer, event.payload)
        elif event.code == ChannelKind.POOL:
            self._pool.handle(event.token, event.peer, event.payload)
        elif event.code == ChannelKind.BLOB:
            self._blobs.handle(event.token, event.id, event.payload)
        else:
            self._host.disconnect(event.peer)
