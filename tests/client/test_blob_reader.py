"""Outputs whose blobs are not on this machine's disk: over our daemon's blob server."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
from contextlib import contextmanager

import pytest

import runtimed_ffi
from runtimed_ffi._client import blob_reader
from runtimed_ffi._client.blob_reader import BlobReader
from runtimed_ffi.blobs import Blobs


@pytest.fixture(scope="module", params=["plain", "secret"])
def daemon(request):
    with runtimed_ffi.Daemon(arguments=["--blob-urls", request.param]) as daemon:
        yield daemon


@pytest.fixture
def element(daemon):
    """A document element whose content is in blobs."""
    output = {"output_type": "stream", "name": "stdout", "text": "line\n" * 5000}
    with Blobs(os.path.join(daemon.directory, "blobs")) as blobs:
        element = blobs.store_output(output)
    assert len(element) == 64
    return element


def test_by_the_file_beside_the_socket(daemon, element, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    for directory in (None, os.path.join(daemon.directory, "missing")):
        output = BlobReader(daemon.socket_path, directory).output(element)
        assert output.text == "line\n" * 5000


@pytest.mark.parametrize("content", [None, "[]", "{}", '{"blob_port": "x"}'])
def test_by_the_blob_channel(daemon, element, content):
    path = os.path.join(daemon.directory, "daemon.json")
    with open(path) as file:
        kept = file.read()
    os.unlink(path)
    try:
        if content is not None:
            with open(path, "w") as file:
                file.write(content)
        assert BlobReader(daemon.socket_path, None).output(element).text == "line\n" * 5000
    finally:
        with open(path, "w") as file:
            file.write(kept)


def test_a_missing_blob_is_reported(daemon):
    output = BlobReader(daemon.socket_path, None).output("0" * 64)
    assert output.text == "Failed to parse output: " + "0" * 64


@contextmanager
def blob_server(directory, *answers):
    """A program at the port of a blob server that sends these bytes, one after the other, and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            for answer in answers:
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(20)
                    connection.recv(65536)
                    for part in [answer] if isinstance(answer, bytes) else answer:
                        connection.sendall(part)

        thread = threading.Thread(target=serve)
        thread.start()
        (directory / "daemon.json").write_text(json.dumps({"blob_port": server.getsockname()[1]}))
        yield BlobReader(str(directory / "socket"), None)
        thread.join(20)
        assert not thread.is_alive()


def answer_of(content, length=None):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content) if length is None else length, content)


DEEP = b"[" * 100_000
CUT = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\ncut"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 418 No\r\n\r\n",
        answer_of(b"other content"),
        answer_of(b"cut off", 100),
        CUT,
        answer_of(DEEP),
    ],
)
def test_any_failure_of_the_blob_server_is_an_unreadable_output(tmp_path, answer):
    name = hashlib.sha256(DEEP).hexdigest()
    with blob_server(tmp_path, answer) as reader:
        assert reader.output(name).text == f"Failed to parse output: {name}"


def test_a_server_that_is_too_slow_is_disconnected(tmp_path, monkeypatch):
    monkeypatch.setattr(blob_reader, "_TRANSFER_SECONDS", -1.0)
    content = b'{"output_type":"stream"}'
    name = hashlib.sha256(content).hexdigest()
    with blob_server(tmp_path, answer_of(content)) as reader:
        assert reader.output(name).text == f"Failed to parse output: {name}"
