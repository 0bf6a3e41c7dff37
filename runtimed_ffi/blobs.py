"""The blob store on disk, and the way between nbformat outputs and elements of the document.

Storey: client layer (6).  A thin handle over ``rtd_blobs_*`` and ``rtd_output_*`` of the C library.  Source of the
formats: protocol 2, section 8.

Threads: every method may be called from any thread, except ``close``, which must not run beside another call.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from runtimed_ffi._binding.ffi import check, ffi, lib, take_buf
from runtimed_ffi._binding.handle import Handle


class Blobs(Handle):
    """A content-addressed store in a directory, created with mode 0700 if it is missing.

    Example::

        with Blobs("blobs") as blobs:
            name = blobs.put(b"hello", "text/plain")
            assert blobs.get(name) == b"hello"
    """

    NOUN = "blob store"

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        path = os.fsencode(os.fspath(directory))
        out = ffi.new("rtd_blobs **")
        check(lib.rtd_blobs_open(path, len(path), out))
        self.handle = out[0]
        self.directory = os.fsdecode(path)

    def put(self, data: bytes, media_type: str = "application/octet-stream") -> str:
        """Store bytes (at most 100 MiB) and return their hash, 64 lower-case hex digits.  Storing twice is free."""
        media, out = media_type.encode("utf-8"), ffi.new("rtd_buf *")
        check(lib.rtd_blobs_put(self._live(), data, len(data), media, len(media), out))
        return str(take_buf(out), "ascii")

    def get(self, name: str) -> bytes:
        """The bytes with this hash.  Raises (code ``RTD_E_NOT_FOUND``) if there are none."""
        raw, out = name.encode("utf-8"), ffi.new("rtd_buf *")
        check(lib.rtd_blobs_get(self._live(), raw, len(raw), out))
        return bytes(take_buf(out))

    def store_output(self, output: Mapping[str, Any]) -> str:
        """Turn an nbformat output into a document element: its JSON text if small, else the hash of a manifest.

        Everything the element refers to is on disk when this returns.
        """
        data = json.dumps(dict(output), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        out = ffi.new("rtd_buf *")
        check(lib.rtd_output_store(self._live(), data, len(data), out))
        return str(take_buf(out), "utf-8")

    def resolve_output(self, element: str) -> dict[str, Any]:
        """The nbformat output behind a document element.  Raises if a blob is missing or the element is malformed."""
        raw, out = element.encode("utf-8"), ffi.new("rtd_buf *")
        check(lib.rtd_output_resolve(self._live(), raw, len(raw), out))
        return dict(json.loads(take_buf(out)))

    def _free(self, handle: Any) -> None:
        lib.rtd_blobs_free(handle)

    def __repr__(self) -> str:
        return f"<Blobs {self.directory!r}>"
