"""A notebook document without a room: a saved one that is read, or a copy of a room's that goes its own way.

Storey: client layer (6), beside ``host.py``.  A thin handle over ``rtd_doc_*`` of the C library.

Threads: every method may be called from any thread, except ``close``, which must not run beside another call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from runtimed_ffi._binding.ffi import check, ffi, lib, take_buf
from runtimed_ffi._binding.handle import Handle

Json = dict[str, Any]


class Document(Handle):
    """A handle that owns a document.

    Made by :meth:`load` or by ``Host.fork``; a context manager that frees it::

        with Document.load(data) as document:
            print(document.cells())
    """

    NOUN = "document"

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    @classmethod
    def load(cls, data: bytes) -> Document:
        """Read a saved document (a journal file).

        Raises an error (code ``RTD_E_CORRUPT`` or ``RTD_E_PROTOCOL``) if the bytes are no document.
        """
        out = ffi.new("rtd_doc **")
        check(lib.rtd_doc_load(data, len(data), out))
        return cls(out[0])

    def cells(self) -> list[Json]:
        """The cells in order: ``{"id", "cell_type", "source", "execution_count", "outputs"}`` each."""
        out = ffi.new("rtd_buf *")
        check(lib.rtd_doc_cells(self._live(), out))
        return list(json.loads(take_buf(out)))

    def cell(self, cell_id: str) -> Json:
        """One cell.  Raises ``Cell not found: <id>`` (code ``RTD_E_NOT_FOUND``)."""
        cell, out = cell_id.encode("utf-8"), ffi.new("rtd_buf *")
        check(lib.rtd_doc_cell(self._live(), cell, len(cell), out))
        return dict(json.loads(take_buf(out)))

    def metadata(self) -> dict[str, str]:
        """The ``/metadata`` map: strings by key."""
        out = ffi.new("rtd_buf *")
        check(lib.rtd_doc_metadata(self._live(), out))
        return dict(json.loads(take_buf(out)))

    def heads(self) -> bytes:
        """The hashes of the newest changes, 32 bytes each.  Equal heads mean equal documents."""
        out = ffi.new("rtd_buf *")
        check(lib.rtd_doc_heads(self._live(), out))
        return bytes(take_buf(out))

    def edit(self, ops: Sequence[Mapping[str, Any]]) -> None:
        """Apply operations (``rtd_doc_edit``) as one change, all or nothing."""
        data = json.dumps(list(ops), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        check(lib.rtd_doc_edit(self._live(), data, len(data)))

    def fork(self, heads: bytes | None = None) -> Document:
        """A copy as this document is, or as it was at some :meth:`heads`; the caller closes it.

        Raises (code ``RTD_E_NOT_FOUND``) for heads it never had.
        """
        past, out = heads or b"", ffi.new("rtd_doc **")
        check(lib.rtd_doc_fork(self._live(), past, len(past), out))
        return Document(out[0])

    def merge(self, other: Document) -> None:
        """Take in what another copy did; edits of a source merge by character.

        Raises (code ``RTD_E_ARG``) if it is no copy of this document.
        """
        check(lib.rtd_doc_merge(self._live(), other.handle))

    def contains(self, heads: bytes) -> bool:
        """Whether the document has all of these changes."""
        out = ffi.new("int32_t *")
        check(lib.rtd_doc_contains(self._live(), heads, len(heads), out))
        return bool(out[0])

    def _free(self, handle: Any) -> None:
        lib.rtd_doc_free(handle)
