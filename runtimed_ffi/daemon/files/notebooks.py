"""Notebook files: what is in the bytes of an ``.ipynb``, and the bytes of a notebook.

Storey: daemon (7).  Source: nbformat 4.5, protocol 2, sections 7.6 and 9.8.  Pure functions; what the document has no
place for (metadata, attachments, unknown members) travels beside the cells and comes back when they are written.
Imported late: ``nbformat`` takes as long as everything else before the first client can connect.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import nbformat

from runtimed_ffi.daemon.files import snapshots
from runtimed_ffi.daemon.ports import Json

_MAJOR, _MINOR = 4, 5
"""What is written: the first version whose cells have ids."""

_LARGEST_COUNT = 2**63 - 1


class FormatError(ValueError):
    """The bytes are no notebook."""


class Cell(NamedTuple):
    """A cell as the file has it, its text joined."""

    id: str
    cell_type: str
    source: str
    outputs: list[Json]
    execution_count: int | None
    extras: Json
    """Every other member: metadata, attachments, unknown ones."""

    @property
    def key(self) -> tuple[str, str]:
        """What a cell is recognised by when it has no id."""
        return self.cell_type, self.source


class File(NamedTuple):
    """A notebook as its file has it."""

    cells: list[Cell]
    extras: Json
    """Every member but the cells."""

    @property
    def metadata(self) -> Json:
        """The notebook's metadata."""
        metadata = self.extras.get("metadata")
        return metadata if isinstance(metadata, dict) else {}


