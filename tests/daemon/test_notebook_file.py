"""The notebook file of a room, with the library's real documents: filling, merging, saving, crashes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

pytest.importorskip("runtimed_ffi._binding.ffi", reason="the C library is not built")

from hypothesis import given, settings
from hypothesis import strategies as st

from runtimed_ffi.blobs import Blobs
from runtimed_ffi.daemon.files import notebook_file, paths
from runtimed_ffi.daemon.files.notebook_file import FileLocation, NotebookFile
from runtimed_ffi.daemon.files.paths import FileError
from runtimed_ffi.host import Host

Json = dict[str, Any]


class Desk:
    """A host with one room whose file is ``nb.ipynb``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "nb.ipynb"
        self.room = str(self.path)
        self.host = Host(directory / "s.sock")
        self.blobs = Blobs(directory / "blobs")
        self.file: NotebookFile | None = None

    def open(self) -> NotebookFile:
        self.host.prepare_room(self.room, str(self.directory / "journal"))
        place = FileLocation(self.room, self.room, str(self.directory / "base"), 0o644)
        self.file = NotebookFile(place, self.host, self.blobs)
        self.file.fill()
        self.host.admit(self.room)
        return self.file

    def reopen(self) -> NotebookFile:
        self.host.close_room(self.room)
        return self.open()

    def close(self) -> None:
        self.host.close()
        self.blobs.close()

    # -- the room

    def edit(self, *ops: Json) -> None:
        self.host.publish(self.room, ops)

    def sources(self) -> dict[str, str]:
        return {cell["id"]: cell["source"] for cell in self.host.cells(self.room)}

    def outputs(self, cell: str) -> list[str]:
        elements = self.host.cell(self.room, cell)["outputs"]
        return [self.blobs.resolve_output(element)["text"] for element in elements]

    # -- the file, as another program

    def write(self, *cells: Json, **members: Any) -> None:
        notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": list(cells), **members}
        self.path.write_text(json.dumps(notebook))

    def read(self) -> Json:
        return dict(json.loads(self.path.read_bytes()))

    def change(self, change: Callable[[Json], None]) -> None:
        notebook = self.read()
        change(notebook)
        self.path.write_text(json.dumps(notebook))


def code(name: str, source: str, *outputs: str, count: int | None = None, **members: Any) -> Json:
    streams = [{"output_type": "stream", "name": "stdout", "text": text} for text in outputs]
    cell = {"id": name, "cell_type": "code", "source": source, "metadata": {}, "outputs": streams}
    return {**cell, "execution_count": count, **members}


def set_source(cell: str, source: str) -> Json:
    return {"op": "set_source", "cell_id": cell, "source": source}


def insert(cell: str, source: str, index: int | None = None) -> Json:
    place = {} if index is None else {"index": index}
    return {"op": "insert_cell", "cell_id": cell, "cell_type": "code", "source": source, **place}


@pytest.fixture
def desk() -> Iterator[Desk]:
    # Short: a socket lies in it.
    directory = tempfile.mkdtemp(prefix="rtd-")
    desk = Desk(Path(directory))
    yield desk
    desk.close()
    shutil.rmtree(directory)


def test_a_room_opens_with_its_file(desk: Desk) -> None:
    big = "x" * 20_000
    spec = {"name": "python3", "display_name": "Python 3"}
    desk.write(code("a", "1\n2", "out", big, count=4), metadata={"kernelspec": spec})
    assert desk.open().problem is None
    cell = desk.host.cell(desk.room, "a")
    assert (cell["source"], cell["execution_count"]) == ("1\n2", 4)
    assert desk.outputs("a") == ["out", big]
    assert len(cell["outputs"][1]) == 64, "a large one lies in the blob store"
    with desk.host.fork(desk.room) as document:
        snapshot = json.loads(document.metadata()["notebook_metadata"])
    assert snapshot == {"kernelspec": spec, "runt": {"schema_version": "1"}}


