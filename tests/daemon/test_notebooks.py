"""The bytes of a notebook file and what is in them."""

from __future__ import annotations

import json
from typing import Any

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimed_ffi.daemon.files import notebooks, snapshots
from runtimed_ffi.daemon.files.notebooks import FormatError


def encoded(**members: Any) -> bytes:
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [], **members}).encode()


def markdown(source: Any, **members: Any) -> dict[str, Any]:
    return {"cell_type": "markdown", "source": source, "metadata": {}, **members}


def rendered(file: notebooks.File, snapshot: Any = None) -> Any:
    data, complaint = notebooks.render(file.extras, file.cells, snapshot)
    assert complaint is None
    return json.loads(data)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT, lambda v: st.lists(v, max_size=2)
)
METADATA = st.dictionaries(TEXT, VALUES, max_size=3).filter(lambda m: not {"tags", "name", "jupyter"} & set(m))
LINES = TEXT | st.lists(TEXT, max_size=3)
OUTPUTS = st.one_of(
    st.fixed_dictionaries(
        {"output_type": st.just("stream"), "name": st.sampled_from(["stdout", "stderr"]), "text": LINES}
    ),
    st.fixed_dictionaries(
        {
            "output_type": st.just("display_data"),
            "data": st.dictionaries(st.sampled_from(["text/plain", "text/html"]), LINES, max_size=2),
            "metadata": st.just({}),
        }
    ),
)


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """Notebook files as nbformat accepts them."""
    cells = []
    for number in range(draw(st.integers(0, 4))):
        cell: dict[str, Any] = {"id": f"c{number}", "source": draw(LINES), "metadata": draw(METADATA)}
        cell["cell_type"] = draw(st.sampled_from(["code", "markdown", "raw"]))
        if cell["cell_type"] == "code":
            cell["outputs"] = draw(st.lists(OUTPUTS, max_size=2))
            cell["execution_count"] = draw(st.none() | st.integers(0, 99))
        elif draw(st.booleans()):
            cell["attachments"] = {"picture": {"image/png": draw(TEXT)}}
        cells.append(cell)
    metadata = draw(METADATA.filter(lambda m: not {"kernelspec", "language_info", "runt", "uv", "conda"} & set(m)))
    if draw(st.booleans()):
        metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "more": draw(VALUES)}
    if draw(st.booleans()):
        metadata["language_info"] = {"name": "python", "codemirror_mode": {"name": "ipython"}}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}


@settings(deadline=None)  # The validator is compiled in the first example.
@given(files())
def test_a_file_read_and_written_is_the_same_notebook(notebook: dict[str, Any]) -> None:
    data = json.dumps(notebook).encode()
    file = notebooks.parse(data)
    written, complaint = notebooks.render(file.extras, file.cells, snapshots.of_metadata(file.metadata))
    assert complaint is None
    assert nbformat.reads(written.decode(), as_version=4) == nbformat.reads(data.decode(), as_version=4)
    assert notebooks.render(*notebooks.parse(written)[::-1], None)[0] == written, "and written again the same bytes"


def test_the_form_of_the_reference() -> None:
    """golden saved.ipynb, section 9.8"""
    code = {"cell_type": "code", "source": "a\nb", "metadata": {}, "outputs": [], "execution_count": None, "id": "x"}
    file = notebooks.parse(encoded(cells=[code, markdown("", id="y", attachments={})], more=1))
    data, _ = notebooks.render(file.extras, file.cells, None)
    assert list(json.loads(data)) == ["nbformat", "nbformat_minor", "metadata", "cells", "more"]
    first, second = json.loads(data)["cells"]
    assert list(first) == ["id", "cell_type", "source", "metadata", "outputs", "execution_count"]
    assert (first["source"], second["source"]) == (["a\n", "b"], [])
    assert list(second) == ["id", "cell_type", "source", "metadata", "attachments"]
    assert data.startswith(b'{\n  "nbformat": 4,\n') and data.endswith(b"}\n")


def test_older_notebooks_get_ids_that_depend_on_the_file_alone() -> None:
    old = encoded(nbformat_minor=2, cells=[markdown("one"), markdown("two"), markdown("one")])
    first, second = notebooks.parse(old), notebooks.parse(old)
    assert first == second
    assert len({cell.id for cell in first.cells}) == 3
    assert rendered(first)["nbformat_minor"] == 5


def test_version_3_is_upgraded() -> None:
    cells = [
        {"cell_type": "code", "input": "1", "outputs": [], "language": "python", "collapsed": False, "metadata": {}}
    ]
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": cells, "metadata": {}}]}
    data = json.dumps(old).encode()
    file = notebooks.parse(data)
    assert [(cell.cell_type, cell.source) for cell in file.cells] == [("code", "1")]
    assert notebooks.parse(data) == file


