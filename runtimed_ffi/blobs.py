"""The blob store on disk, and the way between nbformat outputs and elements of the document.

Storey 6 (handles). A thin handle over `rtd_blobs_*` and `rtd_output_*` of the C library. Source of the formats:
protocol 2, section 8.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from runtimed_ffi._binding.ffi import (
    StrPath,
    bytes_in,
    call_buf,
    call_handle,
    call_json,
    ffi,
    json_in,
    lib,
    path_in,
    text_in,
)
from runtimed_ffi._binding.handle import Handle


class Blobs(Handle):
    """A content-addressed store in a directory, created with mode 0700 if it is missing.

    Threads: every method may be called from any thread, except `close`, which must not run beside another call.

    Raises:
        RuntimedError: it cannot be opened; the text is the operating system's.

    Example::

        with Blobs("blobs") as blobs:
            name = blobs.put(b"hello", "text/plain")
            assert blobs.get(name) == b"hello"
    """

    NOUN = "blob store"
    FREE = lib.rtd_blobs_free

    def __init__(self, directory: StrPath) -> None:
        self.directory = os.fsdecode(directory)
        self.handle = call_handle("rtd_blobs", lib.rtd_blobs_open, *path_in(directory))

    def put(self, data: bytes, media_type: str = "application/octet-stream") -> str:
        """Store bytes (at most 100 MiB) and return their hash, 64 lower-case hex digits. Storing twice is free."""
        return str(call_buf(lib.rtd_blobs_put, self._live(), *bytes_in(data), *text_in(media_type)), "ascii")

    def get(self, name: str) -> bytes:
        """The bytes with this hash.

        Raises:
            NotFoundError: there are none.
        """
        return call_buf(lib.rtd_blobs_get, self._live(), *text_in(name))

    def store_output(self, output: Mapping[str, Any]) -> str:
        """Turn an nbformat output into a document element: its JSON text if small, else the hash of a manifest.

        Everything the element refers to is on disk when this returns.
        """
        return str(call_buf(lib.rtd_output_store, self._live(), *json_in(dict(output))), "utf-8")

    def resolve_output(self, element: str) -> dict[str, Any]:
        """The nbformat output behind a document element.

        Raises:
            NotFoundError: a blob is missing.
            RuntimedError: the element is malformed.
        """
        return dict(call_json(lib.rtd_output_resolve, self._live(), *bytes_in(element.encode("utf-8"))))

    def __repr__(self) -> str:
        return f"<Blobs {self.directory!r}>"


def resolve_inline(element: str) -> dict[str, Any]:
    """As `Blobs.resolve_output`, for an element that refers to no blob. Needs no store."""
    return dict(call_json(lib.rtd_output_resolve, ffi.NULL, *bytes_in(element.encode("utf-8"))))
