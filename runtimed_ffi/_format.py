"""Texts that must look as the `runtimed` package prints them: quoted strings and numbers of seconds.

Storey 5 (values); imports nothing of the package. Source: python-api, sections 1.3 and 1.6.
"""

import unicodedata
from decimal import Decimal

_SHORT = {"\0": "\\0", "\t": "\\t", "\n": "\\n", "\r": "\\r", '"': '\\"', "\\": "\\\\"}

# Spacing marks (category Mc) that Unicode counts as grapheme extending; of the other categories all of Mn and Me are.
_EXTENDING = frozenset(
    "\u09be\u09d7\u0b3e\u0b57\u0bbe\u0bd7\u0cc2\u0cd5\u0cd6\u0d3e\u0d57\u0dcf\u0ddf\u1b35\u302e\u302f\uff9e\uff9f"
    "\U0001133e\U00011357\U000114b0\U000114bd\U000115af\U00011930\U0001d165\U0001d16e\U0001d16f\U0001d170"
    "\U0001d171\U0001d172"
)


def quoted(text: str) -> str:
    r"""Text in double quotes, with the escapes of Rust's debug format.

    Quote, backslash, newline, tab, return and NUL get a backslash; everything unprintable, and every character that
    would join the one before it, becomes ``\u{hex}``; other characters stay.
    """
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    short = _SHORT.get(character)
    if short is not None:
        return short
    if character.isascii() and character.isprintable():
        return character
    extends = character in _EXTENDING or unicodedata.category(character) in ("Mn", "Me")
    if extends or not character.isprintable():
        return f"\\u{{{ord(character):x}}}"
    return character


def seconds_text(seconds: float) -> str:
    """A number of seconds in the shortest plain decimal form: ``60``, ``0.5``, ``0.0000001``; never an exponent."""
    text = format(Decimal(repr(float(seconds))), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
