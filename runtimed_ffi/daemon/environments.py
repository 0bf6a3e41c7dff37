"""What to start when a kernel is asked for: from kernel type, environment source and path to a launch plan.

Storey: daemon (7).  Source: protocol 2, sections 9.5, 10.1 to 10.3; texts of section 5.7.  So far there is one
environment, the interpreter that runs the daemon; pools and inline environments will resolve here as well.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from .ports import LaunchError

DEFAULT_SOURCE = "uv:prewarmed"
"""What the default environment is reported as: the name clients of protocol 2 know for "no special wishes"."""

_KERNEL_MAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernel_main.py")

_UUID = re.compile(
    r"(?:urn:uuid:)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}"
    r"|\{[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\}",
    re.IGNORECASE,
)
_NOTEBOOK_LIMIT = 100 * 1024 * 1024


class LaunchPlan(NamedTuple):
    """Everything that is needed to start a kernel."""

    kernel_type: str
    env_source: str
    """Resolved: what peers are told."""
    argv: list[str]
    """The command, with ``{connection_file}`` in the place of the connection file."""
    cwd: str
    env: Mapping[str, str] = MappingProxyType({})
    """Environment variables beside those of the daemon."""
    kernel_name: str | None = None
    """An installed kernelspec that says how to start the kernel, in the place of ``argv``."""
    transport: str = "ipc"
    """``ipc``, or ``tcp`` for kernels that cannot do better."""


def resolve(kernel_type: str, env_source: str, notebook_path: str | None) -> LaunchPlan:
    """The plan for a launch_kernel request.

    Raises ``LaunchError`` with the text for the peer.  The environment is looked at before the kernel type, as the
    reference daemon does (recorded in ``requests-no-kernel``).
    """
    if kernel_type != "deno":
        if env_source in ("uv:inline", "conda:inline"):
            raise LaunchError(
                f"Failed to launch kernel: {env_source} requires a prepared environment (was it created?)"
            )
        if env_source.startswith("conda:"):
            raise LaunchError("Conda pool empty - no environment available")
    if kernel_type == "deno":
        raise LaunchError("Failed to launch kernel: deno kernels are not available in this version of the daemon")
    if kernel_type != "python":
        raise LaunchError(
            f"Failed to launch kernel: Unsupported kernel type: {kernel_type}. Supported types: python, deno"
        )
    argv = [sys.executable, "-Xfrozen_modules=off", _KERNEL_MAIN, "-f", "{connection_file}"]
    if sys.version_info < (3, 11) or sys.implementation.name != "cpython":
        del argv[1]
    return LaunchPlan("python", DEFAULT_SOURCE, argv, working_directory(notebook_path))


def working_directory(notebook_path: str | None) -> str:
    """Where the kernel runs: beside its notebook, else ``~/notebooks``, else the temporary directory (10.3)."""
    if notebook_path:
        parent = os.path.dirname(os.path.abspath(notebook_path))
        if os.path.isdir(parent):
            return parent
        raise LaunchError(f"Failed to launch kernel: no such directory: {parent}")
    home = os.path.join(os.path.expanduser("~"), "notebooks")
    try:
        os.makedirs(home, exist_ok=True)
    except OSError:
        return tempfile.gettempdir()
    return home


def automatic(notebook_id: str) -> LaunchPlan | None:
    """The plan for a room that its first peer has entered, or ``None`` if no kernel is to start by itself (9.5).

    Reads the notebook file, so call it off the loop.  A file with dependencies is never launched: whether it may is a
    question of trust (9.6), which only an explicit launch answers.
    """
    if not os.path.isfile(notebook_id):
        if os.path.exists(notebook_id) or not is_uuid(notebook_id):
            return None
        return _plan_or_none("python", None)
    try:
        if os.path.getsize(notebook_id) > _NOTEBOOK_LIMIT:
            return None
        with open(notebook_id, "rb") as file:
            metadata = _member(json.load(file), "metadata")
    except (OSError, ValueError):
        metadata = {}
    if _has_dependencies(metadata):
        return None
    return _plan_or_none(_kernel_type(metadata), notebook_id)


def is_uuid(notebook_id: str) -> bool:
    """Whether the id is a UUID: hyphenated, 32 digits, in braces, or with the URN prefix; any case."""
    return _UUID.fullmatch(notebook_id) is not None


def _plan_or_none(kernel_type: str, path: str | None) -> LaunchPlan | None:
    try:
        return resolve(kernel_type, "auto", path)
    except LaunchError:
        return None


def _kernel_type(metadata: dict[str, Any]) -> str:
    spec, info = _member(metadata, "kernelspec"), _member(metadata, "language_info")
    name = str(spec.get("name", "")).lower()
    for kind in ("deno", "python"):
        if kind in name:
            return kind
    for language in (spec.get("language"), info.get("name")):
        if language in ("typescript", "javascript", "deno"):
            return "deno"
        if language == "python":
            return "python"
    return "deno" if "deno" in _member(metadata, "runt") else "python"


def _has_dependencies(metadata: dict[str, Any]) -> bool:
    runt = _member(metadata, "runt")
    for kind in ("uv", "conda"):
        if _member(runt, kind).get("dependencies") or _member(metadata, kind).get("dependencies"):
            return True
    return False


def _member(value: Any, name: str) -> dict[str, Any]:
    member = value.get(name) if isinstance(value, dict) else None
    return member if isinstance(member, dict) else {}
