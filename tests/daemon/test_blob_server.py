"""The blob server (protocol 2, section 8.5), over real connections."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import socket
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest

from daemon.fakes import eventually
from runtimed_ffi.daemon.channels import blob_pages
from runtimed_ffi.daemon.channels.blob_server import BlobServer

LIMIT = 30.0
HASH = "ab" + "0" * 62


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Server:
    """A server in this loop with a blob directory that the test fills."""

    def __init__(self, directory: Path, plain_urls: bool) -> None:
        self.directory = directory
        self.server = BlobServer(str(directory), plain_urls)
        self.server.start()
        self.port = self.server.address.port

    def put(self, data: bytes, media_type: Any = "text/plain", name: str = HASH) -> None:
        shard = self.directory / name[:2]
        shard.mkdir(parents=True, exist_ok=True)
        (shard / name[2:]).write_bytes(data)
        if media_type is not None:
            (shard / (name[2:] + ".meta")).write_text(json.dumps({"media_type": media_type}))

    async def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        def exchange() -> Answer:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
            try:
                connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
                answer = connection.getresponse()
                return Answer(answer.status, answer.msg, answer.read())
            finally:
                connection.close()

        return await asyncio.get_running_loop().run_in_executor(None, exchange)


def serving(directory: Path, body: Callable[[Server], Awaitable[None]], plain_urls: bool = True) -> None:
    async def whole() -> None:
        server = Server(directory, plain_urls)
        try:
            await asyncio.wait_for(body(server), 2 * LIMIT)
        finally:
            await server.server.close()

    asyncio.run(whole())


@pytest.mark.parametrize("path", ["/blob/", "/blobs/"])
def test_a_blob_with_its_headers(tmp_path: Path, path: str) -> None:
    async def body(server: Server) -> None:
        server.put(b"hello", "image/png")
        answer = await server.ask(path + HASH + "?anything")
        assert (answer.status, answer.body) == (200, b"hello")
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["Content-Length"] == "5"
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        head = await server.ask(path + HASH, "HEAD")
        assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "5")

    serving(tmp_path, body)


def test_validators_and_ranges(tmp_path: Path) -> None:
    async def body(server: Server) -> None:
        server.put(b"0123456789")
        first = await server.ask("/blob/" + HASH)
        again = await server.ask("/blob/" + HASH, If_None_Match=first.headers["ETag"])
        assert (again.status, again.body) == (304, b"")
        assert again.headers["Access-Control-Allow-Origin"] == "*"
        assert (await server.ask("/blob/" + HASH, If_None_Match='"other"')).status == 200
        part = await server.ask("/blob/" + HASH, Range="bytes=2-4")
        assert (part.status, part.body, part.headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")
        assert (await server.ask("/blob/" + HASH, Range="bytes=-3")).body == b"789"
        beyond = await server.ask("/blob/" + HASH, Range="bytes=10-")
        assert (beyond.status, beyond.headers["Content-Range"]) == (416, "bytes */10")

    serving(tmp_path, body)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/blob/",
        "/blob/" + "0" * 64,
        "/blob/" + HASH + "/",
        "/blob/" + HASH.upper(),
        "/blob/" + HASH[:63],
        "/blob/../../secret",
        "/blob/ab/" + HASH[2:],
        "/blob/%2e%2e%2fsecret",
        "/blob/" + HASH + ".meta",
        "//blob/" + HASH,
        "/output/" + HASH,
    ],
)
def test_no_other_path_gives_anything(tmp_path: Path, path: str) -> None:
    async def body(server: Server) -> None:
        server.put(b"hello")
        (tmp_path.parent / "secret").write_text("secret")
        answer = await server.ask(path)
        assert (answer.status, answer.body) == (404, b"Not Found")

    serving(tmp_path, body)


def test_methods_and_health(tmp_path: Path) -> None:
    async def body(server: Server) -> None:
        server.put(b"hello")
        assert (await server.ask("/health"))[::2] == (200, b"OK")
        for method in ("POST", "PUT", "DELETE"):
            assert (await server.ask("/blob/" + HASH, method))[::2] == (405, b"Method Not Allowed")
        options = await server.ask("/blob/" + HASH, "OPTIONS", Origin="http://x")
        assert options.status == 204
        assert options.headers["Access-Control-Allow-Origin"] == "*"
        assert "Range" in options.headers["Access-Control-Allow-Headers"]

    serving(tmp_path, body)


def test_names_that_are_not_this_machine_are_refused(tmp_path: Path) -> None:
    async def body(server: Server) -> None:
        server.put(b"hello")
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", ""):
            assert (await server.ask("/blob/" + HASH, Host=host)).status == 403, host
        for host in ("localhost", "LOCALHOST:9", "127.0.0.1:1234", "[::1]:5"):
            assert (await server.ask("/blob/" + HASH, Host=host)).status == 200, host

    serving(tmp_path, body)


@pytest.mark.parametrize("media_type", [None, "", 5, "no type", "text/plain\r\nSet-Cookie: a=b", "text/plain\n"])
def test_without_a_media_type_it_is_a_stream_of_bytes(tmp_path: Path, media_type: Any) -> None:
    async def body(server: Server) -> None:
        server.put(b"hello", media_type)
        answer = await server.ask("/blob/" + HASH)
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert "Set-Cookie" not in answer.headers

    serving(tmp_path, body)


def test_images_are_decoded_on_request_only(tmp_path: Path) -> None:
    async def body(server: Server) -> None:
        pixels = bytes(range(256)) * 40
        for text in (base64.b64encode(pixels), base64.encodebytes(pixels)):
            server.put(text, "image/png")
            assert (await server.ask("/blob/" + HASH)).body == text, "clients of the protocol expect base64"
            answer = await server.ask("/blob/" + HASH + "?decode=1")
            assert (answer.body, answer.headers["Content-Type"]) == (pixels, "image/png")
            assert answer.headers["ETag"] != (await server.ask("/blob/" + HASH)).headers["ETag"]
            again = await server.ask("/blob/" + HASH + "?decode=1", If_None_Match=answer.headers["ETag"])
            assert (again.status, again.body) == (304, b"")
        server.put(b"\x89PNG\r\n", "image/png")
        assert (await server.ask("/blob/" + HASH + "?decode=1")).body == b"\x89PNG\r\n", "stored as bytes"
        server.put(b"aGVsbG8=", "text/plain; charset=utf-8")
        assert (await server.ask("/blob/" + HASH + "?decode=1")).body == b"aGVsbG8=", "text is text"

    serving(tmp_path, body)


def test_the_prefix_leads_to_the_same_and_can_be_demanded(tmp_path: Path) -> None:
    async def both(server: Server) -> None:
        server.put(b"hello")
        assert (await server.ask(server.server.address.prefix + "/blob/" + HASH)).status == 200
        assert (await server.ask("/blob/" + HASH)).status == 200

    async def secret(server: Server) -> None:
        server.put(b"hello")
        assert (await server.ask(server.server.address.prefix + "/blobs/" + HASH)).status == 200
        for path in ("/blob/", "/blobs/", "/" + "0" * 32 + "/blob/"):
            assert (await server.ask(path + HASH)).status == 404
        assert (await server.ask("/health")).status == 200

    serving(tmp_path, both)
    serving(tmp_path, secret, plain_urls=False)


def test_a_large_blob_arrives_whole(tmp_path: Path) -> None:
    async def body(server: Server) -> None:
        data = bytes(range(256)) * 4 * 20_000
        server.put(data, "application/octet-stream")
        answer = await server.ask("/blob/" + HASH)
        assert answer.body == data
        assert (await server.ask("/blob/" + HASH, Range="bytes=20000000-")).body == data[20_000_000:]

    serving(tmp_path, body)


async def _ended(client: socket.socket) -> None:
    """Wait until the server has closed the connection."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            data = await asyncio.wait_for(loop.sock_recv(client, 65536), LIMIT)
        except ConnectionError:
            return
        if not data:
            return


