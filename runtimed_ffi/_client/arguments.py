"""Checks of arguments, with the texts of the `runtimed` package.

Storey 6 (client); imports nothing of the package. All checks happen before anything is sent or changed.
"""

from __future__ import annotations

import math
import operator
from typing import Any

_SIZE_LIMIT = 1 << 64
_INT64_MAX = (1 << 63) - 1


def text(name: str, value: Any) -> str:
    """A `str` that can be written as UTF-8.

    Raises:
        TypeError: not a `str`.
        UnicodeEncodeError: it holds a lone surrogate.
    """
    if not isinstance(value, str):
        raise TypeError(f"argument '{name}': '{type(value).__name__}' object is not an instance of 'str'")
    value.encode("utf-8")
    return value


def index(name: str, value: Any) -> int:
    """A non-negative position.

    Raises:
        TypeError: not an integer.
        OverflowError: negative, or too large for any list.
    """
    try:
        number = operator.index(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"argument '{name}': '{kind}' object cannot be interpreted as an integer") from None
    if number < 0:
        raise OverflowError("can't convert negative int to unsigned")
    if number >= _SIZE_LIMIT:
        raise OverflowError("int too big to convert")
    return min(number, _INT64_MAX)


def timeout(name: str, value: Any) -> float | None:
    """A time limit in seconds: `None` is no limit, `0` has already passed.

    Raises:
        TypeError: not a number.
        ValueError: negative, infinite or not a number.
    """
    if value is None:
        return None
    try:
        seconds = math.fsum([value])
    except TypeError:
        raise TypeError(f"argument '{name}': must be real number, not {type(value).__name__}") from None
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"argument '{name}': must be a finite number of seconds, not negative, or None: {value!r}")
    return seconds


def milliseconds(seconds: float | None) -> int:
    """The limit as the library wants it: whole milliseconds, rounded up; negative means none."""
    if seconds is None:
        return -1
    return min(math.ceil(seconds * 1000), _INT64_MAX // 2) if seconds < 1e15 else _INT64_MAX // 2