def test_saving_keeps_what_the_document_has_no_place_for(desk: Desk) -> None:
    attachments = {"p.png": {"image/png": "AAAA"}}
    markdown = {"id": "m", "cell_type": "markdown", "source": "# t", "metadata": {"tags": ["x"]}}
    cells = [
        code("a", "1", "out", count=1, metadata={"collapsed": True}, odd=[1]),
        {**markdown, "attachments": attachments},
    ]
    desk.write(*cells, metadata={"mine": {"deep": 1}}, more=True)
    file = desk.open()
    desk.edit(set_source("a", "1 + 1"), insert("b", "new"))
    file.save()
    desk.path.unlink()
    desk.reopen().save()  # The file is gone, its content is not.
    saved = desk.read()
    assert [cell["id"] for cell in saved["cells"]] == ["a", "m", "b"]
    assert (saved["more"], saved["metadata"]) == (True, {"mine": {"deep": 1}})
    first, second, third = saved["cells"]
    assert (first["metadata"], first["odd"], first["source"]) == ({"collapsed": True}, [1], ["1 + 1"])
    assert first["outputs"] == cells[0]["outputs"] and first["execution_count"] == 1
    assert (second["metadata"], second["attachments"]) == ({"tags": ["x"]}, attachments)
    assert (third["metadata"], third["source"]) == ({}, ["new"])


def test_an_unknown_output_type_comes_back_into_the_file(desk: Desk) -> None:
    odd = {"output_type": "of the future", "data": 1}
    desk.write({**code("a", "1"), "outputs": [odd]})
    file = desk.open()
    desk.edit(set_source("a", "2"))
    file.save()
    assert desk.read()["cells"][0]["outputs"] == [odd]


def test_display_ids_stay_in_the_session(desk: Desk) -> None:
    file = desk.open()
    display = {"output_type": "display_data", "data": {}, "metadata": {}, "transient": {"display_id": "d"}}
    element = desk.blobs.store_output(display)
    desk.edit(insert("a", ""), {"op": "append_outputs", "cell_id": "a", "outputs": [element, "f" * 64]})
    file.save()
    kept, lost = desk.read()["cells"][0]["outputs"]
    assert "transient" not in kept
    assert lost["text"] == "[output could not be resolved]"


def test_a_room_without_file_makes_one(desk: Desk) -> None:
    file = desk.open()
    desk.edit(insert("a", "1"))
    file.save()
    assert desk.path.stat().st_mode & 0o777 == 0o644
    assert [cell["id"] for cell in desk.read()["cells"]] == ["a"]


def test_unsaved_edits_win_when_the_file_has_not_changed(desk: Desk) -> None:
    desk.write(code("a", "1"))
    desk.open()
    desk.edit(set_source("a", "edited"), insert("b", "new"))
    desk.reopen()
    assert desk.sources() == {"a": "edited", "b": "new"}
    assert desk.read()["cells"][0]["source"] == "1", "the file is written by saving only"


def test_the_file_was_changed_while_the_room_was_closed(desk: Desk) -> None:
    desk.write(code("a", "one two"), code("b", "b"))
    desk.open()
    desk.edit(set_source("a", "ONE two"))
    desk.write(code("a", "one TWO"), code("c", "c"))
    desk.reopen()
    assert desk.sources() == {"a": "ONE TWO", "c": "c"}


def test_a_save_merges_first(desk: Desk) -> None:
    desk.write(code("a", "one two"))
    file = desk.open()
    desk.edit(set_source("a", "ONE two"))
    desk.change(lambda notebook: notebook["cells"][0].update(source="one TWO", metadata={"theirs": 1}))
    file.save()
    assert desk.sources() == {"a": "ONE TWO"}
    assert desk.read()["cells"][0]["source"] == ["ONE TWO"]
    assert desk.read()["cells"][0]["metadata"] == {"theirs": 1}


