"""Frames of protocol 2 in plain Python, sharing no code with the library.

Storey: testing. Source: protocol 2, sections 2, 3 and 5.1.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

Json = dict[str, Any]


class Violation(AssertionError):
    """The other side broke the protocol, or missed a deadline of it."""


SYNC, REQUEST, RESPONSE, BROADCAST = range(4)
"""Type bytes of the frames of a notebook channel (5.1)."""

NAMES = {SYNC: "AutomergeSync", REQUEST: "Request", RESPONSE: "Response", BROADCAST: "Broadcast"}

CONTROL_LIMIT = 65_536
"""Bytes that the first frame of a connection may have (2.2)."""

DATA_LIMIT = 104_857_600
"""Bytes that every later frame may have, the type byte included (2.2)."""


def encode(value: Any) -> bytes:
    """Compact JSON in UTF-8, characters as they are, as the reference writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def frame(payload: bytes) -> bytes:
    """One frame: the length in 4 bytes, big-endian, and the payload. Checks no limit."""
    return struct.pack(">I", len(payload)) + payload


def typed(kind: int, body: bytes) -> bytes:
    """One typed frame; `kind` is any number below 256."""
    return frame(bytes([kind]) + body)


def notebook_handshake(notebook_id: str, protocol: Any = "v2", **members: Any) -> bytes:
    """The frame that opens a notebook channel (section 3); `protocol` `None` leaves the member out."""
    hello: Json = {"channel": "notebook_sync", "notebook_id": notebook_id}
    if protocol is not None:
        hello["protocol"] = protocol
    return frame(encode({**hello, **members}))


def read_exactly(connection: socket.socket, count: int) -> bytes:
    """So many bytes of a blocking socket.

    Raises:
        EOFError: the stream ended before.
        OSError: as `recv`.
    """
    parts = []
    while count:
        part = connection.recv(min(count, 1 << 20))
        if not part:
            raise EOFError("Disconnected")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def read_frame(connection: socket.socket, limit: int = DATA_LIMIT) -> bytes:
    """The payload of the next frame of a blocking socket; also raises `Violation` for a length over the limit."""
    (length,) = struct.unpack(">I", read_exactly(connection, 4))
    if length > limit:
        raise Violation(f"frame too large: {length} bytes (max {limit})")
    return read_exactly(connection, length)
