"""Outputs in nbformat, and their manifests.

Storey: testing. Source: protocol 2, sections 7.6 and 8; nbformat 4.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from runtimed_ffi.testing._hypothesis import strategies as st
from runtimed_ffi.testing.strategies.text import json_value, text
from runtimed_ffi.testing.wire import Json, encode

_THRESHOLD = 8192

_long = st.builds(
    lambda piece, size, more: (piece * (size // len(piece.encode()) + 1)) + more,
    st.sampled_from(["x", "é", "中", "😀"]),
    st.integers(_THRESHOLD - 3, _THRESHOLD + 3),
    text(2),
)
_content = st.one_of(text(), text(), _long)
_mime_text = st.sampled_from(["text/plain", "text/html", "image/png", "image/svg+xml", "x/unknown"])
_mime_json = st.sampled_from(["application/json", "application/vnd.x+json"])
_metadata = st.dictionaries(text(2), json_value(), max_size=2)


@st.composite
def _bundle(draw: st.DrawFn) -> Json:
    data: Json = draw(st.dictionaries(_mime_text, _content, max_size=3))
    data.update(
        draw(st.dictionaries(_mime_json, json_value().filter(lambda value: not isinstance(value, str)), max_size=1))
    )
    return data


@st.composite
def output(draw: st.DrawFn) -> Json:
    """An output as nbformat has it in memory: texts in one piece, every member present."""
    kind = draw(st.sampled_from(["stream", "error", "display_data", "execute_result"]))
    if kind == "stream":
        return {"output_type": kind, "name": draw(st.sampled_from(["stdout", "stderr"])), "text": draw(_content)}
    if kind == "error":
        lines = draw(st.lists(_content, max_size=2))
        return {"output_type": kind, "ename": draw(text(2)), "evalue": draw(_content), "traceback": lines}
    result: Json = {"output_type": kind, "data": draw(_bundle()), "metadata": draw(_metadata)}
    if kind == "execute_result":
        result["execution_count"] = draw(st.one_of(st.none(), st.integers(0, 2**31)))
    elif draw(st.booleans()):
        result["transient"] = {"display_id": draw(text(2))}
    return result


@st.composite
def manifest(draw: st.DrawFn) -> tuple[Json, Json, dict[str, tuple[bytes, str]]]:
    """A manifest as any implementation may write it (8.2).

    The output it stands for, the manifest, and the blobs it needs by their hash, with their media types. Which texts
    lie in blobs does not depend on their size.
    """
    meant = draw(output())
    blobs: dict[str, tuple[bytes, str]] = {}

    def reference(content: str, media_type: str) -> Json:
        if draw(st.booleans()):
            return {"inline": content}
        data = content.encode()
        name = hashlib.sha256(data).hexdigest()
        blobs[name] = (data, media_type)
        if draw(st.booleans()):
            name = name.upper()
        return {"blob": name, "size": len(data)}

    kind = meant["output_type"]
    if kind == "stream":
        return meant, {**meant, "text": reference(meant["text"], "text/plain")}, blobs
    if kind == "error":
        lines: Any = meant["traceback"]
        if draw(st.booleans()):
            lines = reference(json.dumps(lines), "application/json")
        return meant, {**meant, "traceback": lines}, blobs
    data = {
        mime: reference(value if isinstance(value, str) else encode(value).decode(), mime)
        for mime, value in meant["data"].items()
    }
    written = {**meant, "data": data}
    if not meant["metadata"] and draw(st.booleans()):
        del written["metadata"]
    return meant, written, blobs
