"""Documents and sync states without connections: the library's pure tier, and sync messages made by hand.

Storey: testing. Source: protocol 2, sections 5.5 and 7.1.
"""

from __future__ import annotations

import json

from runtimed_ffi._binding.ffi import AGAIN, CData, bytes_in, check, ffi, lib, new_buffer, take_buf, text_in
from runtimed_ffi.testing.wire import Json, Violation, encode


class Replica:
    """One copy of a notebook: empty (a client's), or with the structure of a new room when a notebook id is given.

    Freed when it is collected. Threads: every method may be called from any thread.
    """

    def __init__(self, notebook_id: str | None = None) -> None:
        out = ffi.new("rtd_doc **")
        if notebook_id is None:
            check(lib.rtd_doc_new(out))
        else:
            check(lib.rtd_doc_create(*text_in(notebook_id), out))
        self.handle: CData = ffi.gc(out[0], lib.rtd_doc_free)

    @classmethod
    def load(cls, data: bytes) -> Replica:
        """A saved document. Raises (code ``RTD_E_CORRUPT``) if it is none."""
        out = ffi.new("rtd_doc **")
        check(lib.rtd_doc_load(*bytes_in(data), out))
        replica = cls.__new__(cls)
        replica.handle = ffi.gc(out[0], lib.rtd_doc_free)
        return replica

    def save(self) -> bytes:
        """The whole document."""
        out = new_buffer()
        check(lib.rtd_doc_save(self.handle, out))
        return take_buf(out)

    def save_since(self, heads: bytes) -> bytes:
        """The changes since some `heads`."""
        out = new_buffer()
        check(lib.rtd_doc_save_since(self.handle, *bytes_in(heads), out))
        return take_buf(out)

    def edit(self, *ops: Json) -> None:
        """Apply operations (``rtd_doc_edit``) as one change, all or nothing."""
        check(lib.rtd_doc_edit(self.handle, *bytes_in(encode(ops))))

    def cells(self) -> list[Json]:
        """All cells in order."""
        out = new_buffer()
        check(lib.rtd_doc_cells(self.handle, out))
        return list(json.loads(take_buf(out)))

    def cell(self, cell_id: str) -> Json | None:
        """The first cell with this id."""
        return next((cell for cell in self.cells() if cell["id"] == cell_id), None)

    def outputs(self, cell_id: str) -> list[str]:
        """The outputs of a cell; empty if there is no such cell."""
        cell = self.cell(cell_id)
        return [] if cell is None else list(cell["outputs"])

    def metadata(self) -> dict[str, str]:
        """The strings of the metadata."""
        out = new_buffer()
        check(lib.rtd_doc_metadata(self.handle, out))
        return dict(json.loads(take_buf(out)))

    def heads(self) -> bytes:
        """The hashes of the newest changes, 32 bytes each. Equal heads mean equal documents."""
        out = new_buffer()
        check(lib.rtd_doc_heads(self.handle, out))
        return take_buf(out)

    def contains(self, heads: bytes) -> bool:
        """Whether all these changes are in it."""
        out = ffi.new("int32_t *")
        check(lib.rtd_doc_contains(self.handle, *bytes_in(heads), out))
        return bool(out[0])

    def fork(self, heads: bytes = b"") -> Replica:
        """A copy as it is now, or as it was at some heads."""
        out = ffi.new("rtd_doc **")
        check(lib.rtd_doc_fork(self.handle, *bytes_in(heads), out))
        replica = Replica.__new__(Replica)
        replica.handle = ffi.gc(out[0], lib.rtd_doc_free)
        return replica

    def merge(self, other: Replica) -> None:
        """Take in what another copy did."""
        check(lib.rtd_doc_merge(self.handle, other.handle))


class SyncState:
    """One connection's state of the other side's replica; starts empty, lives as long as the connection (7.1)."""

    def __init__(self) -> None:
        out = ffi.new("rtd_sync **")
        check(lib.rtd_sync_new(out))
        self.handle: CData = ffi.gc(out[0], lib.rtd_sync_free)

    def generate(self, document: Replica) -> bytes | None:
        """The next message; `None` when there is none to send now."""
        out = new_buffer()
        code = lib.rtd_sync_generate(self.handle, document.handle, out)
        if code == AGAIN:
            return None
        check(code)
        return take_buf(out)

    def receive(self, document: Replica, message: bytes) -> None:
        """Apply a message. Raises (code ``RTD_E_PROTOCOL``) if it does not decode; the document is then unchanged."""
        check(lib.rtd_sync_receive(self.handle, document.handle, *bytes_in(message)))

    def converged(self, document: Replica) -> bool:
        """Whether both copies are equal as far as the messages show."""
        out = ffi.new("int32_t *")
        check(lib.rtd_sync_converged(self.handle, document.handle, out))
        return bool(out[0])


def announcement(document: Replica) -> bytes:
    """A sync message with the heads only, as if its Bloom filter were wrong about every change.

    Also the barrier of section 5.5.
    """
    heads = document.heads()
    count = bytes([len(heads) // 32])
    return b"\x43" + count + heads + b"\0" + b"\x01" + count + heads + b"\0" + b"\0"


def announced_heads(message: bytes) -> set[bytes]:
    """The heads in a sync message (7.1). Raises `ValueError` if it is none."""
    count, at = _number(message, 1)
    if message[:1] not in (b"\x42", b"\x43") or at + 32 * count > len(message):
        raise ValueError("not a sync message")
    return {message[at + 32 * number : at + 32 * (number + 1)] for number in range(count)}


def saturate(message: bytes) -> bytes:
    """The same sync message with filters that claim every change: its receiver sends none."""
    at = 1
    for _ in range(2):  # heads, need
        count, at = _number(message, at)
        at += 32 * count
    out = bytearray()
    copied = 0
    haves, at = _number(message, at)
    for _ in range(haves):  # last_sync, filter
        count, at = _number(message, at)
        at += 32 * count
        out += message[copied:at]
        length, at = _number(message, at)
        at += length
        copied = at
        out += b"\x05" + b"\x01\x0a\x07" + b"\xff\xff"  # 1 entry of 10 bits, 7 probes, all bits set
    return bytes(out) + message[copied:]


def _number(message: bytes, at: int) -> tuple[int, int]:
    """The unsigned LEB128 number at a place, and the place behind it. Raises `ValueError` where there is none."""
    value = shift = 0
    while at < len(message):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
    raise ValueError("not a sync message")


def converge(replicas: list[Replica], rounds: int = 100) -> None:
    """Synchronise each replica with the first one, on fresh connections without loss, until none has a message to send.

    Raises:
        Violation: the exchange does not end within so many rounds.
    """
    links = [(replicas[0], SyncState(), other, SyncState()) for other in replicas[1:]]
    for _ in range(rounds):
        quiet = True
        for one, of_other, other, of_one in links:
            for sender, state, receiver, known in ((one, of_other, other, of_one), (other, of_one, one, of_other)):
                message = state.generate(sender)
                if message is not None:
                    known.receive(receiver, message)
                    quiet = False
        if quiet:
            return
    raise Violation(f"the exchange has not ended after {rounds} rounds")


__all__ = ["Replica", "SyncState", "announced_heads", "announcement", "converge", "saturate"]