def test_a_save_meets_a_change_at_the_last_moment(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write(code("a", "one"))
    file = desk.open()
    replace, changes = paths.replace, []

    def meanwhile(*arguments: Any) -> Any:
        if not changes:
            changes.append(1)
            desk.write(code("a", "one"), code("theirs", "2"))
        return replace(*arguments)

    monkeypatch.setattr(paths, "replace", meanwhile)
    desk.edit(insert("mine", "3"))
    file.save()
    assert {cell["id"] for cell in desk.read()["cells"]} == {"a", "mine", "theirs"}


def test_a_file_that_never_rests_is_reported(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write(code("a", "one"))
    file = desk.open()

    def changed(*_: object) -> None:
        raise paths.Changed

    monkeypatch.setattr(paths, "replace", changed)
    desk.edit(insert("mine", "3"))
    with pytest.raises(FileError, match="all the time"):
        file.save()


def test_moved_cells_keep_what_happened_to_them_in_the_room(desk: Desk) -> None:
    desk.write(code("a", "one two"), code("b", "b"), code("c", "c"))
    file = desk.open()
    element = desk.blobs.store_output({"output_type": "stream", "name": "stdout", "text": "ran"})
    desk.edit(
        set_source("a", "ONE two"),
        {"op": "append_outputs", "cell_id": "a", "outputs": [element]},
        {"op": "set_execution_count", "cell_id": "a", "execution_count": 5},
        {"op": "delete_cell", "cell_id": "c"},
    )
    desk.write(code("c", "c"), code("b", "b"), code("a", "one TWO"))
    assert file.refresh()
    assert list(desk.sources().items()) == [("b", "b"), ("a", "ONE TWO")]
    assert desk.outputs("a") == ["ran"]
    assert desk.host.cell(desk.room, "a")["execution_count"] == 5
    # The moved cell is another object now: later changes of the file must find it.
    desk.write(code("c", "c"), code("b", "b"), code("a", "one TWO three"))
    file.refresh()
    assert desk.sources()["a"] == "ONE TWO three"


def test_both_made_a_cell_of_one_id(desk: Desk) -> None:
    desk.write(code("a", "a"))
    file = desk.open()
    desk.edit(insert("x", "mine"))
    desk.write(code("a", "a"), code("x", "theirs"))
    file.refresh()
    assert desk.sources()["x"] == "mine"
    assert sorted(desk.sources().values()) == ["a", "mine", "theirs"]
    file.save()
    assert len(desk.read()["cells"]) == 3


def test_without_a_base_nothing_is_lost(desk: Desk) -> None:
    desk.write(code("a", "a"), code("b", "b"))
    desk.open()
    desk.edit(set_source("a", "edited"), insert("c", "c"))
    (desk.directory / "base").unlink()
    desk.write(code("a", "a of the file", "out"), code("b", "b", "ran"), code("d", "d"))
    file = desk.reopen()
    assert desk.sources()["a"] == "edited"
    assert sorted(desk.sources().values()) == ["a of the file", "b", "c", "d", "edited"]
    assert desk.outputs("b") == ["ran"]
    file.save()
    assert file.refresh() is False


def test_a_lost_journal_does_not_empty_the_file(desk: Desk) -> None:
    desk.write(code("a", "a"), code("b", "b"))
    desk.open()
    desk.host.close_room(desk.room)
    (desk.directory / "journal").unlink()
    file = desk.open()
    assert desk.sources() == {"a": "a", "b": "b"}
    file.save()
    assert len(desk.read()["cells"]) == 2


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"nbformat": 9}', b"\xff\xfe"])
def test_a_broken_file_is_reported_and_never_overwritten(desk: Desk, damage: bytes) -> None:
    desk.path.write_bytes(damage)
    file = desk.open()
    assert file.problem is not None and desk.room in file.problem
    desk.edit(insert("a", "1"))
    with pytest.raises(FileError):
        file.save()
    assert desk.path.read_bytes() == damage
    desk.write(code("b", "mended"))
    file.save()
    assert file.problem is None
    assert {cell["id"] for cell in desk.read()["cells"]} == {"a", "b"}


def test_a_file_that_breaks_while_the_room_is_open(desk: Desk) -> None:
    desk.write(code("a", "1"))
    file = desk.open()
    desk.path.write_bytes(desk.path.read_bytes()[:-5])
    with pytest.raises(FileError):
        file.refresh()
    assert desk.sources() == {"a": "1"}
    with pytest.raises(FileError):
        file.save()
    desk.path.write_bytes(b"")  # Empty for a moment, as an editor may leave it: nothing is taken from it.
    assert file.refresh() is False
    file.save()
    assert [cell["id"] for cell in desk.read()["cells"]] == ["a"]


def test_no_directory_and_no_permission_are_reported(desk: Desk) -> None:
    desk.path = desk.directory / "none" / "nb.ipynb"
    desk.room = str(desk.path)
    file = desk.open()
    with pytest.raises(FileError, match="no such directory"):
        file.save()
    file.close()
    with pytest.raises(FileError, match="closed"):
        file.save()


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("at", ["before the base", "between", "after the name"])
def test_a_crash_in_the_middle_of_a_save(desk: Desk, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    desk.write(code("a", "one two"))
    file = desk.open()
    desk.edit(set_source("a", "ONE two"))

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        if at == "before the base":
            patch.setattr(notebook_file.BaseStore, "save", crash)
        elif at == "between":
            patch.setattr(paths, "unchanged", crash)
        else:
            patch.setattr(paths, "_sync_directory", crash)
        with pytest.raises(Crash):
            file.save()
    saved = ["ONE two"] if at == "after the name" else "one two"
    assert desk.read()["cells"][0]["source"] == saved
    file = desk.reopen()
    assert desk.sources() == {"a": "ONE two"}
    desk.change(lambda notebook: notebook["cells"].append(code("b", "theirs")))
    file.save()
    assert [cell["source"] for cell in desk.read()["cells"]] == [["ONE two"], ["theirs"]]


def test_a_crash_and_then_a_change_before_the_next_load(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is unknown which version was changed: a text may come twice, but none is lost."""
    desk.write(code("a", "one two"))
    file = desk.open()
    desk.edit(set_source("a", "ONE two"), insert("b", "mine"))

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(paths, "_sync_directory", crash)
        with pytest.raises(Crash):
            file.save()
    desk.change(lambda notebook: notebook["cells"].append(code("c", "theirs")))
    desk.reopen()
    assert "ONE" in desk.sources()["a"]
    assert {"mine", "theirs"} <= set(desk.sources().values())


@pytest.mark.parametrize("merged", [False, True])
def test_a_crash_in_the_middle_of_a_merge(desk: Desk, monkeypatch: pytest.MonkeyPatch, merged: bool) -> None:
    desk.write(code("a", "one two"))
    file = desk.open()
    desk.edit(set_source("a", "ONE two"))
    desk.write(code("a", "one TWO"), code("b", "b"))
    merge = Host.merge

    def crash(*arguments: Any) -> None:
        if merged:
            merge(*arguments)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Host, "merge", crash)
        with pytest.raises(Crash):
            file.refresh()
    desk.reopen()
    assert desk.sources() == {"a": "ONE TWO", "b": "b"}, "once, not twice"


TEXT = st.text("ab \n", max_size=6)


@settings(deadline=None, max_examples=25)
@given(st.lists(TEXT, min_size=1, max_size=4), st.data())
def test_what_both_sides_write_is_in_the_saved_file(base: list[str], data: st.DataObject) -> None:
    """Both sides edit, insert and move cells; the result has each word that either of them wrote."""
    directory = tempfile.mkdtemp(prefix="rtd-")
    desk = Desk(Path(directory))
    try:
        names = [f"c{number}" for number in range(len(base))]
        desk.write(*(code(name, source) for name, source in zip(names, base)))
        file = desk.open()
        words = []
        for name in data.draw(st.lists(st.sampled_from(names), unique=True)):
            words.append(f"<room {name}>")
            desk.edit({"op": "splice_source", "cell_id": name, "index": 0, "delete": 0, "insert": words[-1]})
        if data.draw(st.booleans()):
            desk.edit(insert("room", "<room new>", data.draw(st.integers(0, len(names)))))
            words.append("<room new>")
        gone = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=2))
        theirs = []
        for name in data.draw(st.permutations([name for name in names if name not in gone])):
            theirs.append(code(name, base[int(name[1:])]))
            if data.draw(st.booleans()):
                words.append(f"<file {name}>")
                theirs[-1]["source"] += words[-1]
        if data.draw(st.booleans()):
            words.append("<file new>")
            theirs.insert(data.draw(st.integers(0, len(theirs))), code("file", words[-1]))
        desk.write(*theirs)
        file.save()
        saved = "\n".join("".join(cell["source"]) for cell in desk.read()["cells"])
        assert all(word in saved for word in words), (words, saved)
        ids = [cell["id"] for cell in desk.read()["cells"]]
        assert [name for name in ids if name in {cell["id"] for cell in theirs}] == [cell["id"] for cell in theirs]
        assert set(gone) & set(ids) == {name for name in gone if f"<room {name}>" in words}
        file.save()
        assert file.refresh() is False
    finally:
        desk.close()
        shutil.rmtree(directory)


def test_nothing_of_a_save_stays_beside_the_file(desk: Desk) -> None:
    file = desk.open()
    desk.edit(insert("a", "1"))
    file.save()
    assert sorted(os.listdir(desk.directory)) == ["base", "blobs", "journal", "nb.ipynb", "s.sock"]
