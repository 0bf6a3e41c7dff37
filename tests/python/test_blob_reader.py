"""Outputs whose blobs are not on this machine's disk: over our daemon's blob server."""

from __future__ import annotations

import os

import pytest

import runtimed_ffi
from runtimed_ffi._blobs import BlobReader
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


def test_what_is_not_there_is_said(daemon):
    output = BlobReader(daemon.socket_path, None).output("0" * 64)
    assert output.text == "Failed to parse output: " + "0" * 64
