"""Kernel messages become outputs of cells: changes of the document and the broadcasts that tell of them.

Storey: daemon (7).  Source: protocol 2, sections 5.8, 7.5 and 7.6.  A ``Publication`` collects what one batch of
kernel messages amounts to; it becomes one ``Host.publish`` call: one change, one sync message per peer.  Unlike the
reference daemon this one honours ``clear_output``, merges neighbouring stream messages of a batch, and updates every
output with a display id, not only the first.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Callable, NamedTuple

from .ports import Json

log = logging.getLogger(__name__)

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


class OutputTarget:
    """The place of one run's outputs: a cell, and what this run has put into it."""

    __slots__ = ("cell_id", "clear_pending", "count", "execution_count", "execution_id")

    def __init__(self, cell_id: str, execution_id: str) -> None:
        self.cell_id = cell_id
        self.execution_id = execution_id
        self.execution_count: int | None = None
        self.count = 0
        """Outputs in the cell's list now."""
        self.clear_pending = False
        """``clear_output(wait=True)`` came: the next output clears first."""


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

    def replace_output(self, cell_id: str, index: int, element: str) -> None:
        """Replace one output of a cell."""
        self._appends.pop(cell_id, None)
        self.ops.append(
            {"op": "replace_output", "cell_id": cell_id, "index": index, "output": element, "if_present": True}
        )

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


class _Display(NamedTuple):
    """An output with a display id."""

    target: OutputTarget
    position: int
    frame: Json
    """The members of the output that an update keeps."""


class OutputWriter:
    """Writes the outputs of a room's executions.

    Parameters
    ----------
    store:
        Turns an nbformat output into a document element (``Blobs.store_output``).  If it fails, the JSON text of the
        output is the element (protocol 2, section 5.8).
    """

    def __init__(self, store: Callable[[Json], str]) -> None:
        self._store = store
        self._displays: dict[str, list[_Display]] = {}
        self._targets: dict[str, OutputTarget] = {}
        self._stream: OutputTarget | None = None
        self._stream_name = ""
        self._stream_parts: list[str] = []

    def begin(self, target: OutputTarget, publication: Publication) -> None:
        """A run of the cell starts: its old outputs go, and nothing of them can be updated any more."""
        self._forget(target.cell_id)
        self._targets[target.cell_id] = target
        publication.clear_outputs(target.cell_id)

    def cleared(self, cell_id: str) -> None:
        """Somebody emptied the outputs of the cell by a request."""
        self._forget(cell_id)

    def stream(self, target: OutputTarget, name: str, text: str, publication: Publication) -> None:
        """A fragment of a stream.  It waits for its neighbours until :meth:`flush`."""
        if self._stream is not target or self._stream_name != name:
            self.flush(publication)
            self._stream, self._stream_name = target, name
        self._stream_parts.append(text)

    def flush(self, publication: Publication) -> None:
        """Write the stream fragments that wait as one output."""
        target, parts = self._stream, self._stream_parts
        if target is None:
            return
        self._stream, self._stream_parts = None, []
        self._write(target, {"output_type": "stream", "name": self._stream_name, "text": "".join(parts)}, publication)

    def output(
        self, target: OutputTarget, output: Json, publication: Publication, display_id: str | None = None
    ) -> None:
        """Any output but a stream, in nbformat.  ``display_id`` makes it reachable for updates."""
        self.flush(publication)
        self._write(target, output, publication)
        if display_id is not None:
            frame = {key: value for key, value in output.items() if key not in ("data", "metadata")}
            self._displays.setdefault(display_id, []).append(_Display(target, target.count - 1, frame))

    def update_display(self, display_id: str, data: Json, metadata: Json, publication: Publication) -> None:
        """Replace data and metadata of every output with this display id, and tell so even if there is none."""
        self.flush(publication)
        elements: dict[str, str] = {}
        for display in self._displays.get(display_id, ()):
            # Equal outputs are stored once; the same id is often displayed several times.
            key = json.dumps(display.frame, sort_keys=True)
            if key not in elements:
                elements[key] = self._element({**display.frame, "data": data, "metadata": metadata})
            publication.replace_output(display.target.cell_id, display.position, elements[key])
        publication.broadcast("display_update", display_id=display_id, data=data, metadata=metadata)

    def clear(self, target: OutputTarget, wait: bool, publication: Publication) -> None:
        """``clear_output``: at once, or with the next output."""
        self.flush(publication)
        if wait:
            target.clear_pending = True
        else:
            self._clear(target, publication)

    def _clear(self, target: OutputTarget, publication: Publication) -> None:
        target.clear_pending = False
        if self._targets.get(target.cell_id) is target:
            self._forget(target.cell_id)
        publication.clear_outputs(target.cell_id, target.execution_count)
        publication.broadcast("outputs_cleared", cell_id=target.cell_id)

    def _write(self, target: OutputTarget, output: Json, publication: Publication) -> None:
        if target.clear_pending:
            self._clear(target, publication)
        element = self._element(output)
        publication.append_output(target.cell_id, element)
        target.count += 1
        publication.broadcast(
            "output",
            cell_id=target.cell_id,
            output_type=output["output_type"],
            output_json=element,
            execution_id=target.execution_id,
        )

    def _element(self, output: Json) -> str:
        try:
            return self._store(output)
        except Exception:
            log.exception("storing an output failed; it goes into the document as it is")
            return json.dumps(output, ensure_ascii=False, separators=(",", ":"))

    def _forget(self, cell_id: str) -> None:
        target = self._targets.get(cell_id)
        if target is not None:
            target.count = 0
            target.clear_pending = False
        for display_id, displays in list(self._displays.items()):
            kept = [display for display in displays if display.target.cell_id != cell_id]
            if kept:
                self._displays[display_id] = kept
            else:
                del self._displays[display_id]


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
