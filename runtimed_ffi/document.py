"""A notebook document without a room: a saved one that is read, or a copy of a room's that goes its own way.

Storey 6 (handles), beside `host`. A thin handle over `rtd_doc_*` of the C library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtimed_ffi._binding.ffi import bytes_in, call_buf, call_handle, call_json, check, ffi, json_in, lib, text_in
from runtimed_ffi._binding.handle import Handle

Json = dict[str, Any]


class Document(Handle):
    """A handle that owns a document. Made by `load`, or by `Host.fork`.

    Threads: every method may be called from any thread, except `close`, which must not run beside another call.

    Example::

        with Document.load(data) as document:
            print(document.cells())
    """

    NOUN = "document"
    FREE = lib.rtd_doc_free

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    @classmethod
    def load(cls, data: bytes) -> Document:
        """Read a saved document (a journal file).

        Raises:
            CorruptError, ProtocolError: the bytes are no document.
        """
        return cls(call_handle("rtd_doc", lib.rtd_doc_load, *bytes_in(data)))

    def cells(self) -> list[Json]:
        """The cells in order: ``{"id", "cell_type", "source", "execution_count", "outputs"}`` each."""
        return list(call_json(lib.rtd_doc_cells, self._live()))

    def cell(self, cell_id: str) -> Json:
        """One cell.

        Raises:
            NotFoundError: `Cell not found: <id>`.
        """
        return dict(call_json(lib.rtd_doc_cell, self._live(), *text_in(cell_id)))

    def metadata(self) -> dict[str, str]:
        """The ``/metadata`` map: strings by key."""
        return dict(call_json(lib.rtd_doc_metadata, self._live()))

    def heads(self) -> bytes:
        """The hashes of the newest changes, 32 bytes each. Equal heads mean equal documents."""
        return call_buf(lib.rtd_doc_heads, self._live())

    def edit(self, ops: Sequence[Mapping[str, Any]]) -> None:
        """Apply operations (`rtd_doc_edit`) as one change, all or nothing.

        Raises:
            ArgumentError: an operation is malformed.
            NotFoundError: it is about a cell that is not there.
        """
        check(lib.rtd_doc_edit(self._live(), *json_in(list(ops))))

    def fork(self, heads: bytes | None = None) -> Document:
        """A copy as this document is, or as it was at some `heads`; the caller closes it.

        Raises:
            NotFoundError: the document never had these heads.
        """
        return Document(call_handle("rtd_doc", lib.rtd_doc_fork, self._live(), *bytes_in(heads or b"")))

    def merge(self, other: Document) -> None:
        """Take in what another copy did; edits of a source merge by character.

        Raises:
            ArgumentError: `other` is no copy of this document.
        """
        check(lib.rtd_doc_merge(self._live(), other._live()))

    def contains(self, heads: bytes) -> bool:
        """Whether the document has all of these changes."""
        out = ffi.new("int32_t *")
        check(lib.rtd_doc_contains(self._live(), *bytes_in(heads), out))
        return bool(out[0])