def parse(data: bytes, known: Sequence[Mapping[str, Any]] = ()) -> File:
    """Read a notebook file of any version up to 4.

    ``known`` are the cells the file had before, in the form of the document.  Cells without an id (older than nbformat
    4.5) and cells whose id another one has already get that of the known cell they are most likely, or a new one that
    depends on nothing but the file.

    Raises:
        FormatError: This is no notebook, or one that cannot be kept without loss.
    """
    try:
        notebook = json.loads(data)
        # What cannot be encoded would come back changed: half of a surrogate pair.
        json.dumps(notebook, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError("the file has text that is no Unicode (half of a surrogate pair)") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the file is no JSON: {error}") from None
    if not isinstance(notebook, dict):
        raise FormatError("the file is no notebook: not a JSON object")
    version = notebook.get("nbformat")
    if version != _MAJOR:
        notebook = _upgraded(notebook, version)
    raw = notebook.get("cells")
    if not isinstance(raw, list):
        raise FormatError("the file is no notebook: no list of cells")
    cells = [_cell(number, cell) for number, cell in enumerate(raw)]
    return File(_with_ids(cells, known), {name: value for name, value in notebook.items() if name != "cells"})


def render(extras: Json, cells: Iterable[Cell], snapshot: Json | None) -> tuple[bytes, str | None]:
    """The bytes of a notebook file, and the objection of ``nbformat`` to them, if any.

    Members of a cell come in the order of the reference, sources are lists of lines, all other text is one string.
    """
    metadata = extras.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    minor = extras.get("nbformat_minor")
    notebook: Json = {
        "nbformat": _MAJOR,
        "nbformat_minor": max(minor, _MINOR) if isinstance(minor, int) else _MINOR,
        "metadata": metadata if snapshot is None else snapshots.merged(metadata, snapshot),
        "cells": [_members(cell) for cell in _distinct(cells)],
    }
    for name, value in extras.items():
        notebook.setdefault(name, value)
    text = json.dumps(notebook, ensure_ascii=False, indent=2)
    return text.encode("utf-8") + b"\n", _complaint(notebook)


def _complaint(notebook: Json) -> str | None:
    try:
        nbformat.validate(notebook, relax_add_props=True)
    except nbformat.ValidationError as error:
        return str(error).split("\n", 1)[0]
    return None


def _upgraded(notebook: Json, version: object) -> Json:
    if not isinstance(version, int) or version > _MAJOR or version < 1:
        raise FormatError(f"the file is no notebook this daemon knows: nbformat {version!r}")
    try:
        upgraded = dict(nbformat.convert(nbformat.from_dict(notebook), _MAJOR))
        for cell in upgraded["cells"]:
            # Made up at random; ours depend on the file alone.
            cell.pop("id", None)
    except Exception as error:  # nbformat raises what it stumbles over.
        raise FormatError(f"the notebook of format {version} cannot be upgraded: {error}") from None
    return upgraded


def _cell(number: int, raw: object) -> Cell:
    if not isinstance(raw, dict):
        raise FormatError(f"cell {number} is no object")
    cell_type, source = raw.get("cell_type"), _joined(raw.get("source", ""))
    if not isinstance(cell_type, str) or source is None:
        raise FormatError(f"cell {number} has no type or no text")
    extras = {name: value for name, value in raw.items() if name not in ("id", "cell_type", "source")}
    outputs, count = [], None
    if cell_type == "code":
        outputs, count = extras.pop("outputs", []), extras.pop("execution_count", None)
        if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
            raise FormatError(f"the outputs of cell {number} are no list of objects")
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= _LARGEST_COUNT:
            count = None
    name = raw.get("id")
    return Cell(name if isinstance(name, str) else "", cell_type, source, outputs, count, extras)


def _joined(value: object) -> str | None:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(value)
    return value if isinstance(value, str) else None


def _with_ids(cells: list[Cell], known: Sequence[Mapping[str, Any]]) -> list[Cell]:
    taken: set[str] = set()
    nameless: list[int] = []
    for number, cell in enumerate(cells):
        if cell.id and cell.id not in taken:
            taken.add(cell.id)
        else:
            nameless.append(number)
    if not nameless:
        return cells
    named = list(cells)
    free = [cell for cell in known if cell["id"] not in taken]
    recognised = _recognised([cells[number] for number in nameless], nameless, free)
    taken.update(recognised.values())
    for number in nameless:
        name = recognised.get(number) or _new_id(number, cells[number], taken)
        named[number] = cells[number]._replace(id=name)
        taken.add(name)
    return named


def _recognised(cells: list[Cell], numbers: list[int], known: list[Mapping[str, Any]]) -> dict[int, str]:
    """Ids of known cells for cells without one: the same text in the same order, or one text replaced by another."""
    before = [(cell["cell_type"], cell["source"]) for cell in known]
    matcher = difflib.SequenceMatcher(None, before, [cell.key for cell in cells], autojunk=False)
    found: dict[int, str] = {}
    for kind, a, a_end, b, b_end in matcher.get_opcodes():
        if kind == "equal" or (kind == "replace" and a_end - a == b_end - b):
            for offset in range(a_end - a):
                if before[a + offset][0] == cells[b + offset].cell_type:
                    found[numbers[b + offset]] = str(known[a + offset]["id"])
    return found


def _new_id(number: int, cell: Cell, taken: set[str]) -> str:
    attempt = 0
    while True:
        text = json.dumps([number, cell.cell_type, cell.source, attempt])
        name = hashlib.sha256(text.encode("ascii")).hexdigest()[:8]
        if name not in taken:
            return name
        attempt += 1


def _distinct(cells: Iterable[Cell]) -> list[Cell]:
    """Cells that two peers moved at the same time are there twice: in a file each has an id of its own."""
    return _with_ids(list(cells), ())


def _members(cell: Cell) -> Json:
    members: Json = {
        "id": cell.id,
        "cell_type": cell.cell_type,
        "source": cell.source.splitlines(keepends=True),
        "metadata": cell.extras.get("metadata", {}),
    }
    if cell.cell_type == "code":
        members["outputs"] = cell.outputs
        members["execution_count"] = cell.execution_count
    for name, value in cell.extras.items():
        members.setdefault(name, value)
    return members
