"""The blob channel (protocol 2, section 8.6)."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest

from daemon.fakes import FakeBlobs, FakeHost
from daemon.stage import until
from runtimed_ffi.daemon.channels import blob_requests
from runtimed_ffi.daemon.channels.blob_requests import BlobRequests
from runtimed_ffi.daemon.channels.blob_server import BlobAddress


class GatedBlobs(FakeBlobs):
    """Stores when the test opens the gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.stored: list[tuple[bytes, str]] = []

    def put(self, data: bytes, media_type: str = "application/octet-stream") -> str:
        if len(data) > blob_requests.INLINE_LIMIT:
            assert self.gate.wait(30)
        if media_type == "fails":
            raise OSError("No space left on device")
        self.stored.append((data, media_type))
        return hashlib.sha256(data).hexdigest()


def answers(host: FakeHost) -> list[Any]:
    return [{key: value for key, value in item.items() if key != "token"} for item in host.responses()]


def test_port_and_small_contents_are_answered_at_once() -> None:
    async def body() -> None:
        host, blobs = FakeHost(), GatedBlobs()
        channel = BlobRequests(host, blobs, BlobAddress(4711, "/p"))
        channel.handle(1, "", b'{"action":"get_port"}')
        channel.handle(2, "text/plain", b"")
        channel.handle(3, "fails", b"x")
        assert answers(host) == [
            {"port": 4711, "prefix": "/p"},
            {"hash": hashlib.sha256(b"").hexdigest()},
            {"error": "No space left on device"},
        ]
        none = FakeHost()
        BlobRequests(none, blobs, None).handle(1, "", b"")
        assert answers(none) == [{"error": "blob server not running"}]
        await channel.close()

    asyncio.run(body())


def test_a_large_content_delays_no_request_and_is_stored_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    large = bytes(blob_requests.INLINE_LIMIT + 1)
    monkeypatch.setattr(blob_requests, "PENDING_LIMIT", 2 * len(large))

    async def body() -> None:
        host, blobs = FakeHost(), GatedBlobs()
        channel = BlobRequests(host, blobs, None)
        channel.handle(1, "image/png", large)
        channel.handle(2, "image/png", b"1" + large[1:])
        channel.handle(3, "image/png", large)
        channel.handle(4, "image/png", b"small")
        assert [item["token"] for item in host.responses()] == [3, 4]
        assert "try again" in answers(host)[0]["error"], "a content beyond the limit is refused with a clear error"
        blobs.gate.set()
        await channel.close()
        assert [item["token"] for item in host.responses()] == [3, 4, 1, 2]
        assert [data[:1] for data, _ in blobs.stored] == [b"s", b"\0", b"1"]

    asyncio.run(body())


def test_room_is_made_when_a_content_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    large = bytes(blob_requests.INLINE_LIMIT + 1)
    monkeypatch.setattr(blob_requests, "PENDING_LIMIT", len(large))

    async def body() -> None:
        host, blobs = FakeHost(), GatedBlobs()
        blobs.gate.set()
        channel = BlobRequests(host, blobs, None)
        for token in (1, 2):
            channel.handle(token, "image/png", large)
            await until(lambda token=token: len(host.responses()) == token)
        assert all("hash" in answer for answer in answers(host))
        await channel.close()

    asyncio.run(body())


def test_whole_daemon(tmp_path: Path) -> None:
    """Raw frames, as recorded: the content may be empty, and its media type unknown."""
    import json
    import socket

    runtimed_ffi = pytest.importorskip("runtimed_ffi", reason="the C library is not built")
    from daemon.test_service import LIMIT, _exactly, _send

    with runtimed_ffi.Daemon(tmp_path / "d") as daemon, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LIMIT)
        connection.connect(daemon.socket_path)
        _send(connection, {"channel": "blob"})

        def receive() -> Any:
            return json.loads(_exactly(connection, int.from_bytes(_exactly(connection, 4), "big")))

        contents = [(b"hello world", "text/plain"), (b"", ""), (bytes(5_000_000), "image/png"), (b"x", "text/plain")]
        for data, media_type in contents:  # All before the first answer is read.
            _send(connection, {"action": "store", "media_type": media_type})
            connection.sendall(len(data).to_bytes(4, "big") + data)
        _send(connection, {"action": "get_port"})
        for data, _ in contents:
            assert receive() == {"hash": hashlib.sha256(data).hexdigest()}, "in the order of the requests"
        info = json.loads(Path(daemon.directory, "daemon.json").read_text())
        assert receive() == {"port": info["blob_port"], "prefix": info["blob_prefix"]}
        name = hashlib.sha256(b"").hexdigest()
        sidecar = json.loads(Path(daemon.directory, "blobs", name[:2], name[2:] + ".meta").read_text())
        assert sidecar["media_type"] == "application/octet-stream"
