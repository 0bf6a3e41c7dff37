"""What both emulators are made of: frames in plain Python, documents and sync states of the library's pure tier.

Source: protocol 2, sections 2, 5.1 and 7.1.  Nothing here uses the connections of the library.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from runtimed_ffi._ffi import AGAIN, bytes_in, check, ffi, lib, new_buffer, take_buf, text_in

SYNC, REQUEST, RESPONSE, BROADCAST = range(4)
NAMES = {SYNC: "AutomergeSync", REQUEST: "Request", RESPONSE: "Response", BROADCAST: "Broadcast"}
DATA_LIMIT = 104_857_600
CONTROL_LIMIT = 65_536

Json = dict[str, Any]


class Document:
    """A replica: empty (a client's), or with the structure of a new room."""

    def __init__(self, notebook_id: str | None = None) -> None:
        out = ffi.new("rtd_doc **")
        if notebook_id is None:
            check(lib.rtd_doc_new(out))
        else:
            check(lib.rtd_doc_create(*text_in(notebook_id), out))
        self.handle = ffi.gc(out[0], lib.rtd_doc_free)

    def edit(self, *ops: Json) -> None:
        check(lib.rtd_doc_edit(self.handle, *bytes_in(json.dumps(ops).encode())))

    def cells(self) -> list[Json]:
        out = new_buffer()
        check(lib.rtd_doc_cells(self.handle, out))
        return list(json.loads(take_buf(out)))

    def cell(self, cell_id: str) -> Json | None:
        return next((cell for cell in self.cells() if cell["id"] == cell_id), None)

    def outputs(self, cell_id: str) -> list[str]:
        cell = self.cell(cell_id)
        return [] if cell is None else list(cell["outputs"])

    def heads(self) -> bytes:
        out = new_buffer()
        check(lib.rtd_doc_heads(self.handle, out))
        return take_buf(out)


class SyncState:
    """What one connection knows of the other side's replica."""

    def __init__(self) -> None:
        out = ffi.new("rtd_sync **")
        check(lib.rtd_sync_new(out))
        self.handle = ffi.gc(out[0], lib.rtd_sync_free)

    def generate(self, document: Document) -> bytes | None:
        out = new_buffer()
        code = lib.rtd_sync_generate(self.handle, document.handle, out)
        if code == AGAIN:
            return None
        check(code)
        return take_buf(out)

    def receive(self, document: Document, message: bytes) -> None:
        check(lib.rtd_sync_receive(self.handle, document.handle, *bytes_in(message)))

    def converged(self, document: Document) -> bool:
        out = ffi.new("int32_t *")
        check(lib.rtd_sync_converged(self.handle, document.handle, out))
        return bool(out[0])


def announcement(document: Document) -> bytes:
    """A sync message as a filter makes it that is wrong about every change: the heads, and nothing else."""
    heads = document.heads()
    count = bytes([len(heads) // 32])
    return b"\x43" + count + heads + b"\0" + b"\x01" + count + heads + b"\0" + b"\0"


def saturate(message: bytes) -> bytes:
    """A sync message whose filters say of every change that it is there: the peer will withhold what it has."""
    at = 1

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    for _ in range(2):  # heads, need
        count = number()
        at += 32 * count
    out = bytearray()
    copied = 0
    for _ in range(number()):  # have: last_sync, filter
        count = number()
        at += 32 * count
        out += message[copied:at]
        length = number()
        at += length
        copied = at
        out += b"\x05" + b"\x01\x0a\x07" + b"\xff\xff"  # 1 entry of 10 bits, 7 probes, all bits set
    return bytes(out) + message[copied:]


def encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def read_exactly(connection: socket.socket, count: int) -> bytes:
    """Raises `EOFError` at the end of the stream."""
    parts = []
    while count:
        part = connection.recv(min(count, 1 << 20))
        if not part:
            raise EOFError("Disconnected")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def read_frame(connection: socket.socket, limit: int = DATA_LIMIT) -> bytes:
    (length,) = struct.unpack(">I", read_exactly(connection, 4))
    assert length <= limit, f"frame too large: {length} bytes (max {limit})"
    return read_exactly(connection, length)


def frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload
