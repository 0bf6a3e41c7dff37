"""One blocking connection of a side channel (pool, blob): Python's socket, the library's framing, deadlines.

Storey 6 (client), on the pure tier of the library. Source: protocol 2, sections 2 to 4 and 8.6.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

from runtimed_ffi._binding.ffi import (
    AGAIN,
    OK,
    bytes_in,
    call_buf,
    call_handle,
    check,
    json_in,
    last_error,
    lib,
    new_buffer,
    take_buf,
)
from runtimed_ffi._binding.handle import Handle
from runtimed_ffi.errors import ProtocolError

CONNECT_SECONDS = 2.0
"""Limit for connecting."""
DATA_LIMIT: int = lib.RTD_LIMIT_DATA
"""Bytes of the longest frame, and of the largest blob."""
_CHUNK = 65536


def os_error_text(error: OSError) -> str:
    """The platform's text with its number, for instance ``No such file or directory (os error 2)``."""
    return str(error) if error.errno is None else f"{os.strerror(error.errno)} (os error {error.errno})"


def accepts(path: str) -> OSError | None:
    """Try to connect to a socket and hang up at once; `None` when it accepts, else what went wrong."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            _connect(probe, path)
        except OSError as error:
            return error
    return None


class Deadline:
    """A moment, `seconds` from now."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then; raises `socket.timeout` when it has passed."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise socket.timeout("timed out")
        return left


class WireConnection:
    """A framed connection after its handshake; closed by `close()` or the end of a `with` block.

    Args:
        path: the daemon's socket.
        handshake: the first frame.

    Raises:
        OSError: connecting failed; `socket.timeout` after 2 seconds.
    """

    def __init__(self, path: str, handshake: Mapping[str, Any]) -> None:
        self._decoder = _Decoder()
        self._first = _frame(handshake)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _connect(self._socket, path)
        except BaseException:
            self._socket.close()
            raise

    def send(self, message: Mapping[str, Any], deadline: Deadline) -> None:
        """Send one JSON message; the handshake goes out with the first, in one write.

        Raises:
            OSError: the peer has gone, or the deadline has passed (`socket.timeout`).
        """
        data, self._first = self._first + _frame(message), b""
        self._socket.settimeout(deadline.left())
        self._socket.sendall(data)

    def receive(self, deadline: Deadline) -> bytes:
        """The next frame.

        Raises:
            EOFError: the peer has closed the connection.
            OSError: the connection broke, or the deadline has passed (`socket.timeout`).
            ProtocolError: what came is no frame.
        """
        while True:
            frame = self._decoder.next()
            if frame is not None:
                return frame
            self._socket.settimeout(deadline.left())
            data = self._socket.recv(_CHUNK)
            if not data:
                raise EOFError("connection closed")
            self._decoder.push(data)

    def close(self) -> None:
        """Hang up. Idempotent."""
        self._socket.close()

    def __enter__(self) -> WireConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Decoder(Handle):
    """Splits a stream of bytes into frames."""

    NOUN = "frame decoder"
    FREE = lib.rtd_decoder_free
    may_be_dropped = True  # It holds memory only; the socket beside it complains.

    def __init__(self) -> None:
        self.handle = call_handle("rtd_decoder", lib.rtd_decoder_new, DATA_LIMIT)

    def push(self, data: bytes) -> None:
        """Add what was received."""
        check(lib.rtd_decoder_push(self._live(), *bytes_in(data)))

    def next(self) -> bytes | None:
        """The next frame; `None` when it is not complete. Raises `ProtocolError` when it is longer than allowed."""
        out = new_buffer()
        code = lib.rtd_decoder_next(self._live(), out)
        if code == OK:
            return take_buf(out)
        if code == AGAIN:
            return None
        raise ProtocolError(last_error())


def _connect(unconnected: socket.socket, path: str) -> None:
    """Connect within `CONNECT_SECONDS`; raises `OSError`, or `socket.timeout` after that time.

    The limit is the system's: with one of Python's the socket would not block, and then a full line of connections not
    yet accepted, as many clients at once make it, would be an error at once.
    """
    limit = struct.pack("@ll", int(CONNECT_SECONDS), 0)
    unconnected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    try:
        unconnected.connect(path)
    except BlockingIOError:
        raise socket.timeout("timed out") from None


def _frame(message: Mapping[str, Any]) -> bytes:
    return call_buf(lib.rtd_frame_encode, lib.RTD_FRAME_UNTYPED, *json_in(message))
