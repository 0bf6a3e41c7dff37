"""Conda environments, made by whichever compatible program is installed: micromamba, mamba, conda or pixi.

Storey: daemon (7).  Source: protocol 2, sections 4.3, 10.3, 10.5; the programs' documentation for their commands.
Their own configuration (mirrors, offline, cache) holds; channels are named explicitly.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from typing import NamedTuple

from runtimed_ffi.daemon.environments.diagnosis import explain
from runtimed_ffi.daemon.environments.tools import ToolError, ToolMissing, run
from runtimed_ffi.daemon.environments.uv import WARM_UP_LIMIT, Progress, shown

PROGRAMS = ("micromamba", "mamba", "conda", "pixi")
"""In the order of preference: the quickest first."""

VARIABLES = ("MAMBA_EXE", "CONDA_EXE")
"""Environment variables in which the programs' shell hooks name their path."""

DEFAULT_CHANNEL = "conda-forge"
DEFAULT_PYTHON = "python>=3.9"
INSTALL_LIMIT = 900.0
"""Seconds to solve and install; solving alone takes conda minutes."""

FILE_LIMIT = 1 << 20
"""Bytes of an ``environment.yml`` that are looked at."""


class Tool(NamedTuple):
    """One installed program."""

    kind: str
    program: str

    def python_of(self, path: str) -> str:
        """The interpreter of an environment that this program made."""
        return os.path.join(_prefix(self, path), "bin", "python")

    def kernel_variables(self, path: str) -> dict[str, str]:
        """What activating the environment would set, as far as programs need it."""
        prefix = _prefix(self, path)
        search = os.path.join(prefix, "bin") + os.pathsep + os.environ.get("PATH", os.defpath)
        return {"CONDA_PREFIX": prefix, "PATH": search}


def _prefix(tool: Tool, path: str) -> str:
    # pixi keeps environments inside the directory of a project.
    return os.path.join(path, ".pixi", "envs", "default") if tool.kind == "pixi" else path


def find() -> Tool:
    """The program to use.  Raises ``ToolMissing`` with what to install."""
    for variable in VARIABLES:
        program = os.environ.get(variable)
        if program and os.access(program, os.X_OK):
            name = os.path.basename(program)
            return Tool(name if name in PROGRAMS else "conda", program)
    for kind in PROGRAMS:
        found = shutil.which(kind)
        if found is not None:
            return Tool(kind, found)
    raise ToolMissing(
        "no conda-compatible program is installed: put micromamba, mamba, conda or pixi on PATH, or ask for a uv "
        "environment"
    )


async def make(
    tool: Tool,
    path: str,
    packages: Sequence[str],
    *,
    channels: Sequence[str] = (),
    python: str | None = None,
    progress: Progress = lambda text: None,
    background: bool = False,
) -> None:
    """Make an environment for kernels in ``path``, which must not exist.

    ``python`` is a version (``3.11``) or a constraint (``>=3.10``).  A failure or cancellation leaves a partial
    directory behind, which is the caller's to remove.  Raises ``BuildError``.
    """
    interpreter = DEFAULT_PYTHON if python is None else "python" + (python if python[0] in "<>=!~" else f"={python}")
    names = [interpreter, "ipykernel>=6.29,<8", *packages]
    progress(f"installing {shown(['ipykernel', *packages])} with {tool.kind}")
    await _steps(path, create_commands(tool, path, names, channels or (DEFAULT_CHANNEL,)), background)
    progress("trying it out")
    await _steps(path, [[tool.python_of(path), "-c", "import ipykernel.kernelapp"]], background, WARM_UP_LIMIT)


async def make_from_file(tool: Tool, path: str, file: str, progress: Progress) -> None:
    """Make an environment in ``path`` as an ``environment.yml`` describes it, and add ipykernel.

    Not with pixi, which has project files of its own.  Raises ``BuildError``.
    """
    progress(f"installing what {os.path.basename(file)} names with {tool.kind}")
    if tool.kind == "micromamba":
        first = [tool.program, "create", "-y", "-p", path, "-f", file]
    else:
        first = [tool.program, "env", "create", "-p", path, "-f", file]
    second = [tool.program, "install", "-y", "-p", path, "-c", DEFAULT_CHANNEL, "ipykernel>=6.29,<8"]
    await _steps(path, [first, second], False)


async def prepare_pixi_project(manifest: str, progress: Progress) -> list[str]:
    """Let pixi make the environment of a project; returns the command of its interpreter.

    Raises:
        BuildError: It failed; a project without ipykernel cannot have kernels.
        ToolMissing: pixi is not installed.
    """
    program = shutil.which("pixi")
    if program is None:
        raise ToolMissing(f"pixi is not installed, and {manifest} needs it")
    command = [program, "run", "--manifest-path", manifest, "python"]
    progress("installing the project's dependencies with pixi")
    await _steps(manifest, [[*command, "-c", "import ipykernel.kernelapp"]], False)
    return command


def create_commands(tool: Tool, path: str, packages: Sequence[str], channels: Sequence[str]) -> list[list[str]]:
    """The command lines that make an environment with exactly these packages and channels."""
    named = [part for channel in channels for part in ("-c", channel)]
    if tool.kind == "pixi":
        return [
            [tool.program, "init", path, *named],
            [tool.program, "add", "--manifest-path", os.path.join(path, "pixi.toml"), *packages],
        ]
    return [[tool.program, "create", "-y", "-p", path, "--override-channels", *named, *packages]]


async def _steps(path: str, commands: Sequence[Sequence[str]], background: bool, limit: float = INSTALL_LIMIT) -> None:
    try:
        for command in commands:
            await run(command, limit, cwd=os.path.dirname(path), background=background)
    except ToolError as error:
        raise explain(error, path) from error


def file_name(file: str) -> str:
    """The name of the environment for an ``environment.yml``, by content.  Blocks; raises ``OSError``."""
    with open(file, "rb") as opened:
        digest = hashlib.sha256(opened.read(FILE_LIMIT)).hexdigest()[:16]
    return f"conda-file-{digest}"
