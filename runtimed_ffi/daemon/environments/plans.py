"""What a request for a kernel means: which kernel, in which environment, where; and when one starts by itself.

Storey: daemon (7).  Source: protocol 2, sections 9.5, 9.6, 10.1 to 10.3; texts of section 5.7.  Functions here read
files (the notebook, project files, kernelspecs): call them off the loop.  Nothing is started or made here; the
``launcher`` does what a choice says.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Callable, NamedTuple

from runtimed_ffi.daemon.environments import requirements, trust
from runtimed_ffi.daemon.lazy_import import load
from runtimed_ffi.daemon.ports import Json, LaunchError, SettingsView

log = logging.getLogger(__name__)

DEFAULT_SOURCE = "uv:prewarmed"
"""What the default environment is reported as: the name clients of protocol 2 know for "no requirements"."""

AUTOMATIC_SOURCES = ("auto", "prewarmed", "")
"""Environment sources that ask the daemon to choose (10.2)."""

BUILT_IN_TYPES = ("python", "deno")
"""Kernel types that need no kernelspec."""

_KERNEL_MAIN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "kernels", "kernel_main.py")

_UUID = re.compile(
    r"(?:urn:uuid:)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}"
    r"|\{[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\}",
    re.IGNORECASE,
)


class LaunchRequest(NamedTuple):
    """The launch that a peer asks for."""

    kernel_type: str
    env_source: str
    notebook_path: str | None = None
    notebook_id: str = ""
    """The room; where it names a file and no path is given, that is the notebook."""
    metadata: Json | None = None
    """The metadata of the notebook where it is known better than from its file."""


class LaunchPlan(NamedTuple):
    """Everything that is needed to start a kernel."""

    kernel_type: str
    env_source: str
    """Resolved: what peers see."""
    argv: list[str]
    """The command, with ``{connection_file}`` in the place of the connection file."""
    cwd: str
    env: Mapping[str, str] = MappingProxyType({})
    """Environment variables beside those of the daemon."""
    kernel_name: str | None = None
    """An installed kernelspec that says how to start the kernel, in the place of ``argv``."""
    transport: str = "ipc"
    """``ipc``, or ``tcp`` for kernels that cannot do better."""
    on_end: Callable[[], None] | None = None
    """Called when the kernel has ended and its files are gone, however it ended; its environment is free then.  May be
    called more than once."""


class Choice(NamedTuple):
    """A request, resolved: what to start, before its environment exists."""

    kernel_type: str
    env_source: str
    """What peers see."""
    cwd: str
    needs: str
    """``default`` (the pool of uv environments, or this interpreter), ``conda`` (the pool), ``inline``, ``project``,
    ``deno``, or ``kernelspec``."""
    dependencies: requirements.Dependencies | None = None
    """For ``inline``."""
    project: requirements.Project | None = None
    """For ``project``."""


def resolve(request: LaunchRequest) -> Choice:
    """What a launch request means.  Raises ``LaunchError`` with the text for the peer."""
    path = request.notebook_path or None
    if path is None and os.path.isabs(request.notebook_id) and os.path.isfile(request.notebook_id):
        path = request.notebook_id
    kind, source = request.kernel_type, request.env_source
    if kind not in BUILT_IN_TYPES:
        names = kernelspecs()
        if kind not in names:
            raise LaunchError(_unsupported(kind, names))
        return Choice(kind, f"kernelspec:{kind}", working_directory(path), "kernelspec")
    cwd = working_directory(path)
    if kind == "deno":
        return Choice(kind, "deno" if source in AUTOMATIC_SOURCES else source, cwd, "deno")
    metadata = request.metadata
    if metadata is None:
        metadata = requirements.of_file(path) if path is not None else {}
    if source in AUTOMATIC_SOURCES:
        source = _python_source(metadata, cwd if path is not None else None, DEFAULT_SOURCE)
    if source in ("uv:inline", "conda:inline"):
        wanted = requirements.dependencies(metadata, source.partition(":")[0])
        if wanted is None:
            raise LaunchError(
                f"Failed to launch kernel: {source} requires a prepared environment (was it created?): "
                "the notebook has no such dependencies in its metadata"
            )
        return Choice(kind, source, cwd, "inline", dependencies=wanted)
    if source in PROJECT_SOURCES:
        project = requirements.project(cwd) if path is not None else None
        if project is None or project.source != source:
            wanted_files = " or ".join(name for name, meant in requirements.PROJECT_FILES if meant == source)
            raise LaunchError(f"Failed to launch kernel: {source} requires {wanted_files} beside or above the notebook")
        return Choice(kind, source, cwd, "project", project=project)
    return Choice(kind, source, cwd, "conda" if source.startswith("conda:") else "default")


PROJECT_SOURCES = tuple(dict.fromkeys(source for _, source in requirements.PROJECT_FILES))
"""Environment sources that mean a project file."""


def _python_source(metadata: Json, directory: str | None, default: str) -> str:
    """The environment of a Python kernel when none is named (10.2): dependencies, project file, default."""
    for kind in ("uv", "conda"):
        if requirements.dependencies(metadata, kind) is not None:
            return f"{kind}:inline"
    project = requirements.project(directory) if directory is not None else None
    return default if project is None else project.source


def automatic(notebook_id: str, settings: SettingsView, key_path: str) -> LaunchRequest | None:
    """The launch for a room that its first peer has entered, or ``None`` if no kernel is to start by itself (9.5).

    A notebook with dependencies gets one only if they are trusted (9.6): installing a package runs its code.  The
    metadata that was checked goes with the request, so that a file that changes in between changes nothing.
    """
    if not os.path.isfile(notebook_id):
        if os.path.exists(notebook_id) or not is_uuid(notebook_id):
            return None
        metadata: Json = {}
    else:
        metadata = requirements.of_file(notebook_id)
    try:
        if not trust.status(metadata, key_path).launches:
            return None
        kind = requirements.kernel_type(metadata)
        if kind is None:
            named = requirements.member(metadata, "kernelspec").get("name")
            if isinstance(named, str) and named in kernelspecs():
                kind = named
            else:
                kind = "deno" if requirements.wants_deno(metadata) or settings.default_runtime == "deno" else "python"
        source, path = kind, None
        if os.path.isfile(notebook_id):
            path = os.path.abspath(notebook_id)
        if kind == "python":
            default = "conda:prewarmed" if settings.default_python_env == "conda" else DEFAULT_SOURCE
            source = _python_source(metadata, path and os.path.dirname(path), default)
    except (LaunchError, trust.TrustKeyError) as error:
        log.warning("no kernel is started for %r by itself: %s", notebook_id, error)
        return None
    return LaunchRequest(kind, source, path, notebook_id, metadata)


def is_uuid(notebook_id: str) -> bool:
    """Whether the id is a UUID: hyphenated, 32 digits, in braces, or with the URN prefix; any case."""
    return _UUID.fullmatch(notebook_id) is not None


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


def kernelspecs() -> list[str]:
    """The names of the installed kernelspecs, as ``jupyter kernelspec list`` has them."""
    return sorted(load("jupyter_client.kernelspec").KernelSpecManager().find_kernel_specs())


def _unsupported(kind: str, names: Sequence[str]) -> str:
    known = "".join(f", {name}" for name in names if name not in BUILT_IN_TYPES)
    return f"Failed to launch kernel: Unsupported kernel type: {kind}. Supported types: python, deno{known}"


def ipykernel_command(python: Sequence[str]) -> list[str]:
    """The command of a Python kernel on an interpreter that has ipykernel (10.3)."""
    # Frozen modules hide source from the debugger.  PyPy has none and does not know the option.
    flags = ["-Xfrozen_modules=off"] if sys.implementation.name == "cpython" else []
    return [*python, *flags, _KERNEL_MAIN, "-f", "{connection_file}"]


def default_plan(choice: Choice) -> LaunchPlan:
    """A Python kernel on the interpreter of the daemon, in its environment."""
    return LaunchPlan(choice.kernel_type, choice.env_source, ipykernel_command([sys.executable]), choice.cwd)
