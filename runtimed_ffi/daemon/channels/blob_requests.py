"""The blob channel: storing content by hash, and the port of the blob server.

Storey: daemon (7).  Source: protocol 2, section 8.6.  Small contents are stored at once; large ones on a thread of
their own, one after the other, so that hashing and writing 100 MiB holds nobody up.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from runtimed_ffi.daemon.channels.blob_server import BlobAddress
from runtimed_ffi.daemon.ports import BlobPort, HostPort, Json

log = logging.getLogger(__name__)

INLINE_LIMIT = 64 * 1024
"""Contents up to this many bytes are stored on the loop."""

PENDING_LIMIT = 512 * 1024 * 1024
"""Bytes that may wait for the thread; beyond, a request is refused with an error and its content is let go."""


class BlobRequests:
    """Answers the requests of the blob channel.  Everything on the loop's thread.

    Parameters
    ----------
    address:
        Where blobs are served, or ``None`` if they are not.
    """

    def __init__(self, host: HostPort, blobs: BlobPort, address: BlobAddress | None) -> None:
        self._host = host
        self._blobs = blobs
        self._address = address
        self._writer = ThreadPoolExecutor(1, "blob-writer")
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = 0

    def handle(self, token: int, media_type: str, payload: bytes) -> None:
        """Answer one request: to store ``payload``, or without a media type for the port.  Never raises.

        Answers may come in any order: the host sends them in the order of the requests.
        """
        if not media_type:
            self._respond(token, self._port())
        elif len(payload) <= INLINE_LIMIT:
            self._respond(token, self._store(media_type, payload))
        elif self._waiting + len(payload) > PENDING_LIMIT:
            self._respond(token, {"error": "too much content waits to be stored; try again later"})
        else:
            self._waiting += len(payload)
            task = asyncio.ensure_future(self._store_later(token, media_type, payload))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _port(self) -> Json:
        if self._address is None:
            return {"error": "blob server not running"}
        return {"port": self._address.port, "prefix": self._address.prefix}

    async def _store_later(self, token: int, media_type: str, payload: bytes) -> None:
        loop = asyncio.get_running_loop()
        response = await loop.run_in_executor(self._writer, self._store, media_type, payload)
        self._waiting -= len(payload)
        self._respond(token, response)

    def _store(self, media_type: str, payload: bytes) -> Json:
        try:
            return {"hash": self._blobs.put(payload, media_type)}
        except Exception as error:
            log.warning("a blob of %d bytes cannot be stored: %s", len(payload), error)
            return {"error": str(error)}

    def _respond(self, token: int, response: Json) -> None:
        try:
            self._host.respond(token, response)
        except Exception as error:
            log.debug("a response was not sent: %s", error)

    async def close(self) -> None:
        """Store and answer what was accepted, then end the thread."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._writer.shutdown()
