"""Outputs that are too large for the document: their content by hash, from the blob directory or over HTTP.

Storey 6 (client). The library resolves what it finds on disk; this module fetches the rest, verifies it and lets the
library resolve it. Source: protocol 2, sections 8 and 12.4.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from runtimed_ffi._client.wire import DATA_LIMIT, Deadline, WireConnection
from runtimed_ffi.blobs import Blobs, resolve_inline
from runtimed_ffi.errors import CorruptError, RuntimedError
from runtimed_ffi.output import Output
from runtimed_ffi.places import INFO_NAME, read_info

_HASH = re.compile(r"[0-9a-fA-F]{64}\Z")
_SECONDS = 10.0
_TRANSFER_SECONDS = 60.0
"""Limit for the content of one blob, which comes from this machine."""
_CHUNK = 1 << 20
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Without the proxies of the environment: this machine is asked."""


class BlobReader:
    """Reads outputs for one connection.

    Args:
        socket_path: the daemon's socket; `daemon.json` beside it names the port of the blob server, and of our daemon
            the prefix of its paths.
        directory: the daemon's blob directory, if it is known and on this machine.

    Threads: may be used from any thread.
    """

    def __init__(self, socket_path: str, directory: str | None) -> None:
        self._socket_path = socket_path
        self._directory = directory
        self._server: str | None = None

    def output(self, payload: Any) -> Output:
        """An output from its nbformat object, or from a document element (nbformat text, or the hash of a manifest).

        Never raises for content that cannot be had: the output then says so, as `runtimed` does.
        """
        if isinstance(payload, Mapping):
            return Output.from_nbformat(payload)
        element = payload if isinstance(payload, str) else json.dumps(payload)
        try:
            return Output.from_nbformat(self._resolve(element))
        except (OSError, http.client.HTTPException, RuntimedError, ValueError, RecursionError):
            # The port may be another program's by now, and a manifest may hold anything.
            return unreadable(element)

    def _resolve(self, element: str) -> dict[str, Any]:
        if not _HASH.match(element):
            return resolve_inline(element)
        if self._directory is not None and os.path.isdir(self._directory):
            try:
                with Blobs(self._directory) as store:
                    return store.resolve_output(element)
            except RuntimedError:
                pass  # Incomplete or damaged on disk: the daemon may still serve it.
        with tempfile.TemporaryDirectory(prefix="runtimed-ffi-") as directory, Blobs(directory) as store:
            manifest = self._fetch(store, element.lower())
            for name in _references(json.loads(manifest)):
                self._fetch(store, name)
            return store.resolve_output(element)

    def _fetch(self, store: Blobs, name: str) -> bytes:
        """Copy a blob from the daemon's server into a store; the store computes the hash."""
        if self._server is None:
            self._server = self._find_server()
        with _OPENER.open(f"{self._server}/blob/{name}", timeout=_SECONDS) as answer:
            data = _read(answer)
        if store.put(data) != name:
            raise CorruptError(f"blob {name} has other content than its name says")
        return data

    def _find_server(self) -> str:
        info = read_info(os.path.join(os.path.dirname(self._socket_path), INFO_NAME))
        try:
            return _address(info["blob_port"], info.get("blob_prefix"))
        except (ValueError, KeyError, TypeError):
            pass  # No file beside the socket, or none with a port: ask the daemon.
        try:
            with WireConnection(self._socket_path, {"channel": "blob"}) as wire:
                deadline = Deadline(_SECONDS)
                wire.send({"action": "get_port"}, deadline)
                answer = json.loads(wire.receive(deadline))
                return _address(answer["port"], answer.get("prefix"))
        except (EOFError, KeyError, TypeError, AttributeError) as error:
            raise CorruptError("the daemon has no blob server") from error


def unreadable(raw: str, output_type: str | None = None) -> Output:
    """The output that stands for one that could not be read."""
    if output_type == "error":
        evalue = f"Failed to parse error output: {raw}"
        return Output("error", ename="OutputParseError", evalue=evalue, traceback=())
    return Output("stream", name="stderr", text=f"Failed to parse output: {raw}")


def _address(port: Any, prefix: Any) -> str:
    """The blob server's URL; the prefix is a member that daemons other than ours do not have."""
    return f"http://127.0.0.1:{int(port)}{prefix if isinstance(prefix, str) else ''}"


def _read(answer: Any) -> bytes:
    """The content of an answer, as far as it can be a blob. Raises `TimeoutError` for one that only trickles."""
    end, data = time.monotonic() + _TRANSFER_SECONDS, bytearray()
    while len(data) <= DATA_LIMIT and (chunk := answer.read1(_CHUNK)):
        data += chunk
        if time.monotonic() > end:
            raise TimeoutError("the blob server is too slow")
    return bytes(data)


def _references(value: Any) -> Iterator[str]:
    """The hashes a manifest refers to: content references `{"blob": hash, "size": n}` at any depth."""
    if isinstance(value, Mapping):
        name = value.get("blob")
        if isinstance(name, str) and _HASH.match(name):
            yield name.lower()
        for item in value.values():
            yield from _references(item)
