"""What kernel messages become: changes of the document, broadcasts, and outputs in nbformat.

Storey: daemon (7).  Source: protocol 2, sections 5.8 and 7.6.  A ``Publication`` collects what one batch of kernel
messages amounts to; it becomes one ``Host.publish`` call: one change, one sync message per peer.  What a run writes
where is the work of ``writer``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from runtimed_ffi.daemon.ports import Json

BROADCAST_LIMIT = 32 * 1024 * 1024
"""Bytes of JSON of one broadcast.  A frame holds 100 MiB and what waits for one peer 64; beyond, it is disconnected."""

_TEXT_TYPES = frozenset(
    {
        "text/plain",
        "text/html",
        "text/latex",
        "text/markdown",
        "text/javascript",
        "application/javascript",
        "image/svg+xml",
        "image/png",
        "image/jpeg",
        "image/gif",
    }
)


class Publication:
    """Changes and broadcasts in the making.  Ops of one cell keep their order; appends to one cell are joined."""

    def __init__(self) -> None:
        self.ops: list[Json] = []
        self.broadcasts: list[Json] = []
        self._appends: dict[str, Json] = {}

    def __bool__(self) -> bool:
        return bool(self.ops or self.broadcasts)

    def append_output(self, cell_id: str, element: str) -> None:
        """Append a document element to the outputs of a cell (skipped if the cell was deleted meanwhile)."""
        op = self._appends.get(cell_id)
        if op is not None:
            op["outputs"].append(element)
            return
        op = {"op": "append_outputs", "cell_id": cell_id, "outputs": [element], "if_present": True}
        self._appends[cell_id] = op
        self.ops.append(op)

    def replace_output(self, cell_id: str, index: int, old: str, element: str) -> None:
        """Replace one output of a cell, if it is still ``old`` then."""
        self._change(cell_id, "replace_output", index=index, output=element, expect=old)

    def merge_outputs(self, cell_id: str, index: int, old: Sequence[str], element: str) -> None:
        """Replace the outputs from an index on by one, if they are still ``old`` then."""
        self._change(cell_id, "splice_outputs", index=index, delete=len(old), outputs=[element], expect=list(old))

    def _change(self, cell_id: str, op: str, **members: Any) -> None:
        self._appends.pop(cell_id, None)
        self.ops.append({"op": op, "cell_id": cell_id, **members, "if_present": True})

    def clear_outputs(self, cell_id: str, execution_count: int | None = None) -> None:
        """Empty the outputs of a cell; changes of them that wait in this publication are dropped as well."""
        self._appends.pop(cell_id, None)
        self.ops = [op for op in self.ops if op["cell_id"] != cell_id]
        self.ops.append({"op": "clear_outputs", "cell_id": cell_id, "if_present": True})
        if execution_count is not None:
            self.set_execution_count(cell_id, execution_count)

    def set_execution_count(self, cell_id: str, execution_count: int) -> None:
        """Write the execution count of a cell."""
        self.ops.append(
            {
                "op": "set_execution_count",
                "cell_id": cell_id,
                "execution_count": execution_count,
                "if_present": True,
            }
        )

    def broadcast(self, event: str, **members: Any) -> None:
        """Add a broadcast; the members in the order of protocol 2, section 5.8."""
        self.broadcasts.append({"event": event, **members})


def stream_text(content: Json) -> str:
    """The text of a ``stream`` message."""
    return joined(content.get("text", ""))


def to_nbformat(msg_type: str, content: Json) -> Json:
    """A ``display_data``, ``execute_result`` or ``error`` message as an nbformat output (protocol 2, section 7.6).

    Wrong types of members become the nearest right ones, so that one odd message costs neither its neighbours nor the
    reader of the document.
    """
    if msg_type == "error":
        traceback = content.get("traceback")
        return {
            "output_type": "error",
            "ename": str(content.get("ename") or ""),
            "evalue": str(content.get("evalue") or ""),
            "traceback": [str(line) for line in traceback] if isinstance(traceback, list) else [],
        }
    output: Json = {
        "output_type": msg_type,
        "data": bundle(content.get("data")),
        "metadata": as_dict(content.get("metadata")),
    }
    if msg_type == "execute_result":
        count = content.get("execution_count")
        output["execution_count"] = count if isinstance(count, int) else 0
    else:
        display_id = display_id_of(content)
        if display_id is not None:
            output["transient"] = {"display_id": display_id}
    return output


def display_id_of(content: Json) -> str | None:
    """The display id a message carries, or ``None``."""
    display_id = as_dict(content.get("transient")).get("display_id")
    return display_id if isinstance(display_id, str) else None


def bundle(data: Any) -> Json:
    """A MIME bundle in which lists of lines of text types are joined."""
    return {mime: joined(value) if mime in _TEXT_TYPES else value for mime, value in as_dict(data).items()}


def joined(value: Any) -> str:
    """Text given as a string or as a list of strings; anything else as its JSON text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "".join(value)
    return json.dumps(value, ensure_ascii=False)


def as_dict(value: Any) -> Json:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def json_size(value: Any) -> int:
    """Bytes of a value on the wire."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))
