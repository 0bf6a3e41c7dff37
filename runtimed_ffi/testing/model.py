"""A notebook as plain lists: what the operations of ``rtd_doc_edit`` must do.

Storey: testing. Knows the operations; knows nothing of Automerge.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from runtimed_ffi.testing.wire import Json


class Refused(Exception):
    """An operation that must be refused, with everything in the same edit."""


class NotebookModel:
    """Cells as ``rtd_doc_cells`` gives them, and the strings of the metadata."""

    def __init__(self, cells: Sequence[Json] = (), metadata: dict[str, str] | None = None) -> None:
        self.cells: list[Json] = [copy.deepcopy(cell) for cell in cells]
        self.metadata = dict(metadata or {})

    def edit(self, ops: Sequence[Json]) -> None:
        """Apply operations, all or nothing.

        Raises:
            Refused: one of them is impossible; nothing has changed.
        """
        trial = NotebookModel(self.cells, self.metadata)
        for op in ops:
            trial._apply(op)
        self.cells, self.metadata = trial.cells, trial.metadata

    def place(self, cell_id: str) -> int | None:
        """The position of a cell."""
        return next((number for number, cell in enumerate(self.cells) if cell["id"] == cell_id), None)

    def _apply(self, op: Json) -> None:
        name = op["op"]
        if name == "set_metadata":
            self.metadata[op["key"]] = op["value"]
            return
        place = self.place(op["cell_id"])
        if name == "insert_cell":
            if place is not None:
                raise Refused("the cell is there")
            cell = {"id": op["cell_id"], "cell_type": op["cell_type"], "source": op["source"]}
            index = op.get("index")
            end = len(self.cells)
            self.cells.insert(end if index is None else index, {**cell, "execution_count": None, "outputs": []})
            return
        if place is None:
            if op.get("if_present"):
                return
            raise Refused("no such cell")
        _CELL[name](self, place, op)

    def _delete_cell(self, place: int, op: Json) -> None:
        del self.cells[place]

    def _move_cell(self, place: int, op: Json) -> None:
        self.cells.insert(op["index"], self.cells.pop(place))

    def _set_source(self, place: int, op: Json) -> None:
        self.cells[place]["source"] = op["source"]

    def _splice_source(self, place: int, op: Json) -> None:
        source, start = self.cells[place]["source"], op["index"]
        end = start + op["delete"]
        if end > len(source):
            raise Refused("past the end of the text")
        self.cells[place]["source"] = source[:start] + op["insert"] + source[end:]

    def _set_cell_type(self, place: int, op: Json) -> None:
        self.cells[place]["cell_type"] = op["cell_type"]

    def _append_outputs(self, place: int, op: Json) -> None:
        self.cells[place]["outputs"] += op["outputs"]

    def _replace_output(self, place: int, op: Json) -> None:
        outputs, index = self.cells[place]["outputs"], op["index"]
        if index >= len(outputs) or op.get("expect", outputs[index]) != outputs[index]:
            raise Refused("another output")
        outputs[index] = op["output"]

    def _splice_outputs(self, place: int, op: Json) -> None:
        outputs, start = self.cells[place]["outputs"], op["index"]
        end = start + op["delete"]
        if end > len(outputs) or op.get("expect", outputs[start:end]) != outputs[start:end]:
            raise Refused("other outputs")
        outputs[start:end] = op["outputs"]

    def _clear_outputs(self, place: int, op: Json) -> None:
        self.cells[place].update(outputs=[], execution_count=None)

    def _set_execution_count(self, place: int, op: Json) -> None:
        self.cells[place]["execution_count"] = op["execution_count"]


_CELL: dict[str, Any] = {
    "delete_cell": NotebookModel._delete_cell,
    "move_cell": NotebookModel._move_cell,
    "set_source": NotebookModel._set_source,
    "splice_source": NotebookModel._splice_source,
    "set_cell_type": NotebookModel._set_cell_type,
    "append_outputs": NotebookModel._append_outputs,
    "replace_output": NotebookModel._replace_output,
    "splice_outputs": NotebookModel._splice_outputs,
    "clear_outputs": NotebookModel._clear_outputs,
    "set_execution_count": NotebookModel._set_execution_count,
}
