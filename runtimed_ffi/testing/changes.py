"""Automerge changes written by hand, for documents that no program of ours would make.

Storey: testing. Shares no code with the library. Source: the Automerge binary format (change chunks, column encodings);
protocol 2, section 7.1.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_MAGIC = b"\x85\x6f\x4a\x83"
_CHANGE = 1
_MAKE_MAP, _SET, _MAKE_LIST, _MAKE_TEXT = 0, 1, 2, 4


@dataclass(frozen=True)
class Text:
    """A Text object; an ordinary `str` is written as a scalar string."""

    content: str


@dataclass(frozen=True)
class Counter:
    """A counter with this value."""

    value: int


@dataclass(frozen=True)
class Timestamp:
    """Milliseconds since 1970."""

    value: int


def change(root: dict[str, Any], actor: bytes = b"\xc3" * 16) -> bytes:
    """One change that makes this content in an empty document.

    Two such changes of different actors, one behind the other, are a document that was begun twice: of the values for
    one key the one wins that has the greater number of operation, and of equal numbers the one of the greater actor.

    Args:
        root: values are `None`, `bool`, `int`, `float`, `str`, `bytes`, `Counter`, `Timestamp`, `Text`, `dict`, `list`.
        actor: the identity of its author.

    Returns:
        The bytes of a change chunk, as ``rtd_doc_load`` and other implementations of Automerge load them.
    """
    writer = _Writer()
    writer.map(None, root)
    body = _uleb(0) + _uleb(len(actor)) + actor + _uleb(1) + _uleb(1) + _sleb(0) + _uleb(0) + _uleb(0)
    columns = [(spec, data) for spec, data in writer.columns() if data]
    body += _uleb(len(columns))
    body += b"".join(_uleb(spec) + _uleb(len(data)) for spec, data in columns)
    body += b"".join(data for _, data in columns)
    chunk = bytes([_CHANGE]) + _uleb(len(body)) + body
    return _MAGIC + hashlib.sha256(chunk).digest()[:4] + chunk


@dataclass
class _Row:
    """One operation; references to operations are their numbers, for one actor is all there is."""

    object: int | None
    key: str | None
    after: int | None
    action: int
    value: Any = None


class _Writer:
    def __init__(self) -> None:
        self._rows: list[_Row] = []

    def _add(self, row: _Row) -> int:
        self._rows.append(row)
        return len(self._rows)

    def map(self, parent: int | None, content: dict[str, Any]) -> None:
        for key, value in content.items():
            self._value(parent, key, None, value)

    def _list(self, parent: int, content: Sequence[Any]) -> None:
        after = 0
        for value in content:
            after = self._value(parent, None, after, value)

    def _value(self, parent: int | None, key: str | None, after: int | None, value: Any) -> int:
        if isinstance(value, dict):
            made = self._add(_Row(parent, key, after, _MAKE_MAP))
            self.map(made, value)
        elif isinstance(value, list):
            made = self._add(_Row(parent, key, after, _MAKE_LIST))
            self._list(made, value)
        elif isinstance(value, Text):
            made = self._add(_Row(parent, key, after, _MAKE_TEXT))
            self._list(made, list(value.content))
        else:
            made = self._add(_Row(parent, key, after, _SET, value))
        return made

    def columns(self) -> list[tuple[int, bytes]]:
        """Numbers and bytes of the columns, in ascending order."""
        rows = self._rows
        actor = [None if row.object is None else 0 for row in rows]
        values = [_scalar(row.value) for row in rows]
        return [
            (0x01, _runs(actor, _uleb)),
            (0x02, _runs([row.object for row in rows], _uleb)),
            (0x11, _runs([0 if row.after else None for row in rows], _uleb)),
            (0x13, _runs(_deltas([row.after for row in rows]), _sleb)),
            (0x15, _runs([row.key for row in rows], _string)),
            (0x34, _booleans([row.key is None for row in rows])),
            (0x42, _runs([row.action for row in rows], _uleb)),
            (0x56, _runs([len(data) << 4 | kind for kind, data in values], _uleb)),
            (0x57, b"".join(data for _, data in values)),
            (0x70, _runs([0 for _ in rows], _uleb)),
        ]


def _scalar(value: Any) -> tuple[int, bytes]:
    """The type number and the bytes of a value."""
    if value is None:
        return 0, b""
    if isinstance(value, bool):
        return 2 if value else 1, b""
    if isinstance(value, int):
        return 4, _sleb(value)
    if isinstance(value, float):
        return 5, struct.pack("<d", value)
    if isinstance(value, str):
        return 6, value.encode()
    if isinstance(value, bytes):
        return 7, value
    if isinstance(value, Counter):
        return 8, _sleb(value.value)
    if isinstance(value, Timestamp):
        return 9, _sleb(value.value)
    raise TypeError(f"no value of a document: {value!r}")


def _uleb(number: int) -> bytes:
    out = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def _sleb(number: int) -> bytes:
    out = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        done = number == (-1 if low & 0x40 else 0)
        out.append(low | (0 if done else 0x80))
        if done:
            return bytes(out)


def _string(text: str) -> bytes:
    data = text.encode()
    return _uleb(len(data)) + data


def _deltas(numbers: Sequence[int | None]) -> list[int | None]:
    deltas: list[int | None] = []
    last = 0
    for number in numbers:
        deltas.append(None if number is None else number - last)
        last = last if number is None else number
    return deltas


def _booleans(flags: Sequence[bool]) -> bytes:
    """Lengths of the runs, the first one of `False`."""
    out, value, length = b"", False, 0
    for flag in flags:
        if flag != value:
            out += _uleb(length)
            value, length = flag, 0
        length += 1
    return out + _uleb(length)


def _runs(values: Sequence[Any], encode: Any) -> bytes:
    """Run lengths: `n value` for a repeated value, `-n values` for different ones, `0 n` for nulls."""
    if all(value is None for value in values):
        return b""
    out, at = b"", 0
    literal: list[Any] = []
    while at < len(values):
        end = at
        while end < len(values) and values[end] == values[at]:
            end += 1
        count, value = end - at, values[at]
        if value is not None and count == 1:
            literal.append(value)
        else:
            out, literal = out + _literal(literal, encode), []
            out += _sleb(0) + _uleb(count) if value is None else _sleb(count) + encode(value)
        at = end
    return out + _literal(literal, encode)


def _literal(values: Sequence[Any], encode: Any) -> bytes:
    return _sleb(-len(values)) + b"".join(map(encode, values)) if values else b""
