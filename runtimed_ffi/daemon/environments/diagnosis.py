"""Why an environment could not be made, and what to do about it.

Storey: daemon (7).  The programs that make environments report the same few problems in many words; in a notebook, out
of context, one sentence must say what to do.
"""

from __future__ import annotations

import re

from runtimed_ffi.daemon.environments.tools import ToolError

_FULL = re.compile(
    r"no space left|disk quota exceeded|not enough (?:free )?(?:disk )?space|os error (?:28|122)\b", re.I
)
_OFFLINE = re.compile(
    r"dns error|could ?n[o']t resolve|failed to lookup|name resolution|connection refused|network is unreachable"
    r"|error sending request|connect(?:ion)? (?:error|timed out|timeout)|network (?:was|is) disabled"
    r"|connectionfailed|condahttperror|download error|operation timed out",
    re.I,
)
_NAME = r"`?['\"]?([A-Za-z0-9][A-Za-z0-9._-]*)"
_UNKNOWN = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        _NAME + r"['\"`]? was not found",
        r"there (?:is|are) no versions? of " + _NAME,
        r"because only " + _NAME + r"[<=>][^\n]* (?:is|are) available",
        r"nothing provides (?:requested )?" + _NAME,
        r"PackagesNotFoundError.*\n(?:.*\n)*?\s+- " + _NAME,
        r"No candidates were found for " + _NAME,
        _NAME + r"[^\n]* does not exist \(perhaps a typo",
    )
)
_BROKEN = tuple(
    re.compile(pattern, re.I | re.M)
    for pattern in (
        r"failed to (?:build|download and build|download|prepare|read|unpack|install)[: ]+" + _NAME,
        r"failed to fetch[: ]+\S*/([A-Za-z0-9._-]+?)/?$",
    )
)


class BuildError(Exception):
    """An environment could not be made.

    The text begins with what to do; ``failed_package`` is the package at fault, if the program named one.
    """

    def __init__(self, message: str, failed_package: str | None = None) -> None:
        super().__init__(message)
        self.failed_package = failed_package


def explain(error: ToolError, directory: str) -> BuildError:
    """What a failed program means for an environment in ``directory``."""
    text = error.output
    package = _first(_UNKNOWN, text)
    if _FULL.search(text):
        advice = (
            f"no space left: free some space for {directory} and the package cache (`uv cache clean`, `conda clean`)"
        )
        return BuildError(_joined(advice, error), _first(_BROKEN, text))
    if _OFFLINE.search(text):
        advice = (
            "the package index cannot be reached: check the network, or name a mirror or a directory of packages "
            "(UV_DEFAULT_INDEX, UV_FIND_LINKS with UV_OFFLINE=1, conda's channels)"
        )
        return BuildError(_joined(advice, error))
    if package is not None:
        return BuildError(_joined(f"there is no package {package} that fits: check name and version", error), package)
    if error.reason.startswith("not finished"):
        return BuildError(_joined(f"{error.program} was too slow: try again, what it has downloaded is kept", error))
    return BuildError(_joined(f"{error.program} failed", error), _first(_BROKEN, text))


def _joined(advice: str, error: ToolError) -> str:
    return f"{advice} ({error.program}: {error.reason})" + (f"\n{error.output}" if error.output else "")


def _first(patterns: tuple[re.Pattern[str], ...], text: str) -> str | None:
    for pattern in patterns:
        found = pattern.search(text)
        if found is not None:
            return found.group(1).rstrip(".")
    return None
