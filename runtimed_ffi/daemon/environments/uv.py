"""``uv``: where it is, and the environments it makes.

Storey: daemon (7).  Source: protocol 2, sections 4.3, 10.3, 10.5; uv's documentation for commands and variables.  The
user's own ``UV_*`` variables (index, mirrors, offline, cache) and configuration hold; what is set here are defaults.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Callable

from runtimed_ffi.daemon.environments.diagnosis import explain
from runtimed_ffi.daemon.environments.tools import FINDING, ToolError, ToolMissing, run

KERNEL_REQUIREMENTS = (
    "ipykernel>=6.29,<8",
    "psutil<7.1; platform_python_implementation == 'PyPy' and python_version < '3.10'",
)
"""What makes an environment one for kernels: the ipykernel that this package itself requires."""

VENV_LIMIT = 60.0
"""Seconds to make an empty environment (4.3)."""

INSTALL_LIMIT = 600.0
"""Seconds to install packages.  The reference gives up after 120, which large packages on slow lines do not keep."""

WARM_UP_LIMIT = 60.0
"""Seconds for the first import of ipykernel, which compiles it."""

Progress = Callable[[str], None]

_DEFAULTS = {
    # Environments share the files of uv's cache; where the file system cannot, uv copies.
    "UV_LINK_MODE": "hardlink",
    # No interpreter is fetched behind the user's back.
    "UV_PYTHON_DOWNLOADS": "never",
    "UV_NO_PROGRESS": "1",
    "NO_COLOR": "1",
}
IMPATIENT = {"UV_HTTP_CONNECT_TIMEOUT": "5", "UV_HTTP_RETRIES": "1"}
"""Defaults for callers that must learn soon that there is no network, and try again anyway."""

_FOREIGN = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH")


def find() -> str:
    """The uv program: ``UV`` if set, the one installed with this package, or the one on ``PATH``.

    Raises:
        ToolMissing: It is not installed.
    """
    chosen = os.environ.get("UV")
    if chosen:
        if os.access(chosen, os.X_OK):
            return chosen
        raise ToolMissing(f"UV names {chosen}, which is no program")
    try:
        from uv import find_uv_bin

        with FINDING:
            return os.fsdecode(find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise ToolMissing("uv is not installed: `pip install uv`, or put uv on PATH")
    return found


def environment(environ: Mapping[str, str], defaults: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """The environment variables for uv: those of the user, else ours."""
    variables = {**_DEFAULTS, **defaults, **environ}
    for name in _FOREIGN:
        variables.pop(name, None)
    return variables


def python_of(path: str) -> str:
    """The interpreter of a virtual environment."""
    return os.path.join(path, "bin", "python")


def kernel_variables(path: str) -> dict[str, str]:
    """What makes programs that a kernel starts find those of its environment."""
    search = os.path.join(path, "bin") + os.pathsep + os.environ.get("PATH", os.defpath)
    return {"VIRTUAL_ENV": path, "PATH": search}


async def make(
    path: str,
    packages: Sequence[str],
    *,
    python: str | None = None,
    progress: Progress = lambda text: None,
    background: bool = False,
    defaults: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Make a virtual environment for kernels in ``path``, which must not exist, with these packages.

    ``python`` is a version specifier; the interpreter of the daemon is taken if it is ``None``.  ``progress`` gets
    what is being done; ``defaults`` are further variables for uv.  A failure or cancellation leaves a partial directory
    behind, which is the caller's to remove.

    Raises:
        BuildError: It failed.
        ToolMissing: uv is not installed.
    """
    program, variables = find(), environment(os.environ, defaults)
    parent = os.path.dirname(path)

    async def step(limit: float, *command: str) -> None:
        # Not in the directory the daemon was started from: a project there has settings of its own.
        await run(command, limit, env=variables, cwd=parent, background=background)

    names = [*KERNEL_REQUIREMENTS, *packages]
    try:
        progress("creating the environment")
        await step(VENV_LIMIT, program, "venv", "--no-project", "--python", python or sys.executable, path)
        progress("installing " + shown(["ipykernel", *packages]))
        await step(INSTALL_LIMIT, program, "pip", "install", "--python", python_of(path), "--", *names)
        progress("trying it out")
        await step(WARM_UP_LIMIT, python_of(path), "-c", "import ipykernel.kernelapp")
    except ToolError as error:
        raise explain(error, path) from error


async def prepare_project(directory: str, progress: Progress) -> list[str]:
    """Let uv make the environment of the project around ``directory``; returns the command of its interpreter.

    Raises:
        BuildError: It failed.
        ToolMissing: uv is not installed.
    """
    command = [find(), "run", "--with", KERNEL_REQUIREMENTS[0], "python"]
    progress("installing the project's dependencies")
    try:
        await run(
            [*command, "-c", "import ipykernel.kernelapp"], INSTALL_LIMIT, env=environment(os.environ), cwd=directory
        )
    except ToolError as error:
        raise explain(error, directory) from error
    return command


def shown(packages: Sequence[str], limit: int = 5) -> str:
    """Package names for people: the first few."""
    more = f" and {len(packages) - limit} more" if len(packages) > limit else ""
    return ", ".join(packages[:limit]) + more
