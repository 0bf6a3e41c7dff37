"""What the source files of the package and of the crate import, read from their text.

The result is a graph: a file, and for each file it names the line and the text of the import. Only code that ships is
read: unit tests inside Rust files are left out.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class Import(NamedTuple):
    """One import of a file of the same tree."""

    target: Path
    line: int
    text: str
    checking: bool = False  # below `if TYPE_CHECKING:`, so nothing is loaded


Graph = dict[Path, list[Import]]


# --- Python


def python_imports(root: Path, package: str) -> Graph:
    """The imports within a Python package, also those inside functions."""
    paths = sorted(path for pattern in ("*.pyi", "*.py") for path in (root / package).rglob(pattern))
    files = {module_name(root, path): path for path in paths}
    graph: Graph = {}
    for name, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        checking = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for statement in node.body
            for inner in ast.walk(statement)
        }
        graph[path] = [
            Import(files[target], node.lineno, ast.unparse(node), id(node) in checking)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for target in sorted(set(python_targets(node, name, path, files)))
            if files[target] != path
        ]
    return graph


def module_name(root: Path, path: Path) -> str:
    """The dotted name of a file."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def python_targets(node: ast.Import | ast.ImportFrom, name: str, path: Path, files: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a statement names; of `from a import b`, the module b if there is one."""
    if isinstance(node, ast.Import):
        wanted = [alias.name for alias in node.names]
        yield from (module for module in wanted if module in files)
        return
    base = node.module or ""
    if node.level:
        parts = name.split(".")
        parts = parts[: len(parts) - node.level + (path.name == "__init__.py")]
        base = ".".join([*parts, *base.split(".")] if base else parts)
    for alias in node.names:
        if f"{base}.{alias.name}" in files:
            yield f"{base}.{alias.name}"
        elif base in files:
            yield base


# --- Rust

_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*|/\*.*?\*/', re.S)
_USE = re.compile(r"^[ \t]*(pub(?:\([^)]*\))?[ \t]+)?use\s+([^;]+);", re.M)
_PATH = re.compile(r"(?<![\w:$])\w+(?:::\w+)+")


def rust_imports(source: Path) -> Graph:
    """The imports within a crate: its `use` declarations and the paths written out in its code.

    A name that a module passes on by `pub use` counts as an import of the file that defines it.
    """
    texts = {path: rust_code(path) for path in sorted(source.rglob("*.rs")) if path.name != "tests.rs"}
    modules = {rust_module(source, path): path for path in texts}
    passed_on: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {module: {} for module in modules}
    uses: dict[Path, list[tuple[tuple[str, ...], int, bool]]] = {path: [] for path in texts}
    for module, path in modules.items():
        for match in _USE.finditer(texts[path]):
            line = texts[path].count("\n", 0, match.start(2)) + 1
            for full, name in use_tree(" ".join(match[2].split())):
                absolute = resolve(full, module, modules)
                if absolute is None:
                    continue
                if match[1]:
                    passed_on[module][name] = absolute
                uses[path].append((absolute, line, bool(match[1])))
        rest = _USE.sub(lambda match: "\n" * match[0].count("\n"), texts[path])
        for match in _PATH.finditer(rest):
            absolute = resolve(tuple(match[0].split("::")), module, modules)
            if absolute is not None:
                uses[path].append((absolute, rest.count("\n", 0, match.start()) + 1, False))
    graph: Graph = {path: [] for path in texts}
    for module, path in modules.items():
        for absolute, line, public in uses[path]:
            target = defining(absolute, modules, passed_on)
            own_child = public and target is not None and rust_module(source, target)[: len(module)] == module
            if target is not None and target != path and not own_child:
                graph[path].append(Import(target, line, "::".join(("crate", *absolute))))
    return graph


def rust_code(path: Path) -> str:
    """The text of a file without comments and unit tests; lines keep their numbers."""
    text = _COMMENT.sub(lambda match: match[1] or "\n" * match[0].count("\n"), path.read_text(encoding="utf-8"))
    return re.split(r"^#\[cfg\(test\)\]\s*\n(?=(?:pub(?:\([^)]*\))? )?mod )", text, maxsplit=1, flags=re.M)[0]


def rust_module(source: Path, path: Path) -> tuple[str, ...]:
    """The module that a file holds, without `crate`."""
    parts = path.relative_to(source).with_suffix("").parts
    return parts[:-1] if parts[-1] in ("mod", "lib") else parts


def use_tree(text: str, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The paths in the tree of a `use`, each with the name it gets."""
    head, brace, inner = text.partition("{")
    if brace:
        parts = tuple(part for part in head.strip().split("::") if part)
        for item in split_items(inner.rsplit("}", 1)[0]):
            yield from use_tree(item, prefix + parts)
        return
    path, _, name = text.strip().partition(" as ")
    full = prefix + tuple(path.split("::"))
    if full[-1] == "self":
        full = full[:-1]
    yield full, name.strip() or full[-1]


def split_items(text: str) -> Iterable[str]:
    """The items between braces, at the outermost commas."""
    depth, start = 0, 0
    for at, letter in enumerate(text + ","):
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            if text[start:at].strip():
                yield text[start:at].strip()
            start = at + 1


def resolve(
    path: tuple[str, ...], module: tuple[str, ...], modules: dict[tuple[str, ...], Path]
) -> tuple[str, ...] | None:
    """A path from the root of the crate, or None for one that leads to another crate."""
    if (*module, path[0]) in modules:
        return module + path
    if path[0] == "crate":
        return path[1:]
    if path[0] == "self":
        return module + path[1:]
    if path[0] == "super":
        at = module
        while path and path[0] == "super":
            at, path = at[:-1], path[1:]
        return at + path
    return None


def defining(
    path: tuple[str, ...],
    modules: dict[tuple[str, ...], Path],
    passed_on: dict[tuple[str, ...], dict[str, tuple[str, ...]]],
) -> Path | None:
    """The file that defines what a path names, through modules that only pass it on."""
    for length in range(len(path), -1, -1):
        module = path[:length]
        if module in modules:
            rest = path[length:]
            if rest and rest[0] in passed_on[module]:
                onward = passed_on[module][rest[0]] + rest[1:]
                if onward != path:
                    return defining(onward, modules, passed_on)
            return modules[module]
    return None


# --- circles


def circles(graph: Graph) -> list[list[Path]]:
    """The groups of files that reach each other by imports, each in order of path."""
    index: dict[Path, int] = {}
    low: dict[Path, int] = {}
    stack: list[Path] = []
    found: list[list[Path]] = []

    def visit(path: Path) -> None:
        index[path] = low[path] = len(index)
        stack.append(path)
        for edge in graph.get(path, []):
            if edge.checking:
                continue
            if edge.target not in index:
                visit(edge.target)
                low[path] = min(low[path], low[edge.target])
            elif edge.target in stack:
                low[path] = min(low[path], index[edge.target])
        if low[path] == index[path]:
            group = []
            while not group or group[-1] != path:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for path in graph:
        if path not in index:
            visit(path)
    return found
