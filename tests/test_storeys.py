"""Imports point downward: docs/architecture.md lists the storeys, where each lies and what each may import.

A storey imports from itself and from those that its row names, which stand above it in the table (the table begins at
the ground). No files import each other in a circle.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from ctools import ROOT
from imports import Graph, Import, circles, python_imports, rust_imports

# No file of code is longer, in lines.
LIMIT = 450


class Storey(NamedTuple):
    """A row of a table of storeys."""

    number: int
    name: str
    places: tuple[str, ...]
    imports: tuple[str, ...]


def storeys(text: str, begins: str) -> dict[str, Storey]:
    """The rows of the tables whose places begin so, from the ground up."""
    rows = re.findall(r"^\| (\d+) \| (\w+) \| ([^|]+) \| ([^|]+) \|", text, re.M)
    found = [
        Storey(int(number), name, tuple(re.findall(r"`([^`]+)`", where)), names(may))
        for number, name, where, may in rows
    ]
    return {storey.name: storey for storey in found if storey.places[0].startswith(begins)}


def names(cell: str) -> tuple[str, ...]:
    """The storeys that a cell of the column "Imports" names."""
    return tuple(re.findall(r"\w+", cell))


def place(path: str, table: dict[str, Storey]) -> Storey | None:
    """The storey a file lies in: the one with the longest place that holds it."""
    holding = [
        (len(where), storey)
        for storey in table.values()
        for where in storey.places
        if path == where or (where.endswith("/") and path.startswith(where))
    ]
    return max(holding, key=lambda pair: pair[0])[1] if holding else None


def violations(graph: Graph, root: Path, table: dict[str, Storey]) -> list[str]:
    """A sentence for each import that its storey may not have, and for each file without a storey."""
    found = []
    for path, edges in graph.items():
        file = path.relative_to(root).as_posix()
        storey = place(file, table)
        if storey is None:
            found.append(f"{file} lies in no storey of docs/architecture.md")
            continue
        for edge in edges:
            target = edge.target.relative_to(root).as_posix()
            other = place(target, table)
            if other is not None and other != storey and other.name not in storey.imports:
                found.append(
                    f"{file}:{edge.line} imports {edge.text} ({target}), but the storey {storey.name} may not import "
                    f"{other.name}"
                )
    return found


def circle_sentences(groups: list[list[Path]], graph: Graph, root: Path) -> list[str]:
    """A sentence for each circle of files."""
    found = []
    for group in groups:
        edges = [
            f"{path.relative_to(root).as_posix()}:{edge.line} imports {edge.text}"
            for path in group
            for edge in graph[path]
            if edge.target in group
        ]
        found.append("these files import each other in a circle: " + "; ".join(edges))
    return found


TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
RUST = storeys(TEXT, "csrc/")
PYTHON = storeys(TEXT, "runtimed_ffi/")


@pytest.fixture(scope="module", params=["Rust", "Python"])
def tree(request: pytest.FixtureRequest) -> tuple[Graph, dict[str, Storey]]:
    """The graph of imports, and the storeys, of one language."""
    if request.param == "Rust":
        return rust_imports(ROOT / "csrc" / "src"), RUST
    return python_imports(ROOT, "runtimed_ffi"), PYTHON


def test_imports_point_downward(tree: tuple[Graph, dict[str, Storey]]) -> None:
    graph, table = tree
    assert sum(map(len, graph.values())) > 300, "the reader of imports found too few"
    found = violations(graph, ROOT, table)
    assert not found, "\n".join(found)


def test_no_circles(tree: tuple[Graph, dict[str, Storey]]) -> None:
    graph, _ = tree
    found = circle_sentences(circles(graph), graph, ROOT)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("table", [RUST, PYTHON], ids=["Rust", "Python"])
def test_storeys_name_only_storeys_below_them(table: dict[str, Storey]) -> None:
    below: set[str] = set()
    for storey in table.values():
        assert set(storey.imports) <= below, f"{storey.name} imports {set(storey.imports) - below}, not below it"
        below.add(storey.name)
        for where in storey.places:
            assert (ROOT / where).exists(), f"{storey.name}: {where} does not exist"


def test_an_upward_import_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "src" / "upper").mkdir(parents=True)
    (tmp_path / "src" / "lower.rs").write_text("//! Low.\nuse crate::upper::{self, Thing as Other};\npub struct Low;\n")
    (tmp_path / "src" / "upper" / "mod.rs").write_text("mod thing;\npub use thing::Thing;\n")
    (tmp_path / "src" / "upper" / "thing.rs").write_text("pub struct Thing(super::super::lower::Low);\n")
    (tmp_path / "src" / "lib.rs").write_text("pub mod lower;\npub mod upper;\n")
    graph = rust_imports(tmp_path / "src")
    table = {
        "low": Storey(1, "low", ("src/lower.rs",), ()),
        "up": Storey(2, "up", ("src/upper/", "src/lib.rs"), ("low",)),
    }
    assert violations(graph, tmp_path, table) == [
        "src/lower.rs:2 imports crate::upper (src/upper/mod.rs), but the storey low may not import up",
        "src/lower.rs:2 imports crate::upper::Thing (src/upper/thing.rs), but the storey low may not import up",
    ]
    (circle,) = circle_sentences(circles(graph), graph, tmp_path)
    assert "src/lower.rs:2 imports crate::upper::Thing; src/upper/thing.rs:1 imports crate::lower::Low" in circle


def test_python_imports_are_found(tmp_path: Path) -> None:
    package = tmp_path / "house"
    package.mkdir()
    (package / "__init__.py").write_text("from house.up import f\n")
    (package / "low.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house import up\n\n"
        "def f():\n    import house.up\n"
    )
    (package / "up.py").write_text("from . import low\nf = low.f\n")
    graph = python_imports(tmp_path, "house")
    assert graph[package / "low.py"] == [
        Import(package / "up.py", 3, "from house import up", True),
        Import(package / "up.py", 6, "import house.up", False),
    ]
    assert graph[package / "up.py"] == [Import(package / "low.py", 1, "from . import low", False)]
    assert circles(graph) == [[package / "low.py", package / "up.py"]]


def test_files_stay_small() -> None:
    folders = ("csrc/src", "csrc/tests", "runtimed_ffi", "tests", "benchmarks")
    paths = [path for folder in folders for pattern in ("*.rs", "*.py") for path in (ROOT / folder).rglob(pattern)]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    found = [f"{path.relative_to(ROOT).as_posix()} has {count} lines" for path, count in lines.items() if count > LIMIT]
    assert not found, "split these files along a noun: " + ", ".join(sorted(found))


def test_modules_say_their_storey(tree: tuple[Graph, dict[str, Storey]]) -> None:
    graph, table = tree
    silent = [
        f"{file}: storey {storey.number}"
        for path in graph
        if path.suffix != ".pyi" and (storey := place(file := path.relative_to(ROOT).as_posix(), table))
        if not re.search(
            rf"[Ss]torey\b.*\b({storey.number}|{storey.name})\b",
            "\n".join(path.read_text(encoding="utf-8").splitlines()[:6]),
        )
    ]
    assert not silent, "the first lines of these modules do not say their storey: " + ", ".join(silent)
