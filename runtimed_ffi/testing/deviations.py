"""Documents that are not as the schema says, with what a reader must see in them.

Storey: testing. Source: protocol 2, section 7.2 (table of deviations).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runtimed_ffi.testing._hypothesis import strategies as st
from runtimed_ffi.testing.changes import Counter, Text, Timestamp, change
from runtimed_ffi.testing.strategies.text import text
from runtimed_ffi.testing.wire import Json

_MISSING = object()
_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.just(1.5),
    st.binary(max_size=3),
    st.builds(Counter, st.integers(-9, 9)),
    st.builds(Timestamp, st.integers(0, 2**40)),
)
"""Scalars that are no strings."""
_NO_LIST: st.SearchStrategy[Any] = st.one_of(_ODD, text(2), st.builds(Text, text(2)), st.just({}))
_NO_STRING: st.SearchStrategy[Any] = st.one_of(_ODD, st.builds(Text, text(3)), st.just({}), st.just([]))
_NO_TEXT: st.SearchStrategy[Any] = st.one_of(_ODD, text(3), st.just({"a": "b"}), st.just(["a"]))
_COUNTS = ("null", "0", "7", "9007199254740991", "-1", "", "x", "7.0", "+7", "07", '"7"')


@dataclass(frozen=True)
class Deviating:
    """A document and its reading."""

    data: bytes
    """Changes, to be loaded like a saved document."""
    cells: list[Json]
    """What a reader sees: id, cell_type, source, execution_count (integer or null), outputs of each cell."""
    metadata: dict[str, str]
    """The strings in the metadata."""


@st.composite
def _mostly(draw: st.DrawFn, good: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> tuple[bool, Any]:
    """Whether a value is as it should be, four times of five, and the value; `_MISSING` is odd as well."""
    if draw(st.sampled_from([True, True, True, True, False])):
        return True, draw(good)
    return False, draw(st.one_of(odd, st.just(_MISSING)))


def _count(json_text: str) -> int | None:
    """An execution count out of its JSON text."""
    plain = json_text[1:] if json_text.startswith("-") else json_text
    if not (plain.isascii() and plain.isdigit()) or (plain != "0" and plain.startswith("0")):
        return None
    return int(json_text)


@st.composite
def _cell(draw: st.DrawFn) -> tuple[Any, Json | None]:
    """A cell as written, and as read; `None` if it is invisible."""
    if draw(st.sampled_from([False] * 9 + [True])):
        return draw(_NO_STRING), None  # Not even a map with an id.
    parts = {
        "id": draw(_mostly(text(3), _NO_STRING)),
        "cell_type": draw(_mostly(st.sampled_from(["code", "markdown", "raw", "odd"]), _NO_STRING)),
        "source": draw(_mostly(st.builds(Text, text()), _NO_TEXT)),
        "execution_count": draw(_mostly(st.sampled_from(_COUNTS), _NO_STRING)),
        "outputs": draw(_mostly(st.lists(_mostly(text(3), _NO_STRING), max_size=3), _NO_LIST)),
    }
    good = {name: value for name, (fine, value) in parts.items() if fine}
    written = {name: value for name, (_, value) in parts.items() if value is not _MISSING}
    if "outputs" in good:
        elements = [(fine, value) for fine, value in good["outputs"] if value is not _MISSING]
        written["outputs"] = [value for _, value in elements]
        good["outputs"] = [value for fine, value in elements if fine]
    written.update(
        draw(st.dictionaries(st.sampled_from(["x", "metadata", "Source"]), st.one_of(_ODD, text(2)), max_size=1))
    )
    if "id" not in good:
        return written, None
    return written, {
        "id": good["id"],
        "cell_type": good.get("cell_type", ""),
        "source": good["source"].content if "source" in good else "",
        "execution_count": _count(good.get("execution_count", "")),
        "outputs": good.get("outputs", []),
    }


@st.composite
def documents(draw: st.DrawFn) -> Deviating:
    """A document with some members missing, of another type, or unknown. Ids of cells may come twice."""
    cells = draw(st.lists(_cell(), min_size=draw(st.sampled_from([0, 1, 2, 2])), max_size=4))
    root: Json = {"notebook_id": "n"}
    seen = [read for _, read in cells if read is not None]
    fine, value = draw(_mostly(st.just([written for written, _ in cells]), _NO_LIST))
    if value is not _MISSING:
        root["cells"] = value
    metadata = draw(st.dictionaries(text(2), st.one_of(text(3), _NO_STRING), max_size=3))
    known, value = draw(_mostly(st.just(metadata), st.one_of(_ODD, text(2), st.just([]))))
    if value is not _MISSING:
        root["metadata"] = value
    root.update(draw(st.dictionaries(st.sampled_from(["x", "schema_version"]), st.one_of(_ODD, text(2)), max_size=1)))
    strings = {key: value for key, value in metadata.items() if isinstance(value, str)}
    return Deviating(change(root), seen if fine else [], strings if known else {})
