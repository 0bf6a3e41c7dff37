"""The TCP port of the blob server: bound at the start, served from the first connection on.

Storey: daemon (7).  Source: protocol 2, section 8.5.  Clients on this machine read blobs from disk and
never make the daemon load an HTTP library: ``blob_pages`` and its ``aiohttp`` are imported at the first connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import Any, NamedTuple

from runtimed_ffi.daemon.lazy_import import load

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
_BACKLOG = 128
"""Connections the system keeps while the HTTP library is being loaded."""


class BlobAddress(NamedTuple):
    """Where blobs are served, for ``daemon.json`` and the blob channel."""

    port: int
    prefix: str
    """A path that cannot be guessed; blobs are below it."""

    @property
    def members(self) -> dict[str, Any]:
        """The members of ``daemon.json``: the one of the protocol, and ours."""
        return {"blob_port": self.port, "blob_prefix": self.prefix}


class BlobServer:
    """Serves the blob directory on IPv4 loopback.  Everything on the loop's thread.

    Args:
        directory: The blob store (section 8.4).
        plain_urls: Whether ``/blob/<hash>`` is served beside ``<prefix>/blob/<hash>``, for clients that know no
            prefix.

    Raises:
        OSError: The port cannot be bound.
    """

    def __init__(self, directory: str, plain_urls: bool = True) -> None:
        self._directory = directory
        self._plain_urls = plain_urls
        self._loop = asyncio.get_running_loop()
        self._socket = socket.create_server((HOST, 0), backlog=_BACKLOG)
        self._socket.setblocking(False)
        self._opening: asyncio.Task[None] | None = None
        self._pages: Any = None
        self.address = BlobAddress(self._socket.getsockname()[1], "/" + os.urandom(16).hex())

    def start(self) -> None:
        """Listen for the first connection."""
        self._loop.add_reader(self._socket.fileno(), self._first_connection)

    def _first_connection(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        try:
            # Half a second of work for the interpreter: never on the loop.
            pages = await self._loop.run_in_executor(None, load, __package__ + ".blob_pages")
            self._pages = await pages.serve(
                self._socket, self._directory, self.address.prefix, plain_urls=self._plain_urls
            )
        except Exception:
            log.exception("blobs cannot be served over HTTP")
            self._socket.close()

    async def close(self) -> None:
        """Stop listening and end the connections.  Idempotent."""
        if self._opening is None:
            if self._socket.fileno() >= 0:
                self._loop.remove_reader(self._socket.fileno())
        else:
            # An import cannot be stopped half-way; what it opens is closed below.
            await asyncio.wait({self._opening})
        if self._pages is not None:
            await self._pages.close()
        self._socket.close()