def test_cells_without_ids_are_recognised() -> None:
    known = [
        {"id": name, "cell_type": "markdown", "source": source} for name, source in (("a", "1"), ("b", "2"), ("c", "3"))
    ]
    data = encoded(nbformat_minor=4, cells=[markdown("1"), markdown("changed"), markdown("3"), markdown("new")])
    names = [cell.id for cell in notebooks.parse(data, known).cells]
    assert names[:3] == ["a", "b", "c"]
    assert names[3] not in ("a", "b", "c")
    data = encoded(nbformat_minor=4, cells=[markdown(source) for source in ("new", "1", "2", "3")])
    names = [cell.id for cell in notebooks.parse(data, known).cells]
    assert names[1:] == ["a", "b", "c"]
    data = encoded(nbformat_minor=4, cells=[markdown(source) for source in ("2", "3", "new")])
    names = [cell.id for cell in notebooks.parse(data, known).cells]
    assert names[:2] == ["b", "c"]


@pytest.mark.parametrize(
    "count, kept", [(0, True), (2**63 - 1, True), (2**63, False), (-1, False), (True, False), (1.0, False)]
)
def test_an_execution_count_that_no_document_holds_is_none(count: object, kept: bool) -> None:
    cell = {"cell_type": "code", "metadata": {}, "source": "", "outputs": [], "execution_count": count}
    (read,) = notebooks.parse(encoded(cells=[cell])).cells
    assert read.execution_count == (count if kept else None)


def test_a_cell_of_another_type_is_another_cell() -> None:
    code = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    types = ("markdown", "code", "markdown")
    known = [{"id": name, "cell_type": kind, "source": name} for name, kind in zip("abc", types)]
    cells = [{**code, "source": "x"}, {**code, "source": "y"}, markdown("z")]
    names = [cell.id for cell in notebooks.parse(encoded(nbformat_minor=4, cells=cells), known).cells]
    assert names[0] not in ("a", "b", "c") and names[1:] == ["b", "c"]


def test_an_id_is_given_once() -> None:
    file = notebooks.parse(encoded(cells=[markdown("1", id="a"), markdown("2", id="a")]))
    assert file.cells[0].id == "a"
    assert file.cells[1].id != "a"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        encoded(nbformat=5),
        encoded(nbformat="4"),
        encoded(nbformat=2, cells=None),
        encoded(cells={}),
        encoded(cells=[1]),
        encoded(cells=[{"source": ""}]),
        encoded(cells=[markdown(7)]),
        encoded(cells=[markdown(["a", 7])]),
        encoded(cells=[{"cell_type": "code", "source": "", "outputs": [1]}]),
        encoded(cells=[markdown("\ud800")]),
    ],
)
def test_what_is_no_notebook(data: bytes) -> None:
    with pytest.raises(FormatError):
        notebooks.parse(data)


@pytest.mark.parametrize("version", [5, "4", 0, -1, None])
def test_a_format_that_is_not_known_is_named(version: object) -> None:
    with pytest.raises(FormatError, match=f"no notebook this daemon knows: nbformat {version!r}"):
        notebooks.parse(encoded(nbformat=version))


def test_nbformat_is_asked_but_does_not_decide() -> None:
    cell = notebooks.Cell("bad id!", "code", "", [], None, {})
    data, complaint = notebooks.render({}, [cell], None)
    assert complaint is not None
    assert json.loads(data)["cells"][0]["id"] == "bad id!"


def test_the_snapshot_of_a_file() -> None:
    metadata = {
        "kernelspec": {"name": "n", "display_name": "d", "language": None, "env": {}},
        "language_info": {"name": "python", "version": "3", "mimetype": "x"},
        "uv": {"dependencies": ["six"]},
    }
    assert snapshots.of_metadata(metadata) == {
        "kernelspec": {"name": "n", "display_name": "d"},
        "language_info": {"name": "python", "version": "3"},
        "runt": {"schema_version": "1", "uv": {"dependencies": ["six"]}},
    }
    runt = {"schema_version": "1", "env_id": "e", "trust_signature": "s", "deno": None}
    assert snapshots.of_metadata({"runt": runt}) == {"runt": {"schema_version": "1", "env_id": "e"}}


def test_a_snapshot_is_merged_into_a_file() -> None:
    metadata = {
        "kernelspec": {"name": "n", "display_name": "d", "env": 1},
        "language_info": {"name": "python", "mimetype": "x"},
        "runt": {"schema_version": "1", "trust_signature": "s"},
        "mine": [1],
    }
    same = snapshots.of_metadata(metadata)
    assert snapshots.merged(metadata, same) == metadata
    changed = {
        "kernelspec": {"name": "m", "display_name": "d"},
        "runt": {"schema_version": "1", "uv": {"dependencies": []}},
    }
    assert snapshots.merged(metadata, changed) == {
        "kernelspec": {"name": "m", "display_name": "d"},
        "runt": {"schema_version": "1", "trust_signature": "s", "uv": {"dependencies": []}},
        "mine": [1],
    }
    assert snapshots.merged(metadata, {}) == {"runt": {"schema_version": "1", "trust_signature": "s"}, "mine": [1]}
    unreadable = {"kernelspec": "?", "language_info": 3}
    assert snapshots.merged(unreadable, {"runt": {"schema_version": "1"}}) == unreadable
