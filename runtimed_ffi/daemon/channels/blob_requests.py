"""The blob channel: storing content by hash, and the port of the blob server.

Storey: daemon (7).  Source: protocol 2, section 8.6.  Small contents are stored at once; large ones on a thread of
their own, one after the other, so that hashing and writing 100 MiB delays no other request.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from runtimed_ffi.daemon.channels.blob_server import BlobAddress
from runtimed_ffi.daemon.ports import Json
from runtimed_ffi.daemon.reply import Reply
from runtimed_ffi.daemon.tasks import Tasks

if TYPE_CHECKING:
    from runtimed_ffi.blobs import Blobs
    from runtimed_ffi.host import Host

log = logging.getLogger(__name__)

INLINE_LIMIT = 64 * 1024
"""Contents up to this many bytes are stored on the loop."""

PENDING_LIMIT = 512 * 1024 * 1024
"""Bytes that may wait for the thread; beyond, a request is refused with an error and its content is let go."""


class BlobRequests:
    """Answers the requests of the blob channel.  Everything on the loop's thread.

    Args:
        address: Where blobs are served, or ``None`` if they are not.
    """

    def __init__(self, host: Host, blobs: Blobs, address: BlobAddress | None) -> None:
        self._host = host
        self._blobs = blobs
        self._address = address
        self._writer = ThreadPoolExecutor(1, "blob-writer")
        self._tasks = Tasks()
        self._waiting = 0

    def handle(self, token: int, media_type: str, payload: bytes) -> None:
        """Answer one request: to store ``payload``, or without a media type for the port.  Never raises.

        Answers may come in any order: the host sends them in the order of the requests.
        """
        reply = Reply(self._host, token)
        if not media_type:
            reply.send(self._port())
        elif len(payload) <= INLINE_LIMIT:
            reply.send(self._store(media_type, payload))
        elif self._waiting + len(payload) > PENDING_LIMIT:
            reply.send({"error": "too much content waits to be stored; try again later"})
        else:
            self._waiting += len(payload)
            self._tasks.spawn(self._store_later(reply, media_type, payload))

    def _port(self) -> Json:
        if self._address is None:
            return {"error": "blob server not running"}
        return {"port": self._address.port, "prefix": self._address.prefix}

    async def _store_later(self, reply: Reply, media_type: str, payload: bytes) -> None:
        loop = asyncio.get_running_loop()
        response = await loop.run_in_executor(self._writer, self._store, media_type, payload)
        self._waiting -= len(payload)
        reply.send(response)

    def _store(self, media_type: str, payload: bytes) -> Json:
        try:
            return {"hash": self._blobs.put(payload, media_type)}
        except Exception as error:
            log.warning("a blob of %d bytes cannot be stored: %s", len(payload), error)
            return {"error": str(error)}

    async def close(self) -> None:
        """Store and answer what was accepted, then end the thread."""
        while self._tasks:
            await self._tasks.settle()
        self._writer.shutdown()
