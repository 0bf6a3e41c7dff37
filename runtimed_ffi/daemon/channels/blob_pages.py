"""Answers of the blob server: which path gives which blob, with which headers.

Storey: daemon (7).  Source: protocol 2, section 8.5; HTTP itself, ranges and validators are ``aiohttp``'s.  Imported by
``blob_server`` when it is first needed.

Content never changes under its name, so it may be cached for ever.  It was made by arbitrary programs, so it is
labelled for display only: no scripts, no guessing of types.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import logging
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from aiohttp import hdrs, web

log = logging.getLogger(__name__)

CONNECTION_LIMIT = 256
"""Connections at one time; further ones are closed at once."""

REQUEST_LIMIT = 10.0
"""Seconds for a connection to send its request."""

ANSWER_LIMIT = 300.0
"""Seconds for a client to take its answer: 100 MiB at 350 kB/s.  A slower client is disconnected."""

_DECODING_LIMIT = 2
"""Blobs decoded at the same time, each held in memory."""

_HASH_PATH = re.compile(r"/blobs?/([0-9a-f]{64})")
_HOSTS = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_TOKEN = r"[A-Za-z0-9!#$&^_.+-]+"
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}(?:\s*;\s*{_TOKEN}=(?:{_TOKEN}|\"[ !#-\[\]-~]*\"))*")
_TEXT = re.compile(r"text/.*|application/(?:json|javascript|xml)|.*\+(?:json|xml)")
_METHODS = "GET, HEAD, OPTIONS"

_FOR_ALL: Mapping[str, str] = {
    hdrs.SERVER: "runtimed-ffi",
    hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*",
    "X-Content-Type-Options": "nosniff",
    # A blob opened as a page runs nothing and loads nothing; as an image or by a script it is what it was.
    "Content-Security-Policy": "default-src 'none'; sandbox",
    # Front ends of other origins show blobs, those with cross-origin isolation included.
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Referrer-Policy": "no-referrer",
}
_IMMUTABLE = "public, max-age=31536000, immutable"


class BlobPages:
    """The answers.  Everything on the loop's thread; files are read on others.

    Args:
        directory: The blob store (section 8.4).
        prefix: The path that cannot be guessed, as ``/<text>``.
        plain_urls: Whether paths without the prefix are served as well.
    """

    def __init__(self, directory: str, prefix: str, *, plain_urls: bool) -> None:
        self._directory = directory
        self._prefix = prefix
        self._plain_urls = plain_urls
        self._decoding = asyncio.Semaphore(_DECODING_LIMIT)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to any request.  One per connection: a connection that lives on would need a limit of its own."""
        response = await self._answer(request)
        response.headers.update(_FOR_ALL)
        response.force_close()
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        # A foreign page whose host name now resolves to this machine (DNS rebinding) sends its own name as host.
        if not _HOSTS.fullmatch(request.headers.get(hdrs.HOST, "localhost")):
            return _text(403, "Forbidden")
        if request.method == hdrs.METH_OPTIONS:
            return web.Response(
                status=204,
                headers={
                    hdrs.ALLOW: _METHODS,
                    hdrs.ACCESS_CONTROL_ALLOW_METHODS: _METHODS,
                    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: "Range, If-None-Match, If-Modified-Since, If-Range",
                    hdrs.ACCESS_CONTROL_MAX_AGE: "86400",
                },
            )
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            return _text(405, "Method Not Allowed", {hdrs.ALLOW: _METHODS})
        path = request.rel_url.raw_path
        if path == "/health":
            return _text(200, "OK")
        rest = path[len(self._prefix) :]
        if not hmac.compare_digest(path[: len(self._prefix)].encode(), self._prefix.encode()):
            if not self._plain_urls:
                return _text(404, "Not Found")
            rest = path
        name = _HASH_PATH.fullmatch(rest)
        if name is None:
            return _text(404, "Not Found")
        return await self._blob(request, name.group(1))

    async def _blob(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        path = os.path.join(self._directory, name[:2], name[2:])
        loop = asyncio.get_running_loop()
        media_type = await loop.run_in_executor(None, _media_type, path)
        if media_type is None:
            return _text(404, "Not Found")
        headers: dict[str, str] = {
            hdrs.CONTENT_TYPE: media_type,
            hdrs.CACHE_CONTROL: _IMMUTABLE,
            hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: "Accept-Ranges, Content-Length, Content-Range, ETag",
        }
        wanted = request.rel_url.query.get("decode") == "1"
        if wanted and not _TEXT.fullmatch(media_type.partition(";")[0].strip().lower()):
            return await self._decoded(request, name, path, headers)
        return web.FileResponse(Path(path), headers=headers)

    async def _decoded(
        self, request: web.BaseRequest, name: str, path: str, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """The bytes that a blob holds as base64 text, as blobs of binary types do (section 8.3); else what it holds.

        Whole or not at all: without ranges, as images are fetched.
        """
        etag = f"{name}-decoded"
        wanted = request.if_none_match or ()
        if any(tag.value in (etag, "*") for tag in wanted):
            response = web.Response(status=304, headers={hdrs.CACHE_CONTROL: _IMMUTABLE})
        else:
            async with self._decoding:
                data = await asyncio.get_running_loop().run_in_executor(None, _decode, path)
            response = web.Response(body=data, headers=headers)
        response.etag = etag
        return response


class _Server(web.Server):
    """``aiohttp``'s server with a bound for the number of connections and for the life of each."""

    def __init__(self, pages: BlobPages) -> None:
        super().__init__(self._handle, access_log=None)
        self._pages = pages
        self._ends: dict[object, asyncio.TimerHandle] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self._ends) >= CONNECTION_LIMIT:
            _hang_up(transport)
            return
        self._ends[handler] = self._loop.call_later(REQUEST_LIMIT, _hang_up, transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        end = self._ends.pop(handler, None)
        if end is not None:
            end.cancel()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        end, transport = self._ends.get(request.protocol), request.transport
        if end is not None and transport is not None:
            end.cancel()
            self._ends[request.protocol] = self._loop.call_later(ANSWER_LIMIT, _hang_up, transport)
        try:
            return await self._pages.answer(request)
        except OSError as error:
            log.warning("a blob cannot be read: %s", error)
            return _text(500, "Internal Server Error", _FOR_ALL)


class Serving:
    """A server that runs; ``close`` ends it."""

    def __init__(self, server: asyncio.AbstractServer, connections: _Server) -> None:
        self._server = server
        self._connections = connections

    async def close(self) -> None:
        """Stop listening and cut the connections: what they deliver can be had again."""
        self._server.close()
        self._connections.pre_shutdown()
        await self._connections.shutdown(0.1)


async def serve(listener: socket.socket, directory: str, prefix: str, *, plain_urls: bool) -> Serving:
    """Serve on a socket that listens already."""
    connections = _Server(BlobPages(directory, prefix, plain_urls=plain_urls))
    server = await asyncio.get_running_loop().create_server(connections, sock=listener)
    return Serving(server, connections)


def _hang_up(transport: asyncio.BaseTransport) -> None:
    """End a connection from its socket, so that whatever reads or sends learns of it by an error.

    A transport that is aborted closes its descriptor under a ``sendfile`` that is under way, which then goes on with
    whatever connection gets the same number.
    """
    try:
        transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
    except OSError as error:
        log.debug("a connection had ended already: %s", error)


def _text(status: int, body: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=body, headers=headers)


def _media_type(path: str) -> str | None:
    """The media type of a blob, or ``None`` if there is no such blob."""
    if not os.path.isfile(path):
        return None
    try:
        with open(path + ".meta", encoding="utf-8") as file:
            media_type = json.load(file)["media_type"]
    except (OSError, ValueError, KeyError, TypeError):
        media_type = None  # A missing sidecar is no error (8.5).
    # Peers name media types; one that is none would end up as a header of its own.
    if not isinstance(media_type, str) or not _MEDIA_TYPE.fullmatch(media_type):
        return "application/octet-stream"
    return media_type


def _decode(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read()
    try:
        # Line breaks are part of what kernels send; anything else that is not base64 is content of its own.
        return base64.b64decode(data.translate(None, b"\r\n"), validate=True)
    except (binascii.Error, ValueError):
        return data
