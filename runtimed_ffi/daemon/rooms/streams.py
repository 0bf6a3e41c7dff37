"""Stream text of one name: pieces in the document, merged from time to time.

Storey: daemon (7).  Source: nbformat (neighbouring stream outputs of one name are one output) and protocol 2, section
7.5.  A piece is appended as an element of its own, which costs what the piece costs.  The elements of a run become
one when the pieces have grown as large as the first of them, and when the run has ended.  So each merge at least
doubles the first element, and all merges together write about three times the text that was printed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from runtimed_ffi.daemon.ports import Json
from runtimed_ffi.daemon.rooms.outputs import Publication

if TYPE_CHECKING:
    from runtimed_ffi.blobs import Blobs

log = logging.getLogger(__name__)

OUTPUT_LIMIT = 16 * 1024 * 1024
"""Characters of one stream output.  More text of the same name begins another output: as UTF-8 one must fit a blob
(100 MiB) and a frame, and a program that shows the notebook must be able to load it."""


class StreamRun:
    """Stream outputs of one name at the end of a cell's list, as long as they may go on.

    Args:
        cell_id: The cell.
        name: ``stdout`` or ``stderr``.
        index: Where the first element of the run stands in the list of outputs.
    """

    __slots__ = ("_first", "cell_id", "elements", "index", "name", "size")

    def __init__(self, cell_id: str, name: str, index: int) -> None:
        self.cell_id = cell_id
        self.name = name
        self.index = index
        self.elements: list[str] = []
        """The elements of the document that hold the run."""
        self.size = 0
        """Characters in all of them."""
        self._first = 0

    @property
    def end(self) -> int:
        """Where the next output goes."""
        return self.index + len(self.elements)

    def takes(self, name: str, text: str) -> bool:
        """Whether this text belongs to the same output."""
        return name == self.name and self.size + len(text) <= OUTPUT_LIMIT

    def add(self, text: str, element: str, blobs: Blobs, publication: Publication) -> None:
        """Append a piece; merge if it is time to."""
        publication.append_output(self.cell_id, element)
        self.elements.append(element)
        self.size += len(text)
        if len(self.elements) == 1:
            self._first = self.size
        elif self.size >= 2 * self._first:
            self.merge(blobs, publication)

    def merge(self, blobs: Blobs, publication: Publication) -> None:
        """Make one element of all.  If that cannot be stored, the pieces stay."""
        if len(self.elements) < 2:
            return
        self._first = self.size
        try:
            element = merged(self.name, self.elements, blobs)
        except Exception as error:
            log.error("stream outputs of cell %r stay in %d pieces: %s", self.cell_id, len(self.elements), error)
            return
        publication.merge_outputs(self.cell_id, self.index, self.elements, element)
        self.elements = [element]

    def resync_positions(self, elements: list[str]) -> bool:
        """Find the run, or what is left of it, at the end of a list that a peer has changed."""
        for count in range(min(len(self.elements), len(elements)), 0, -1):
            if elements[-count:] == self.elements[-count:]:
                self.index = len(elements) - count
                self.elements = self.elements[-count:]
                return True
        return False


def merged(name: str, elements: list[str], blobs: Blobs) -> str:
    """The element of the stream output that holds the texts of some others.  Raises if it cannot be stored."""
    text = "".join(str(blobs.resolve_output(element)["text"]) for element in elements)
    return blobs.store_output(stream_output(name, text))


def stream_output(name: str, text: str) -> Json:
    """A stream output in nbformat."""
    return {"output_type": "stream", "name": name, "text": text}


def portions(text: str) -> Iterator[str]:
    """The text in parts that fit one output each."""
    for start in range(0, len(text), OUTPUT_LIMIT):
        yield text[start : start + OUTPUT_LIMIT]
