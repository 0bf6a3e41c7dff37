"""Texts and JSON values.

Storey: testing.
"""

from __future__ import annotations

from typing import Any

from runtimed_ffi.testing._hypothesis import strategies as st

PIECES = (
    *("a", "x = 1", " ", "\n", "\r\n", "\r", "\t", "\\", '"', "'", "{", "\0", "\x1f", "\x7f"),
    *("é", "e\u0301", "\u0301", "ö", "ß", "ﬁ", "中", "\ufeff", "\u2028", "\u00a0", "\u200d", "\ufffd"),
    *("😀", "𝕏", "👩\u200d👩\u200d👧", "🇩🇪", "\U0010ffff", "🏽"),
)
"""What texts are put together from: an index counted in bytes, UTF-16 units or characters as seen is wrong in them."""


def text(max_pieces: int = 10) -> st.SearchStrategy[str]:
    """Any text without lone surrogates (no UTF-8 has them), rich in what is awkward."""
    pieces = st.lists(st.sampled_from(PIECES), max_size=max_pieces).map("".join)
    return st.one_of(pieces, st.text(st.characters(exclude_categories=["Cs"]), max_size=max_pieces))


_NUMBERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-100, 100),
    st.integers(-1000, 1000).map(lambda number: number + 0.5),
)
_SCALARS: st.SearchStrategy[Any] = st.one_of(st.none(), st.booleans(), _NUMBERS, text(4))


def json_value() -> st.SearchStrategy[Any]:
    """A JSON value that every reader keeps exactly: integers of 64 bits, fractions without rounding."""
    return st.recursive(
        _SCALARS,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text(3), inner, max_size=3)),
        max_leaves=6,
    )
