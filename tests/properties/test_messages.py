"""JSON messages through the C ABI, handshakes among them.

Source: protocol 2, sections 3, 4, 5.6 to 5.8, 8.6, 11.2, 14.4.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from properties.documented import call
from runtimed_ffi._binding.ffi import bytes_in, lib, new_buffer, take_buf
from runtimed_ffi.testing import strategies
from runtimed_ffi.testing.profiles import examples
from runtimed_ffi.testing.strategies import KINDS, Sloppy
from runtimed_ffi.testing.wire import encode

NUMBERS = {kind: getattr(lib, "RTD_MESSAGE_" + kind.upper()) for kind in KINDS}


def check(kind: int, data: bytes) -> tuple[int, bytes]:
    out = new_buffer()
    code = call("rtd_message_check", kind, *bytes_in(data), out)
    return code, take_buf(out)


def test_the_kinds_are_those_of_the_header() -> None:
    assert sorted(NUMBERS.values()) == list(range(len(KINDS)))
    assert check(len(KINDS), b"{}")[0] == check(-1, b"{}")[0] == lib.RTD_E_ARG


@pytest.mark.parametrize("kind", KINDS)
def test_canonical_messages_read_back_to_the_byte(kind: str) -> None:
    @examples()
    @given(strategies.message(kind))
    def run(message: dict[str, object]) -> None:
        data = encode(message)
        assert check(NUMBERS[kind], data) == (lib.RTD_OK, data)

    run()


@pytest.mark.parametrize("kind", KINDS)
def test_order_space_escapes_and_unknown_members_do_not_matter(kind: str) -> None:
    @examples()
    @given(strategies.sloppy_message(kind))
    def run(case: Sloppy) -> None:
        assert check(NUMBERS[kind], case.sent) == (lib.RTD_OK, encode(case.meaning))

    run()


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_message_is_refused(kind: str) -> None:
    @examples()
    @given(strategies.broken_message(kind) | strategies.message(kind).map(lambda good: encode([*good.values()])))
    def run(data: bytes) -> None:
        assert check(NUMBERS[kind], data) == (lib.RTD_E_PROTOCOL, b"")

    run()


@examples()
@given(st.sampled_from(KINDS), st.binary(max_size=60) | strategies.json_value().map(encode))
def test_garbage_is_refused_or_reads_back(kind: str, data: bytes) -> None:
    code, canonical = check(NUMBERS[kind], data)
    assert code in (lib.RTD_OK, lib.RTD_E_PROTOCOL)
    if code == lib.RTD_OK:
        assert check(NUMBERS[kind], canonical) == (lib.RTD_OK, canonical)