def test_silent_and_slow_clients_are_disconnected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_pages, "REQUEST_LIMIT", 0.2)
    monkeypatch.setattr(blob_pages, "ANSWER_LIMIT", 0.5)

    async def body(server: Server) -> None:
        loop = asyncio.get_running_loop()
        server.put(bytes(30_000_000), "application/octet-stream")
        with socket.create_connection(("127.0.0.1", server.port)) as silent:
            silent.setblocking(False)
            await loop.sock_sendall(silent, b"GET /blob/")
            await _ended(silent)
        with socket.create_connection(("127.0.0.1", server.port)) as slow:
            slow.setblocking(False)
            await loop.sock_sendall(slow, f"GET /blob/{HASH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            connections = server.server._pages._connections
            await eventually(lambda: connections.requests_count and not connections._ends)
        assert (await server.ask("/health")).status == 200

    serving(tmp_path, body)


def test_connections_beyond_the_limit_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_pages, "CONNECTION_LIMIT", 2)

    async def body(server: Server) -> None:
        held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
        try:
            with socket.create_connection(("127.0.0.1", server.port)) as third:
                third.setblocking(False)
                await _ended(third)
        finally:
            for connection in held:
                connection.close()
        await eventually(lambda: not server.server._pages._connections._ends)
        assert (await server.ask("/health")).status == 200

    serving(tmp_path, body)


def test_the_end_cuts_connections_and_gives_the_port_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_pages, "REQUEST_LIMIT", 3600.0)

    async def body(server: Server) -> None:
        assert (await server.ask("/health")).status == 200
        connections = server.server._pages._connections
        await eventually(lambda: not connections._ends)
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(client, b"GET /health")
            await eventually(lambda: bool(connections._ends))
            await server.server.close()
            await _ended(client)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))

    serving(tmp_path, body)


def test_nothing_is_loaded_before_the_first_request(tmp_path: Path) -> None:
    async def body(server: Server) -> None:
        assert server.server._opening is None

    serving(tmp_path, body)
