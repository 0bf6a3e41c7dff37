"""Writes the outputs of a room's executions into the document.

Storey: daemon (7).  Source: protocol 2, sections 5.8 and 7.5.  Unlike the reference daemon this one honours
``clear_output``, merges stream text as nbformat does, and updates every output with a display id, not only the first.

Positions are counted here, not read: normally only the daemon writes outputs while a cell runs.  If a peer does so
too, the document refuses a change whose place no longer holds what it held (``expect``), and :meth:`rebase` finds the
place again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from runtimed_ffi.daemon.ports import Json
from runtimed_ffi.daemon.rooms.displays import Display, Displays
from runtimed_ffi.daemon.rooms.outputs import BROADCAST_LIMIT, Publication, json_size
from runtimed_ffi.daemon.rooms.streams import StreamRun, merged, portions, stream_output

if TYPE_CHECKING:
    from runtimed_ffi.blobs import Blobs

log = logging.getLogger(__name__)

INLINE_LIMIT = 1024 * 1024
"""Bytes of an output that goes into the document as it is, because it cannot be stored as a blob."""


class OutputTarget:
    """The place of one run's outputs: a cell, and what this run has put into it."""

    __slots__ = ("cell_id", "clear_pending", "count", "execution_count", "execution_id", "stream")

    def __init__(self, cell_id: str, execution_id: str) -> None:
        self.cell_id = cell_id
        self.execution_id = execution_id
        self.execution_count: int | None = None
        self.count = 0
        """Outputs in the cell's list now, without those of ``stream``."""
        self.stream: StreamRun | None = None
        """The stream output at the end of the list, which may go on."""
        self.clear_pending = False
        """``clear_output(wait=True)`` came: the next output clears first."""

    def reset(self) -> None:
        """The list is empty."""
        self.count = 0
        self.stream = None
        self.clear_pending = False


