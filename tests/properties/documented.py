"""The result codes that the header promises for each function; nothing else may come."""

from __future__ import annotations

import re
from pathlib import Path

from runtimed_ffi._binding.ffi import last_error, lib, result_name

_HEADER = Path(__file__).parents[2] / "csrc" / "include" / "runtimed_ffi.h"
_FUNCTION = re.compile(r"((?:^ *///.*\n)+)rtd_result (rtd_\w+)\(", re.MULTILINE)


def _read() -> dict[str, set[int]]:
    texts = {}
    for comment, name in _FUNCTION.findall(_HEADER.read_text()):
        words = " ".join(line.strip(" /") for line in comment.splitlines())
        texts[name] = re.split(r"\\threads|\\param", words.partition(r"\return")[2])[0]

    def codes(name: str) -> set[int]:
        found = {getattr(lib, code) for code in re.findall(r"RTD_(?:OK|E_\w+)", texts[name])}
        for other in re.findall(r"as (rtd_\w+)\(\)", texts[name]):
            found |= codes(other)
        return found

    return {name: codes(name) for name in texts}


CODES = _read()


def call(name: str, *arguments: object) -> int:
    """Call a function of the library and check that its result is one of those the header names for it.

    No test here makes the library fail, so that a panic, which any function may report, is a failure.
    """
    code: int = getattr(lib, name)(*arguments)
    assert code in CODES[name], f"{name} answered {result_name(code)} ({last_error()}), which its comment does not name"
    return code
