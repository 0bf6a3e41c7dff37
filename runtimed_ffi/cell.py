"""A cell of the notebook at one moment, as a read-only value.

Storey 5 (values). Source: python-api, section 1.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtimed_ffi._format import quoted

_SHOWN = 30


@dataclass(frozen=True, repr=False)
class Cell:
    """A snapshot of one cell; later edits do not change it. Compares, hashes, copies and pickles by value."""

    id: str
    cell_type: str
    """Normally ``code``, ``markdown`` or ``raw``; any text is possible."""
    source: str
    execution_count: int | None = None
    """The number of the cell's last execution as the document has it."""

    @classmethod
    def from_document(cls, value: Mapping[str, Any]) -> Cell:
        """Read one element of `rtd_doc_cells`."""
        return cls(value["id"], value["cell_type"], value["source"], value["execution_count"])

    def __repr__(self) -> str:
        dots = "..." if len(self.source.encode("utf-8", "surrogatepass")) > _SHOWN else ""
        return f"Cell(id={self.id}, type={self.cell_type}, source={quoted(self.source[:_SHOWN])}{dots})"