class OutputWriter:
    """Writes the outputs of a room's executions.

    Args:
        blobs: Turns nbformat outputs into document elements and back.
        cells: Reads the cells of the document; for outputs that were there before.
    """

    def __init__(self, blobs: Blobs, cells: Callable[[], list[Json]]) -> None:
        self._blobs = blobs
        self._cells = cells
        self._displays = Displays(cells, blobs)
        self._targets: dict[str, OutputTarget] = {}
        self._piece: OutputTarget | None = None
        self._piece_name = ""
        self._piece_parts: list[str] = []

    # -- runs

    def begin(self, target: OutputTarget, publication: Publication) -> None:
        """A run of the cell starts: its old outputs go, and nothing of them can be updated any more."""
        self._forget(target.cell_id)
        self._targets[target.cell_id] = target
        publication.clear_outputs(target.cell_id)

    def finish(self, target: OutputTarget, publication: Publication) -> None:
        """The run has ended: what it has printed last is one output.  Threads of the kernel may print more to it."""
        self.flush(publication)
        if target.stream is not None:
            target.stream.merge(self._blobs, publication)

    def finish_all(self, publication: Publication) -> None:
        """The kernel has ended: no further outputs come."""
        self.flush(publication)
        for target in self._targets.values():
            self.finish(target, publication)
        self._targets.clear()

    def forget_deleted(self, cell_ids: Iterable[str]) -> list[str]:
        """Forget the outputs of those of these cells that are not in the document any more; which these are."""
        try:
            there = {cell["id"] for cell in self._cells()}
        except Exception as error:
            log.warning("the cells of a room cannot be read: %s", error)
            return []
        deleted = [cell_id for cell_id in cell_ids if cell_id not in there]
        for cell_id in deleted:
            self._targets.pop(cell_id, None)
        self._displays.forget(*deleted)
        return deleted

    def cleared(self, cell_id: str) -> None:
        """A request of a peer emptied the outputs of the cell."""
        self._forget(cell_id)

    # -- outputs

    def stream(self, target: OutputTarget, name: str, text: str, publication: Publication) -> None:
        """A fragment of a stream.  It waits for its neighbours until :meth:`flush`."""
        if self._piece is not target or self._piece_name != name:
            self.flush(publication)
            self._piece, self._piece_name = target, name
        self._piece_parts.append(text)

    def flush(self, publication: Publication) -> None:
        """Write the stream fragments that wait, as one piece."""
        target, parts = self._piece, self._piece_parts
        if target is None:
            return
        self._piece, self._piece_parts = None, []
        for text in portions("".join(parts)):
            self._write_piece(target, self._piece_name, text, publication)

    def output(
        self, target: OutputTarget, output: Json, publication: Publication, display_id: str | None = None
    ) -> None:
        """Any output but a stream, in nbformat.  ``display_id`` makes it reachable for updates."""
        self.flush(publication)
        self._clear_if_pending(target, publication)
        self._end_stream(target, publication)
        element = self._element(output)
        publication.append_output(target.cell_id, element)
        target.count += 1
        if display_id is not None:
            self._displays.add(display_id, Display.of(target.cell_id, target.count - 1, element, output))
        self._broadcast(target, output, element, publication)

    def update_display(self, display_id: str, data: Json, metadata: Json, publication: Publication) -> None:
        """Replace data and metadata of every output with this display id, and broadcast it even if there is none."""
        self.flush(publication)
        elements: dict[str, str] = {}
        updated: list[Display] = []
        for display in self._displays.find(display_id):
            # Equal outputs are stored once; the same id is often displayed several times.
            key = json.dumps(display.frame, sort_keys=True)
            if key not in elements:
                elements[key] = self._element({**display.frame, "data": data, "metadata": metadata})
            publication.replace_output(display.cell_id, display.place, display.element, elements[key])
            updated.append(display._replace(element=elements[key]))
        if updated:
            self._displays.replace(display_id, updated)
        size = json_size([data, metadata])
        if size > BROADCAST_LIMIT:
            # The document has it nevertheless.
            log.error("the update of display %r, %d bytes, was not broadcast: it is too large", display_id, size)
            return
        publication.broadcast("display_update", display_id=display_id, data=data, metadata=metadata)

    def clear(self, target: OutputTarget, wait: bool, publication: Publication) -> None:
        """``clear_output``: at once, or with the next output."""
        self.flush(publication)
        target.clear_pending = True
        if not wait:
            self._clear_if_pending(target, publication)

    # -- after a peer has changed the outputs

    def rebase(self, op: Json, elements: list[str]) -> Json | None:
        """A change that the document refused, for the outputs its cell really has; ``None`` if it is void.

        ``op`` is a ``replace_output`` or ``splice_outputs``, as this class makes them.
        """
        if op["op"] == "replace_output":
            if op["expect"] not in elements:
                return None
            return {**op, "index": elements.index(op["expect"])}
        # Clearing a list removes the first pieces of a run, not the later ones.
        expect: list[str] = op["expect"]
        for start in range(len(expect)):
            rest = expect[start:]
            for index in range(len(elements) - len(rest), -1, -1):
                if elements[index : index + len(rest)] == rest:
                    return self._rebase_merge(op, index, rest)
        return None

    def _rebase_merge(self, op: Json, index: int, rest: list[str]) -> Json | None:
        outputs = rest
        if len(rest) == len(op["expect"]):
            outputs = op["outputs"]
        elif len(rest) > 1:
            name = str(self._blobs.resolve_output(rest[0])["name"])
            outputs = [merged(name, rest, self._blobs)]
        target = self._targets.get(op["cell_id"])
        if target is not None and target.stream is not None and target.stream.elements[:1] == op["outputs"]:
            target.stream.elements[:1] = outputs
        return (
            None if outputs == rest else {**op, "index": index, "delete": len(rest), "outputs": outputs, "expect": rest}
        )

    def resync_positions(self, cell_id: str, elements: list[str]) -> None:
        """The outputs of the cell are ``elements``, not what was written."""
        self._displays.resync_positions(cell_id, elements)
        target = self._targets.get(cell_id)
        if target is None:
            return
        if target.stream is not None and not target.stream.resync_positions(elements):
            target.stream = None
        target.count = len(elements) if target.stream is None else target.stream.index

    # -- steps

    def _write_piece(self, target: OutputTarget, name: str, text: str, publication: Publication) -> None:
        self._clear_if_pending(target, publication)
        if target.stream is None or not target.stream.takes(name, text):
            self._end_stream(target, publication)
            target.stream = StreamRun(target.cell_id, name, target.count)
        output = stream_output(name, text)
        element = self._element(output)
        target.stream.add(text, element, self._blobs, publication)
        self._broadcast(target, output, element, publication)

    def _end_stream(self, target: OutputTarget, publication: Publication) -> None:
        run, target.stream = target.stream, None
        if run is not None:
            run.merge(self._blobs, publication)
            target.count = run.end

    def _clear_if_pending(self, target: OutputTarget, publication: Publication) -> None:
        if not target.clear_pending:
            return
        if self._targets.get(target.cell_id) is target:
            self._forget(target.cell_id)
        target.reset()
        publication.clear_outputs(target.cell_id, target.execution_count)
        publication.broadcast("outputs_cleared", cell_id=target.cell_id)

    def _broadcast(self, target: OutputTarget, output: Json, element: str, publication: Publication) -> None:
        publication.broadcast(
            "output",
            cell_id=target.cell_id,
            output_type=output["output_type"],
            output_json=element,
            execution_id=target.execution_id,
        )

    def _element(self, output: Json) -> str:
        try:
            return self._blobs.store_output(output)
        except Exception as error:
            log.error("storing an output failed; it goes into the document as it is: %s", error)
        element = json.dumps(output, ensure_ascii=False, separators=(",", ":"))
        if len(element) <= INLINE_LIMIT:
            return element
        kind, size = output["output_type"], len(element)
        log.error("an output (%s) of %d characters could not be kept", kind, size)
        text = f"An output ({kind}) of {size} characters could not be kept: it is too large, or the disk is full.\n"
        return json.dumps(stream_output("stderr", text), separators=(",", ":"))

    def _forget(self, cell_id: str) -> None:
        target = self._targets.get(cell_id)
        if target is not None:
            target.reset()
        self._displays.forget(cell_id)
