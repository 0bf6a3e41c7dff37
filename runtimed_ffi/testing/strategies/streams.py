"""Byte streams: payloads, the pieces a stream arrives in, and what is no stream at all.

Storey: testing. Source: protocol 2, section 2.
"""

from __future__ import annotations

import struct

from runtimed_ffi.testing._hypothesis import strategies as st
from runtimed_ffi.testing.wire import CONTROL_LIMIT, DATA_LIMIT


def payloads(max_size: int = 4) -> st.SearchStrategy[list[bytes]]:
    """Payloads of frames: empty ones, short ones, some of many kilobytes."""
    long = st.builds(lambda byte, length: bytes([byte]) * length, st.integers(0, 255), st.integers(1000, 200_000))
    return st.lists(st.one_of(st.binary(max_size=20), long), max_size=max_size)


@st.composite
def split(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in pieces: whole, one by one, or cut at any places; pieces may be empty."""
    if len(data) <= 300 and draw(st.booleans()):
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    edges = [0, *cuts, len(data)]
    return [data[start:end] for start, end in zip(edges, edges[1:])]


_LENGTHS = st.one_of(
    st.sampled_from([0, 1, CONTROL_LIMIT, CONTROL_LIMIT + 1, DATA_LIMIT, DATA_LIMIT + 1, 2**31, 2**32 - 1]),
    st.integers(0, 2**32 - 1),
)


def garbage() -> st.SearchStrategy[bytes]:
    """Bytes that are no valid stream: noise, lengths with anything behind them, text where a length is due."""
    announced = st.builds(lambda length, rest: struct.pack(">I", length) + rest, _LENGTHS, st.binary(max_size=40))
    words = st.sampled_from(
        [b"GET / HTTP/1.1\r\n\r\n", b'{"channel":"pool"}', b"\x16\x03\x01\x02\x00", b"\n", b"\0" * 9]
    )
    return st.one_of(st.binary(max_size=60), announced, words)
