"""The notebook file of one room: filling the room from it, merging changes of other programs, saving.

Storey: daemon (7).  Source: protocol 2, sections 7.3, 7.4 and 9.8; what the reference loses there (attachments, cell
metadata, files that no room has loaded, changes of other programs) is kept.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from runtimed_ffi.daemon.files import merging, notebooks, paths, snapshots
from runtimed_ffi.daemon.files.bases import Base, BaseStore
from runtimed_ffi.daemon.files.paths import Content, FileError
from runtimed_ffi.daemon.ports import Json

if TYPE_CHECKING:
    from runtimed_ffi.blobs import Blobs
    from runtimed_ffi.document import Document
    from runtimed_ffi.host import Host

log = logging.getLogger(__name__)

SAVE_ATTEMPTS = 5
"""How often a save merges and tries again while other programs keep changing the file."""

_SNAPSHOT = "notebook_metadata"
_UNRESOLVED: Json = {"output_type": "stream", "name": "stderr", "text": "[output could not be resolved]"}


class FileLocation(NamedTuple):
    """The room and the paths of a notebook file."""

    notebook_id: str
    path: str
    base: str | None
    """File that holds the base; ``None``: it is not kept."""
    new_mode: int
    """Mode of a file that is made, for instance 0o644."""


class NotebookFile:
    """The file of one room.

    Every method may take as long as the disk does: call it on a worker thread, any; they wait for each other.  Once
    ``close`` was called nothing here touches the host any more.
    """

    def __init__(self, place: FileLocation, host: Host, blobs: Blobs) -> None:
        self.path = place.path
        self._id = place.notebook_id
        self._new_mode = place.new_mode
        self._host = host
        self._blobs = blobs
        self._bases = BaseStore(place.base)
        self._lock = threading.Lock()
        self._closed = False
        self._seen: Content | None = None
        self.problem: str | None = None
        """Why the file could not be read the last time."""

    def close(self) -> None:
        """Stop: a method that runs ends at its next step with ``FileError``.  Does not wait.  Idempotent."""
        self._closed = True

    def fill(self) -> None:
        """Bring the prepared room up to date with its file.  Never raises; an error is in ``problem``."""
        try:
            self.refresh()
        except FileError as error:
            log.error("room %r opens without its file: %s", self._id, error)
        except Exception as error:
            # Saving begins the same way and is refused for the same reason, so the file is safe.
            self.problem = f"{self.path} could not be loaded: {error}"
            log.exception("room %r opens without its file", self._id)

    def refresh(self) -> bool:
        """Merge changes of other programs to the file since it was last loaded or saved; ``False`` if nothing.

        Raises:
            FileError: The file cannot be read; the room is as before.
        """
        with self._lock:
            return self._refresh()

    def save(self) -> None:
        """Write the room into the file, after merging changes of other programs.

        Raises:
            FileError: The file cannot be written; it is as before.
        """
        with self._lock:
            for _ in range(SAVE_ATTEMPTS):
                self._refresh()
                try:
                    self._write()
                    return
                except paths.Changed:
                    log.info("room %r: %s changed while it was being saved; once more", self._id, self.path)
                except OSError as error:
                    raise FileError(f"{self.path}: {error.strerror}") from None
        raise FileError(f"{self.path} is being changed by another program all the time")

    # -- from the file

    def _refresh(self) -> bool:
        self._check()
        seen = self._seen
        if seen is not None and seen.sure and paths.unchanged(self.path, seen):
            return False
        try:
            content = paths.read(self.path)
            merged = content is not None and self._merge_if_changed(content)
        except (FileError, notebooks.FormatError) as error:
            self._seen = None
            self.problem = str(error) if isinstance(error, FileError) else f"{self.path}: {error}"
            raise FileError(self.problem) from None
        self._seen = None if content is None else content._replace(data=b"")
        self.problem = None
        return merged

    def _merge_if_changed(self, content: Content) -> bool:
        """Merge the file into the room, if it has changed since the base."""
        room = self._host.fork(self._id)
        try:
            base = self._bases.load()
            if base is not None:
                base = base.settled(content.digest, room.contains(base.heads))
                if not base.heads or not room.contains(base.heads):
                    base = None
            if base is not None and base.digest == content.digest:
                self._bases.remember(base)
                return False
            self._merge(content, base, room)
        finally:
            room.close()
        log.info("room %r: %s was %s", self._id, self.path, "loaded" if base is None else "changed and merged")
        return True

    def _merge(self, content: Content, base: Base | None, room: Document) -> None:
        """Make the changes in a copy of the room, then merge that into the room at once."""
        past = room.fork(None if base is None else base.heads)
        try:
            known = past.cells()
            # Without a base, the cells that are there still identify those of the file.
            file = notebooks.parse(content.data, known)
            if base is None:
                self._exchange(room, past, file)
            else:
                self._change(room, past, file)
            _take_metadata(room, file, base)
            new = Base(past.heads(), content.digest, file.extras, _extras(file.cells))
        finally:
            past.close()
        self._check()
        self._save_base(new._replace(earlier=_earlier(base)))
        self._host.merge(self._id, room)
        self._save_base(new)

    def _exchange(self, room: Document, past: Document, file: notebooks.File) -> None:
        before = room.cells()
        past.edit(merging.exchange(before, file.cells, self._elements).structural)
        room.merge(past)
        room.edit(merging.unite(before, room.cells()))

    def _change(self, room: Document, past: Document, file: notebooks.File) -> None:
        known, before = past.cells(), room.cells()
        change = merging.change(known, file.cells, before, self._elements)
        # Cells that both have added with the same id: the room's are taken out until the file's are there.
        new = {cell.id for cell in file.cells} - {cell["id"] for cell in known}
        both = [cell for cell in before if cell["id"] in new]
        room.edit([{"op": "delete_cell", "cell_id": cell["id"]} for cell in both])
        past.edit(change.in_place)
        room.merge(past)
        merged = room.cells()
        past.edit(change.structural)
        room.merge(past)
        room.edit(merging.reconcile(known, change, merged, room.cells()))
        room.edit(merging.unite(both, room.cells()))

    def _elements(self, cell: notebooks.Cell) -> list[str]:
        elements: list[str] = []
        for output in cell.outputs:
            try:
                elements.append(self._blobs.store_output(output))
            except Exception as error:
                # Kept as it is, so that it comes back into the file; readers show it as unreadable.
                log.warning("room %r: an output of cell %s is not valid: %s", self._id, cell.id, error)
                elements.append(json.dumps(output, ensure_ascii=False, separators=(",", ":")))
        return elements

    # -- to the file

    def _write(self) -> None:
        base = self._bases.load()
        copy = self._host.fork(self._id)
        try:
            heads, cells, metadata = copy.heads(), copy.cells(), copy.metadata()
        finally:
            copy.close()
        extras = {} if base is None else base.extras
        cell_extras = {} if base is None else base.cell_extras
        written = [self._cell(cell, cell_extras.get(cell["id"], {})) for cell in cells]
        data, complaint = notebooks.render(extras, written, _snapshot(metadata))
        if complaint is not None:
            log.warning("room %r: nbformat objects to what is saved: %s", self._id, complaint)
        self._check()
        if self._seen is not None and self._seen.digest == paths.digest_of(data):
            return
        new = Base(heads, paths.digest_of(data), _members(data), _extras(written))
        noted = new._replace(earlier=_earlier(base))
        self._seen = paths.replace(
            self.path, data, self._seen, self._new_mode, self._id, lambda: self._bases.save(noted)
        )
        self._bases.save(new)

    def _cell(self, cell: Json, extras: Json) -> notebooks.Cell:
        outputs = [self._output(element) for element in cell["outputs"]]
        return notebooks.Cell(cell["id"], cell["cell_type"], cell["source"], outputs, cell["execution_count"], extras)

    def _output(self, element: str) -> Json:
        try:
            output = dict(self._blobs.resolve_output(element))
        except Exception as error:
            try:
                kept = json.loads(element)
            except ValueError:
                kept = None
            if isinstance(kept, dict):
                return kept
            log.warning("room %r: an output cannot be resolved: %s", self._id, error)
            return dict(_UNRESOLVED)
        # Belongs to the session of a kernel; nbformat has no such member.
        output.pop("transient", None)
        return output

    # -- parts

    def _save_base(self, base: Base) -> None:
        try:
            self._bases.save(base)
        except OSError as error:
            raise FileError(f"what was loaded from {self.path} cannot be noted: {error.strerror}") from None

    def _check(self) -> None:
        if self._closed:
            raise FileError("the daemon is stopping or the room was closed")


def _extras(cells: Sequence[notebooks.Cell]) -> dict[str, Json]:
    return {cell.id: cell.extras for cell in cells if cell.extras not in ({}, {"metadata": {}})}


def _earlier(base: Base | None) -> tuple[bytes, str]:
    return (b"", "") if base is None else (base.heads, base.digest)


def _take_metadata(room: Document, file: notebooks.File, base: Base | None) -> None:
    """The file's snapshot, unless the room has another one than at the base: where both changed, the room's wins."""
    wanted = snapshots.of_metadata(file.metadata)
    present = _snapshot(room.metadata())
    before = None if base is None else snapshots.of_metadata(_metadata(base.extras))
    if wanted != present and present in (None, before):
        value = json.dumps(wanted, ensure_ascii=False, separators=(",", ":"))
        room.edit([{"op": "set_metadata", "key": _SNAPSHOT, "value": value}])


def _metadata(extras: Json) -> Json:
    metadata = extras.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _members(data: bytes) -> Json:
    return {name: value for name, value in json.loads(data).items() if name != "cells"}


def _snapshot(metadata: dict[str, str]) -> Json | None:
    """The snapshot in the document, if there is one that can be read."""
    try:
        snapshot = json.loads(metadata.get(_SNAPSHOT, "null"))
    except ValueError:
        return None
    return snapshot if isinstance(snapshot, dict) else None
