"""The requirements of a notebook: kernel type, dependencies, project; read from its metadata and its directory.

Storey: daemon (7).  Source: protocol 2, sections 7.4, 9.6, 10.2 and 10.5.  Nothing here starts or makes anything.
Functions that take a path do blocking I/O; call them off the loop.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from runtimed_ffi.daemon.ports import Json, LaunchError

NOTEBOOK_LIMIT = 100 * 1024 * 1024
"""Bytes of a notebook file that is read for its metadata."""

DEPENDENCY_LIMIT = 1000
"""Dependencies of one notebook."""

PROJECT_FILES = (
    ("pyproject.toml", "uv:pyproject"),
    ("pixi.toml", "conda:pixi"),
    ("environment.yml", "conda:env_yml"),
    ("environment.yaml", "conda:env_yml"),
)
"""Project files and what they mean, in the order they are looked for in one directory (10.2)."""


class Dependencies(NamedTuple):
    """What is to be installed for one notebook."""

    kind: str
    """``uv`` or ``conda``."""
    packages: tuple[str, ...]
    channels: tuple[str, ...] = ()
    python: str | None = None
    """The wanted Python: a version specifier (uv) or a version (conda)."""

    @property
    def directory_name(self) -> str:
        """The name of the environment, by content (10.5).

        A wanted Python is hashed too: the reference ignores it, so names without one are equal to the reference's.
        """
        lines = [f"channel:{name}\n" for name in sorted(self.channels)] if self.kind == "conda" else []
        lines += [f"{name}\n" for name in sorted(self.packages)]
        if self.python is not None:
            lines.append(f"python:{self.python}\n")
        digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return f"inline-{digest}" if self.kind == "uv" else f"conda-inline-{digest}"


class Project(NamedTuple):
    """The nearest project file."""

    source: str
    path: str


def member(value: Any, name: str) -> Json:
    """A member that is an object, or an empty one."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def of_file(path: str) -> Json:
    """The metadata of a notebook file; empty if it cannot be read or is no notebook."""
    try:
        if os.path.getsize(path) > NOTEBOOK_LIMIT:
            return {}
        with open(path, "rb") as file:
            return member(json.load(file), "metadata")
    except (OSError, ValueError, RecursionError):
        return {}


def of_document(metadata: Mapping[str, str]) -> Json | None:
    """The metadata snapshot in the document of a room (7.4), or ``None`` if there is none."""
    try:
        snapshot = json.loads(metadata["notebook_metadata"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return snapshot if isinstance(snapshot, dict) and isinstance(snapshot.get("runt"), dict) else None


def dependency_objects(metadata: Json) -> Json:
    """The objects ``uv`` and ``conda`` that count: those in ``runt``, else the legacy ones beside it (9.6)."""
    found: Json = {}
    for kind in ("uv", "conda"):
        for holder in (member(metadata, "runt"), metadata):
            if isinstance(holder.get(kind), dict):
                found[kind] = holder[kind]
                break
    return found


def dependencies(metadata: Json, kind: str) -> Dependencies | None:
    """The dependencies of one kind, or ``None`` if there are none.

    Raises:
        LaunchError: A package manager must not be given them: text that begins with a dash would be an option, not a
            package.
    """
    listed = member(dependency_objects(metadata), kind)
    packages = listed.get("dependencies")
    if not isinstance(packages, list) or not packages:
        return None
    if len(packages) > DEPENDENCY_LIMIT:
        raise LaunchError(f"Failed to prepare environment: more than {DEPENDENCY_LIMIT} dependencies")
    channels = listed.get("channels") if kind == "conda" else None
    python = listed.get("requires-python" if kind == "uv" else "python")
    return Dependencies(
        kind,
        tuple(checked(text) for text in packages),
        tuple(checked(text) for text in channels) if isinstance(channels, list) else (),
        None if python is None else checked(python),
    )


def checked(text: object) -> str:
    """A text of a notebook or of the settings that goes onto a command line.  Raises ``LaunchError``."""
    if not isinstance(text, str) or not text.strip() or text.strip().startswith("-") or not text.isprintable():
        shown = json.dumps(text, ensure_ascii=False)[:100]
        raise LaunchError(f"Failed to prepare environment: {shown} cannot be a dependency, channel or version")
    return text.strip()


def kernel_type(metadata: Json) -> str | None:
    """``python`` or ``deno``, or ``None`` if the notebook says neither (10.2, automatic launch, rule 1)."""
    spec, info = member(metadata, "kernelspec"), member(metadata, "language_info")
    name = str(spec.get("name", "")).lower()
    for kind in ("deno", "python"):
        if kind in name:
            return kind
    for language, deno in ((spec.get("language"), ()), (info.get("name"), ("deno",))):
        if language in ("typescript", "javascript", *deno):
            return "deno"
        if language == "python":
            return "python"
    return None


def wants_deno(metadata: Json) -> bool:
    """Whether ``runt.deno`` is there."""
    return isinstance(member(metadata, "runt").get("deno"), dict)


def project(directory: str, home: str | None = None) -> Project | None:
    """The nearest project file: upwards until the home directory, a directory with ``.git``, or the root (10.2)."""
    home = os.path.realpath(home or os.path.expanduser("~"))
    directory = os.path.realpath(directory)
    while True:
        for name, source in PROJECT_FILES:
            path = os.path.join(directory, name)
            if os.path.isfile(path):
                return Project(source, path)
        parent = os.path.dirname(directory)
        if directory in (home, parent) or os.path.exists(os.path.join(directory, ".git")):
            return None
        directory = parent
