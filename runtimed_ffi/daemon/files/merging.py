"""What a changed notebook file means for the document of its room.

Storey: daemon (7).  The file is a peer that was away: its change is made in a copy of the document as it was when file
and document were last the same, and merged from there, so that texts merge by character.  Two things a merge cannot
do are done after it (``reconcile``): a cell that the file moves keeps its edits and outputs of the room, and a cell
that the file drops stays if a peer has edited it.  Pure functions over cells in the form of the document.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from runtimed_ffi.daemon.files.notebooks import Cell
from runtimed_ffi.daemon.ports import Json

StoreOutputs = Callable[[Cell], list[str]]
"""Elements of the document for the outputs of a cell."""


class Change(NamedTuple):
    """The operations that turn a copy of the document into the file, in two steps, and facts about its cells."""

    in_place: list[Json]
    """Operations that keep every cell in its place, and inserts if there is nothing else."""
    structural: list[Json]
    """Operations that delete, move or insert cells; ``reconcile`` after these."""
    dropped: frozenset[str]
    """Cells the file no longer has."""
    returned: frozenset[str]
    """Cells that are gone from the room but changed in the file: they come back."""
    replaced: frozenset[str]
    """Cells that were made anew with the same id."""


def change(base: Sequence[Json], file: Sequence[Cell], room: Sequence[Json], store: StoreOutputs) -> Change:
    """The change of the file since it was ``base``, given the present cells of the room.

    Outputs of the file count only where it has others than before and the room has not.
    """
    before, now = {cell["id"]: cell for cell in base}, {cell["id"]: cell for cell in room}
    wanted = [cell.id for cell in file]
    in_place: list[Json] = []
    structural: list[Json] = []
    returned: set[str] = set()
    for cell in file:
        known = before.get(cell.id)
        if known is None:
            continue
        if cell.id not in now and cell.key != (known["cell_type"], known["source"]):
            returned.add(cell.id)
            structural.append({"op": "delete_cell", "cell_id": cell.id})
            continue
        in_place += _edits(known, cell, now.get(cell.id), store)
    dropped = [name for name in before if name not in set(wanted)]
    structural += [{"op": "delete_cell", "cell_id": name} for name in dropped]
    order = [name for name in before if name not in returned and name not in dropped]
    moves = _moves(order, [name for name in wanted if name in set(order)])
    structural += [{"op": "move_cell", "cell_id": name, "index": index} for name, index in moves]
    new = [(index, cell) for index, cell in enumerate(file) if cell.id not in before or cell.id in returned]
    inserts = [_insert(cell, index) for index, cell in new]
    contents = [op for _, cell in new for op in _contents(cell.id, store(cell), cell.execution_count)]
    # New cells come last: then every place before one is taken, and its index in the file is its place.
    if structural:
        structural += inserts + contents
    else:
        in_place += inserts + contents
    replaced = frozenset(name for name, _ in moves)
    return Change(in_place, structural, frozenset(dropped), frozenset(returned), replaced)


def exchange(room: Sequence[Json], file: Sequence[Cell], store: StoreOutputs) -> Change:
    """The change when it is unknown what the file was: the file's cells for the room's; ``unite`` brings those back."""
    structural: list[Json] = [{"op": "delete_cell", "cell_id": cell["id"]} for cell in room]
    structural += [_insert(cell, index) for index, cell in enumerate(file)]
    structural += [op for cell in file for op in _contents(cell.id, store(cell), cell.execution_count)]
    return Change([], structural, frozenset(), frozenset(), frozenset())


def reconcile(base: Sequence[Json], made: Change, merged: Sequence[Json], after: Sequence[Json]) -> list[Json]:
    """Operations on the room after the structural step: ``merged`` are its cells before it, ``after`` those now."""
    before, now = {cell["id"]: cell for cell in base}, {cell["id"]: cell for cell in after}
    was = {cell["id"] for cell in merged}
    # Deleted in the room; the file has only moved them.
    unwanted = [name for name in made.replaced if name not in was and name in now]
    ops: list[Json] = [{"op": "delete_cell", "cell_id": name} for name in unwanted]
    for cell in merged:
        if cell["id"] in made.replaced and cell["id"] in now:
            ops += _restored(now[cell["id"]], cell)
    edited = [cell for cell in merged if cell["id"] in made.dropped and not _same_text(cell, before[cell["id"]])]
    return ops + _back(edited, merged, [cell for cell in after if cell["id"] not in unwanted])


def unite(merged: Sequence[Json], after: Sequence[Json]) -> list[Json]:
    """Operations on the room after an exchange: all it had comes back, and where both have text, both stay.

    Of a cell that differs, the room's version keeps the id; the file's follows it as a cell of its own.
    """
    now = {cell["id"]: cell for cell in after}
    ops: list[Json] = []
    copies: list[tuple[str, Json]] = []
    for cell in merged:
        present = now.get(cell["id"])
        if present is None:
            continue
        if not _same_text(cell, present):
            copies.append((cell["id"], present))
        elif not cell["outputs"]:
            continue
        ops += _restored(present, cell)
    ops += _back([cell for cell in merged if cell["id"] not in now], merged, after)
    place = [cell["id"] for cell in after]
    for op in ops:
        if op["op"] == "insert_cell":
            place.insert(op["index"], op["cell_id"])
    for name, cell in copies:
        copy = _copy_id(name, cell, set(place))
        index = place.index(name) + 1
        place.insert(index, copy)
        ops.append(_inserted({**cell, "id": copy}, index))
        ops += _contents(copy, cell["outputs"], cell["execution_count"])
    return ops


# -- parts


def _edits(known: Json, cell: Cell, present: Json | None, store: StoreOutputs) -> list[Json]:
    ops: list[Json] = []
    if cell.source != known["source"]:
        ops.append({"op": "set_source", "cell_id": cell.id, "source": cell.source})
    if cell.cell_type != known["cell_type"]:
        ops.append({"op": "set_cell_type", "cell_id": cell.id, "cell_type": cell.cell_type})
    if present is not None and _results(present) == _results(known):
        elements = store(cell)
        if (elements, cell.execution_count) != _results(known):
            ops.append({"op": "clear_outputs", "cell_id": cell.id})
            ops += _contents(cell.id, elements, cell.execution_count)
    return ops


def _restored(present: Json, wanted: Json) -> list[Json]:
    """Operations that give a cell the content of another one."""
    name = wanted["id"]
    ops: list[Json] = []
    if present["source"] != wanted["source"]:
        ops.append({"op": "set_source", "cell_id": name, "source": wanted["source"]})
    if present["cell_type"] != wanted["cell_type"]:
        ops.append({"op": "set_cell_type", "cell_id": name, "cell_type": wanted["cell_type"]})
    if _results(present) != _results(wanted):
        ops.append({"op": "clear_outputs", "cell_id": name})
        ops += _contents(name, wanted["outputs"], wanted["execution_count"])
    return ops


def _back(cells: Sequence[Json], merged: Sequence[Json], after: Sequence[Json]) -> list[Json]:
    """Operations that insert cells again, each behind the one that preceded it."""
    back = {cell["id"] for cell in cells}
    place = [cell["id"] for cell in after]
    standing = set(place)
    before: str | None = None
    ops: list[Json] = []
    for cell in merged:
        name = cell["id"]
        if name not in standing:
            if name not in back:
                continue
            index = 0 if before is None else place.index(before) + 1
            place.insert(index, name)
            standing.add(name)
            ops.append(_inserted(cell, index))
            ops += _contents(name, cell["outputs"], cell["execution_count"])
        before = name
    return ops


def _insert(cell: Cell, index: int) -> Json:
    return {
        "op": "insert_cell",
        "cell_id": cell.id,
        "cell_type": cell.cell_type,
        "source": cell.source,
        "index": index,
    }


def _inserted(cell: Mapping[str, object], index: int) -> Json:
    return {
        "op": "insert_cell",
        "cell_id": cell["id"],
        "cell_type": cell["cell_type"],
        "source": cell["source"],
        "index": index,
    }


def _contents(name: str, elements: Sequence[str], count: int | None) -> list[Json]:
    ops: list[Json] = []
    if elements:
        ops.append({"op": "append_outputs", "cell_id": name, "outputs": list(elements)})
    if count is not None:
        ops.append({"op": "set_execution_count", "cell_id": name, "execution_count": count})
    return ops


def _results(cell: Json) -> tuple[list[str], int | None]:
    return cell["outputs"], cell["execution_count"]


def _same_text(one: Json, other: Json) -> bool:
    return bool(one["source"] == other["source"] and one["cell_type"] == other["cell_type"])


def _moves(order: list[str], wanted: list[str]) -> list[tuple[str, int]]:
    """The fewest moves that bring ``order`` into the order ``wanted``: (what, index among the others)."""
    rank = {name: number for number, name in enumerate(wanted)}
    stay = _longest_increasing([rank[name] for name in order])
    current = list(order)
    moves: list[tuple[str, int]] = []
    for number, name in enumerate(wanted):
        if number in stay:
            continue
        current.remove(name)
        # Behind the cell before it in the file, which is in place already.
        index = current.index(wanted[number - 1]) + 1 if number else 0
        current.insert(index, name)
        moves.append((name, index))
    return moves


def _longest_increasing(numbers: list[int]) -> set[int]:
    ends: list[int] = []
    best: list[int] = []
    before: dict[int, int | None] = {}
    for number in numbers:
        at = bisect.bisect_left(ends, number)
        before[number] = best[at - 1] if at else None
        ends[at : at + 1] = [number]
        best[at : at + 1] = [number]
    found: set[int] = set()
    last = best[-1] if best else None
    while last is not None:
        found.add(last)
        last = before[last]
    return found


def _copy_id(name: str, cell: Json, taken: set[str]) -> str:
    attempt = 0
    while True:
        copy = hashlib.sha256(f"{name}\0{cell['source']}\0{attempt}".encode()).hexdigest()[:8]
        if copy not in taken:
            return copy
        attempt += 1
