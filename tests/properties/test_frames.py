"""Frames through the C ABI: any split, any garbage, both limits. Source: protocol 2, section 2."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from properties.documented import call
from runtimed_ffi._binding.ffi import bytes_in, ffi, lib, new_buffer, take_buf
from runtimed_ffi.testing import strategies
from runtimed_ffi.testing.profiles import examples
from runtimed_ffi.testing.wire import CONTROL_LIMIT, DATA_LIMIT, frame


class Decoder:
    def __init__(self, limit: int = DATA_LIMIT) -> None:
        out = ffi.new("rtd_decoder **")
        assert call("rtd_decoder_new", limit, out) == lib.RTD_OK
        self.handle = ffi.gc(out[0], lib.rtd_decoder_free)

    def push(self, data: bytes) -> None:
        assert call("rtd_decoder_push", self.handle, *bytes_in(data)) == lib.RTD_OK

    def next(self) -> tuple[int, bytes]:
        out = new_buffer()
        code = call("rtd_decoder_next", self.handle, out)
        return code, take_buf(out)

    def take(self) -> list[bytes]:
        """All frames that are whole."""
        frames = []
        while True:
            code, payload = self.next()
            if code != lib.RTD_OK:
                assert code == lib.RTD_E_AGAIN and payload == b""
                return frames
            frames.append(payload)

    def finish(self) -> int:
        return call("rtd_decoder_finish", self.handle)


def encode(kind: int, payload: bytes) -> tuple[int, bytes]:
    out = new_buffer()
    code = call("rtd_frame_encode", kind, *bytes_in(payload), out)
    return code, take_buf(out)


@examples()
@given(st.integers(-(2**31), 2**31 - 1) | st.integers(-3, 5), st.binary(max_size=300))
def test_a_frame_is_length_type_and_payload(kind: int, payload: bytes) -> None:
    code, data = encode(kind, payload)
    if kind == lib.RTD_FRAME_UNTYPED:
        assert (code, data) == (lib.RTD_OK, frame(payload))
    elif 0 <= kind <= 3:
        assert (code, data) == (lib.RTD_OK, frame(bytes([kind]) + payload))
    else:
        assert (code, data) == (lib.RTD_E_ARG, b"")


@examples()
@given(st.data(), strategies.payloads())
def test_any_split_gives_the_same_frames(data: st.DataObject, payloads: list[bytes]) -> None:
    decoder, frames = Decoder(), []
    for piece in data.draw(strategies.split(b"".join(map(frame, payloads)))):
        decoder.push(piece)
        if data.draw(st.booleans()):
            frames += decoder.take()
    assert decoder.finish() == lib.RTD_OK
    assert frames + decoder.take() == payloads
    assert decoder.finish() == lib.RTD_OK


@examples()
@given(st.data(), st.lists(st.binary(max_size=20), max_size=3), st.binary(max_size=20))
def test_an_end_inside_a_frame_is_an_error_and_one_between_two_is_not(
    data: st.DataObject, payloads: list[bytes], last: bytes
) -> None:
    whole, torn = b"".join(map(frame, payloads)), frame(last)
    cut = data.draw(st.integers(0, len(torn) - 1))
    decoder = Decoder()
    for piece in data.draw(strategies.split(whole + torn[:cut])):
        decoder.push(piece)
    expected = lib.RTD_E_PROTOCOL if cut else lib.RTD_OK
    assert decoder.finish() == expected
    assert decoder.take() == payloads
    assert decoder.finish() == expected


@examples()
@given(st.data(), st.integers(0, 300) | st.sampled_from([CONTROL_LIMIT, DATA_LIMIT]), st.integers(-3, 3))
def test_a_limit_is_kept_to_the_byte_and_an_excess_is_final(data: st.DataObject, limit: int, more: int) -> None:
    length = max(0, limit + more)
    decoder = Decoder(limit)
    header = struct.pack(">I", length)
    for piece in data.draw(strategies.split(frame(b"")[:4] + header)):
        decoder.push(piece)
    assert decoder.next() == (lib.RTD_OK, b"")
    if length > limit:
        # The header alone is enough; the announced payload is neither waited for nor read.
        for _ in range(2):
            assert decoder.next() == (lib.RTD_E_TOO_BIG, b"")
            decoder.push(frame(b""))
        assert decoder.finish() == lib.RTD_E_TOO_BIG
    elif length < 1000:
        decoder.push(bytes(length))
        assert decoder.next() == (lib.RTD_OK, bytes(length))
    else:
        assert decoder.next() == (lib.RTD_E_AGAIN, b"")


@pytest.mark.parametrize("kind", [lib.RTD_FRAME_UNTYPED, lib.RTD_FRAME_SYNC])
def test_the_largest_frame_can_be_written_and_read_and_no_larger_one(kind: int) -> None:
    most = DATA_LIMIT - (kind != lib.RTD_FRAME_UNTYPED)
    body = bytes(most)
    code, data = encode(kind, body)
    assert code == lib.RTD_OK and len(data) == 4 + DATA_LIMIT and data[:4] == b"\x06\x40\0\0"
    decoder = Decoder()
    decoder.push(data)
    code, payload = decoder.next()
    assert code == lib.RTD_OK and len(payload) == DATA_LIMIT
    assert encode(kind, bytes(most + 1)) == (lib.RTD_E_TOO_BIG, b"")


@examples(2)
@given(st.data(), strategies.garbage(), st.sampled_from([0, 8, CONTROL_LIMIT, DATA_LIMIT]))
@example(None, b"GET / HTTP/1.1\r\n\r\n", DATA_LIMIT)
def test_garbage_is_frames_or_an_error_and_nothing_else(data: Any, noise: bytes, limit: int) -> None:
    """The decoder against a plain reader, whatever the bytes and the pieces they come in."""
    expected, at, failed = [], 0, False
    while len(noise) - at >= 4:
        (length,) = struct.unpack_from(">I", noise, at)
        failed = length > limit
        if failed or len(noise) - at - 4 < length:
            break
        expected.append(noise[at + 4 : at + 4 + length])
        at += 4 + length
    decoder, frames, code = Decoder(limit), [], lib.RTD_E_AGAIN
    for piece in [noise] if data is None else data.draw(strategies.split(noise)):
        decoder.push(piece)
        while True:
            code, payload = decoder.next()
            if code != lib.RTD_OK:
                break
            frames.append(payload)
    assert frames == expected
    assert code == (lib.RTD_E_TOO_BIG if failed else lib.RTD_E_AGAIN)
    ends = lib.RTD_E_TOO_BIG if failed else lib.RTD_E_PROTOCOL if at < len(noise) else lib.RTD_OK
    assert decoder.finish() == ends


def test_null_is_an_error_and_empty_is_not() -> None:
    decoder, out = Decoder(), new_buffer()
    assert call("rtd_decoder_new", 1, ffi.NULL) == lib.RTD_E_NULL
    assert call("rtd_decoder_push", decoder.handle, ffi.NULL, 0) == lib.RTD_OK
    assert call("rtd_decoder_push", decoder.handle, ffi.NULL, 1) == lib.RTD_E_NULL
    assert call("rtd_decoder_push", ffi.NULL, ffi.NULL, 0) == lib.RTD_E_NULL
    assert call("rtd_decoder_next", ffi.NULL, out) == lib.RTD_E_NULL
    decoder.push(frame(b"x"))
    assert call("rtd_decoder_next", decoder.handle, ffi.NULL) == lib.RTD_E_NULL
    assert call("rtd_decoder_finish", ffi.NULL) == lib.RTD_E_NULL
    assert call("rtd_frame_encode", 0, ffi.NULL, 1, out) == lib.RTD_E_NULL
    assert call("rtd_frame_encode", 0, ffi.NULL, 0, ffi.NULL) == lib.RTD_E_NULL
