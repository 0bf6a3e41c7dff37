"""The document side of a session: reads from the local copy, and edits that are applied at once and sent as one change.

Storey 6 (client). Knows cells and the connection's document calls; knows nothing of kernels and executions. Source:
python-api, section 1.5.
"""

from __future__ import annotations

import abc
from typing import Any

from runtimed_ffi._binding.native_session import NativeSession
from runtimed_ffi._client import arguments
from runtimed_ffi._client.connection import Connection
from runtimed_ffi.cell import Cell
from runtimed_ffi.output import Output


class DocumentAccess(abc.ABC):
    """The cells and the metadata of a room; `Session` adds the rest.

    Nothing here waits for the daemon. Reads see the local copy; an edit is in it when the call returns, is on its way
    to the others, and never shows them anything half done.

    Threads: every method may be called from any thread.
    """

    @abc.abstractmethod
    def _connect(self) -> Connection:
        """The connection, made if there is none."""

    @abc.abstractmethod
    def _require(self) -> Connection:
        """The connection, or `NotConnectedError`."""

    def create_cell(self, source: str = "", cell_type: str = "code", index: int | None = None) -> str:
        """Insert a cell and return its id. Connects by itself.

        Args:
            source: its text.
            cell_type: ``code``, ``markdown``, ``raw``, or any other text.
            index: its position; past the end, or `None`, means the end.

        Raises:
            OverflowError: a negative index.
        """
        arguments.text("source", source)
        arguments.text("cell_type", cell_type)
        position = -1 if index is None else arguments.index("index", index)
        return self._connect().require().create_cell(cell_type, source, position)

    def set_source(self, cell_id: str, source: str) -> None:
        """Change a cell's text as a difference, so that edits of others at the same time merge.

        Raises:
            CellNotFoundError: `Cell not found: <id>`; so do all methods that take a cell id.
        """
        arguments.text("cell_id", cell_id)
        arguments.text("source", source)
        self._native().set_source(cell_id, source)

    def splice_source(self, cell_id: str, index: int, delete_count: int, text: str = "") -> None:
        """Replace `delete_count` characters (Unicode code points) at `index` by `text`."""
        self._edit(
            "splice_source",
            cell_id,
            index=arguments.index("index", index),
            delete=arguments.index("delete_count", delete_count),
            insert=arguments.text("text", text),
        )

    def set_cell_type(self, cell_id: str, cell_type: str) -> None:
        """Make a cell ``code``, ``markdown``, ``raw``, or any other type."""
        self._edit("set_cell_type", cell_id, cell_type=arguments.text("cell_type", cell_type))

    def move_cell(self, cell_id: str, index: int) -> None:
        """Move a cell to the position `index` of the list without it; past the end means the end."""
        self._edit("move_cell", cell_id, index=arguments.index("index", index))

    def clear_outputs(self, cell_id: str) -> None:
        """Remove a cell's outputs and its execution count."""
        self._edit("clear_outputs", cell_id)

    def delete_cell(self, cell_id: str) -> None:
        """Remove a cell; if it is running, it goes on."""
        self._native().delete_cell(arguments.text("cell_id", cell_id))

    def get_cell(self, cell_id: str) -> Cell:
        """A snapshot of one cell, from the local copy of the document.

        Raises:
            CellNotFoundError: `Cell not found: <id>`.
            DisconnectedError: the session knows that the connection has ended. Until it knows, the copy is read as it
                was last; so do all methods that only read.
        """
        return Cell.from_document(self._native().cell(arguments.text("cell_id", cell_id)))

    def get_cells(self) -> list[Cell]:
        """Snapshots of all cells in their order, from the local copy of the document."""
        return [Cell.from_document(cell) for cell in self._native().cells()]

    def get_outputs(self, cell_id: str) -> list[Output]:
        """The outputs a cell has in the document, run by any peer."""
        arguments.text("cell_id", cell_id)
        return self._require().outputs(cell_id)

    def get_metadata(self) -> dict[str, str]:
        """The notebook's metadata, as far as it is text."""
        return dict(self._native().metadata())

    def set_metadata(self, key: str, value: str) -> None:
        """Set one text of the notebook's metadata."""
        arguments.text("key", key)
        arguments.text("value", value)
        self._native().edit([{"op": "set_metadata", "key": key, "value": value}])

    def _native(self) -> NativeSession:
        return self._require().native

    def _edit(self, operation: str, cell_id: str, **members: Any) -> None:
        arguments.text("cell_id", cell_id)
        self._native().edit([{"op": operation, "cell_id": cell_id, **members}])
