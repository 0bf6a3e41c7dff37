"""Outputs with a display id, which later messages of the kernel may change.

Storey: daemon (7).  Source: protocol 2, section 7.5, and Jupyter messaging (``update_display_data``).  Unlike the
reference daemon all outputs with an id are updated, not only the first.  What a room had in its document when it was
opened is found as well, at the first update of an unknown id: there the id is in ``transient`` of a
``display_data`` (an ``execute_result`` has none in the document and is not found again).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Callable, NamedTuple

from runtimed_ffi.daemon.ports import Json
from runtimed_ffi.daemon.rooms.outputs import as_dict, display_id_of

if TYPE_CHECKING:
    from runtimed_ffi.blobs import Blobs

_HASH = re.compile(r"[0-9a-fA-F]{64}\Z")


class Display(NamedTuple):
    """One output with a display id."""

    cell_id: str
    place: int
    """Its place in the cell's list of outputs."""
    element: str
    """What the document has there."""
    frame: Json
    """The members of the output that an update keeps."""

    @classmethod
    def of(cls, cell_id: str, place: int, element: str, output: Json) -> Display:
        """The display of an nbformat output."""
        frame = {key: value for key, value in output.items() if key not in ("data", "metadata")}
        return cls(cell_id, place, element, frame)


class Displays:
    """The outputs with display ids of one room.

    Args:
        cells: Reads the cells of the document.
        blobs: Reads the manifests of outputs that lie outside the document.
    """

    def __init__(self, cells: Callable[[], list[Json]], blobs: Blobs) -> None:
        self._cells = cells
        self._blobs = blobs
        self._by_id: dict[str, list[Display]] = {}
        self._fresh: set[str] = set()
        self._looked = False

    def add(self, display_id: str, display: Display) -> None:
        """An output with this id was written."""
        self._by_id.setdefault(display_id, []).append(display)

    def find(self, display_id: str) -> list[Display]:
        """The outputs with this id.  The first time that one is unknown, the document is searched, once."""
        if display_id not in self._by_id and not self._looked:
            self._looked = True
            for cell in self._cells():
                if cell["id"] not in self._fresh:
                    self._learn(cell["id"], cell["outputs"])
            self._fresh.clear()
        return self._by_id.get(display_id, [])

    def replace(self, display_id: str, displays: list[Display]) -> None:
        """The outputs with this id are these now."""
        self._by_id[display_id] = displays

    def forget(self, *cell_ids: str) -> None:
        """The outputs of these cells are gone."""
        if not self._looked:
            self._fresh.update(cell_ids)
        gone = set(cell_ids)
        for display_id, displays in list(self._by_id.items()):
            self._keep(display_id, [display for display in displays if display.cell_id not in gone])

    def resync_positions(self, cell_id: str, elements: list[str]) -> None:
        """A peer has changed the outputs of the cell to ``elements``: find those that are still there."""
        places: dict[str, list[int]] = {}
        for index, element in enumerate(elements):
            places.setdefault(element, []).append(index)
        for display_id, displays in list(self._by_id.items()):
            kept: list[Display] = []
            for display in displays:
                if display.cell_id != cell_id:
                    kept.append(display)
                elif places.get(display.element):
                    kept.append(display._replace(place=places[display.element].pop(0)))
            self._keep(display_id, kept)

    def _keep(self, display_id: str, displays: list[Display]) -> None:
        if displays:
            self._by_id[display_id] = displays
        else:
            del self._by_id[display_id]

    def _learn(self, cell_id: str, elements: list[str]) -> None:
        for index, element in enumerate(elements):
            try:
                output = self._describe(element)
            except Exception:
                continue  # Unreadable, so its other members cannot be kept; it stays as it is.
            display_id = display_id_of(output)
            if display_id is not None:
                self.add(display_id, Display.of(cell_id, index, element, output))

    def _describe(self, element: str) -> Json:
        """The members of an output that matter here; the contents of large ones are not read."""
        if _HASH.match(element):
            return as_dict(json.loads(self._blobs.get(element)))
        return as_dict(json.loads(element)) if '"display_id"' in element else {}
