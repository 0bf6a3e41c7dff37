"""Hypothesis strategies for everything that protocol 2 carries.

Storey: testing. Texts are chosen to be awkward: beyond the BMP, combining characters, joined emoji, CRLF, NUL.

Example::

    @given(strategies.sloppy_message("request"))
    def test_my_parser(case):
        assert my_parser(case.sent) == case.meaning
"""

from runtimed_ffi.testing.strategies.messages import (
    KINDS,
    Sloppy,
    broken_message,
    message,
    sloppy_message,
)
from runtimed_ffi.testing.strategies.notebooks import MODEL_IDS, edits, operation
from runtimed_ffi.testing.strategies.outputs import manifest, output
from runtimed_ffi.testing.strategies.streams import garbage, payloads, split
from runtimed_ffi.testing.strategies.text import json_value, text

__all__ = [
    "KINDS",
    "MODEL_IDS",
    "Sloppy",
    "broken_message",
    "edits",
    "garbage",
    "json_value",
    "manifest",
    "message",
    "operation",
    "output",
    "payloads",
    "sloppy_message",
    "split",
    "text",
]
