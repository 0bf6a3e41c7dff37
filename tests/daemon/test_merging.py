"""What a changed notebook file means for cells, against a plain model of the document."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from runtimed_ffi.daemon.files import merging
from runtimed_ffi.daemon.files.notebooks import Cell

Json = dict[str, Any]
NAMES = list("abcdefgh")


def store(cell: Cell) -> list[str]:
    return [json.dumps(output) for output in cell.outputs]


def document(cells: list[Cell]) -> list[Json]:
    return [
        {
            "id": cell.id,
            "cell_type": cell.cell_type,
            "source": cell.source,
            "execution_count": cell.execution_count,
            "outputs": store(cell),
        }
        for cell in cells
    ]


def apply(cells: list[Json], ops: list[Json]) -> list[Json]:
    """The operations of the document on a plain list."""
    cells = json.loads(json.dumps(cells))
    for op in ops:
        name = op["cell_id"]
        at = next((number for number, cell in enumerate(cells) if cell["id"] == name), None)
        if op["op"] == "insert_cell":
            assert at is None, f"{name} is there"
            new = {"id": name, "execution_count": None, "outputs": []}
            cells.insert(op["index"], {**new, "cell_type": op["cell_type"], "source": op["source"]})
            continue
        assert at is not None, f"{op['op']} of {name}, which is not there"
        cell = cells[at]
        if op["op"] == "delete_cell":
            del cells[at]
        elif op["op"] == "move_cell":
            cells.insert(op["index"], cells.pop(at))
        elif op["op"] == "set_source":
            cell["source"] = op["source"]
        elif op["op"] == "set_cell_type":
            cell["cell_type"] = op["cell_type"]
        elif op["op"] == "clear_outputs":
            cell["outputs"], cell["execution_count"] = [], None
        elif op["op"] == "append_outputs":
            cell["outputs"] += op["outputs"]
        elif op["op"] == "set_execution_count":
            cell["execution_count"] = op["execution_count"]
        else:
            raise AssertionError(op)
    return cells


@st.composite
def notebooks(draw: st.DrawFn) -> list[Cell]:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    return [
        Cell(
            name,
            draw(st.sampled_from(["code", "markdown"])),
            draw(st.sampled_from(["", "x", "y\nz"])),
            [{"n": n} for n in draw(st.lists(st.integers(0, 2), max_size=2))],
            draw(st.sampled_from([None, 1, 2])),
            {},
        )
        for name in names
    ]


@settings(deadline=None)  # A slow machine is no failure.
@given(notebooks(), notebooks())
def test_a_copy_of_the_base_becomes_the_file(base: list[Cell], file: list[Cell]) -> None:
    """Also in a room without edits, and nothing needs to be rebased there."""
    known = document(base)
    change = merging.change(known, file, known, store)
    merged = apply(known, change.in_place)
    after = apply(merged, change.structural)
    assert after == document(file)
    assert merging.reconcile(known, change, merged, after) == []


@settings(deadline=None)  # A slow machine is no failure.
@given(st.permutations(range(7)))
def test_as_few_cells_are_moved_as_can_be(order: list[int]) -> None:
    """All but the longest sequence that is in the right order already."""
    base = [Cell(NAMES[number], "code", "", [], None, {}) for number in range(7)]
    known, file = document(base), [base[number] for number in order]
    change = merging.change(known, file, known, store)
    assert [cell["id"] for cell in apply(apply(known, change.in_place), change.structural)] == [
        cell.id for cell in file
    ]
    moved = [op["cell_id"] for op in [*change.in_place, *change.structural] if op["op"] == "move_cell"]
    ordered = (
        size for size in range(7, 0, -1) for part in itertools.combinations(order, size) if list(part) == sorted(part)
    )
    assert len(moved) == 7 - next(ordered)


@settings(deadline=None)  # A slow machine is no failure.
@given(notebooks(), notebooks())
def test_nothing_is_lost_without_a_base(room: list[Cell], file: list[Cell]) -> None:
    before = document(room)
    after = apply(before, merging.exchange(before, file, store).structural)
    assert after == document(file)
    united = apply(after, merging.unite(before, after))
    by_id = {cell["id"]: cell for cell in united}
    for cell in before:
        found = by_id[cell["id"]]
        assert (found["cell_type"], found["source"]) == (cell["cell_type"], cell["source"])
        if cell["outputs"]:
            assert found["outputs"] == cell["outputs"]
    texts = [(cell["cell_type"], cell["source"]) for cell in united]
    for cell in file:
        assert cell.key in texts
    assert len(by_id) == len(united)


def code(name: str, source: str, *outputs: int, count: int | None = None) -> Cell:
    return Cell(name, "code", source, [{"n": n} for n in outputs], count, {})


def meet(base: list[Cell], file: list[Cell], room: list[Cell]) -> tuple[merging.Change, list[Json]]:
    known, before = document(base), document(room)
    change = merging.change(known, file, before, store)
    return change, before


def test_outputs_of_the_file_count_only_where_the_room_has_none_of_its_own() -> None:
    base = [code("a", "x", 1), code("b", "y", 1)]
    file = [code("a", "x", 2, count=7), code("b", "y", 2)]
    room = [code("a", "x", 1), code("b", "y", 3)]
    change, _ = meet(base, file, room)
    after = apply(document(base), change.in_place)
    assert [cell["outputs"] for cell in after] == [['{"n": 2}'], ['{"n": 1}']]
    assert after[0]["execution_count"] == 7
    assert change.structural == []


def test_a_cell_the_file_drops_stays_if_the_room_has_edited_it() -> None:
    base = [code("a", "1"), code("b", "2"), code("c", "3")]
    change, room = meet(base, [code("a", "1")], [code("a", "1"), code("b", "2 edited", 5), code("c", "3", 6)])
    after = [cell for cell in room if cell["id"] == "a"]
    mended = apply(after, merging.reconcile(document(base), change, room, after))
    assert [(cell["id"], cell["source"], cell["outputs"]) for cell in mended] == [
        ("a", "1", []),
        ("b", "2 edited", ['{"n": 5}']),
    ]


def test_a_cell_the_room_has_deleted_comes_back_only_if_the_file_has_edited_it() -> None:
    base = [code("a", "1"), code("b", "2")]
    change, _ = meet(base, [code("b", "2"), code("a", "1 edited")], [])
    assert change.returned == {"a"}
    after = apply(document(base), change.in_place)
    after = apply(after, change.structural)
    assert [(cell["id"], cell["source"]) for cell in after] == [("b", "2"), ("a", "1 edited")]


def test_a_cell_the_file_moves_stays_deleted_if_the_room_has_deleted_it() -> None:
    base = [code("a", "1"), code("b", "2"), code("c", "3")]
    change, room = meet(base, [code("b", "2"), code("c", "3"), code("a", "1")], [code("b", "2"), code("c", "3")])
    assert change.replaced == {"a"}
    mended = merging.reconcile(document(base), change, room, [*room, *document([code("a", "1")])])
    assert mended == [{"op": "delete_cell", "cell_id": "a"}]


def test_few_cells_are_moved() -> None:
    base = [code(name, name) for name in NAMES]
    change, _ = meet(base, [base[-1], *base[:-1]], base)
    assert change.structural == [{"op": "move_cell", "cell_id": NAMES[-1], "index": 0}]


def test_where_both_have_text_the_copy_stands_behind_the_cell_of_the_room() -> None:
    room = document([code("a", "room a"), code("b", "same"), code("c", "room c"), code("d", "same")])
    file = [code("a", "file a"), code("b", "same"), code("c", "file c"), code("d", "same")]
    after = apply(room, merging.exchange(room, file, store).structural)
    united = apply(after, merging.unite(room, after))
    assert [cell["source"] for cell in united] == ["room a", "file a", "same", "room c", "file c", "same"]
    assert [cell["id"] for cell in united if cell["source"].startswith("room")] == ["a", "c"]


def test_a_copy_gets_an_id_that_is_free() -> None:
    cell = {"id": "a", "source": "x"}
    first = merging._copy_id("a", cell, set())
    second = merging._copy_id("a", cell, {first})
    assert len({"a", first, second, merging._copy_id("a", cell, {first, second})}) == 4
    assert merging._copy_id("a", cell, set()) == first, "the same on every machine"
