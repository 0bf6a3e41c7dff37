"""How the tests of an installed package get one: source distribution, wheel from it, clean environments with it.

Nothing here imports `runtimed_ffi` from the checkout into the environments, and everything in them runs elsewhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ctools import ROOT, require, run

from runtimed_ffi.daemon.environments import uv
from runtimed_ffi.daemon.environments.diagnosis import explain
from runtimed_ffi.daemon.environments.tools import ToolError, ToolMissing

BUILD = ROOT / "build" / "from-sdist"
"""Where source distributions are unpacked: always the same place, so that cargo knows what it has compiled."""


def copy_sources(tree: Path) -> None:
    """Copy what git knows or would add, so that nothing that was built in the checkout gets in."""
    git = require("git")
    if not (ROOT / ".git").exists():
        pytest.skip("not a git work tree: which files are sources is not known")
    for name in run(*git, "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)


def build_sdist(tree: Path, into: Path) -> Path:
    """The source distribution of a tree, made as every front end does (PEP 517)."""
    hook = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    quiet(sys.executable, "-W", "ignore", "-c", hook, into, cwd=tree)
    (sdist,) = into.glob("*.tar.gz")
    return sdist


@contextlib.contextmanager
def unpacked(sdist: Path) -> Iterator[Path]:
    """The unpacked source distribution; a lock keeps other processes from unpacking meanwhile."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in BUILD.iterdir():
            shutil.rmtree(left)
        with tarfile.open(sdist) as archive:
            # The filter came with security releases of all versions; without it there is only a warning.
            archive.extractall(BUILD, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        (tree,) = BUILD.iterdir()
        # Cargo looks at the times of sources: the same name and the same times are the same to it.
        fixed = tree.with_name("tree")
        tree.rename(fixed)
        yield fixed


def build_wheel(sdist: Path, into: Path, python: str = sys.executable) -> Path:
    """The wheel, built from the source distribution with the tools of an environment."""
    require(os.environ.get("CARGO") or "cargo")
    environment = {**os.environ, "CARGO_TARGET_DIR": os.environ.get("CARGO_TARGET_DIR", str(ROOT / "csrc" / "target"))}
    with unpacked(sdist) as tree:
        command = [python, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", into, tree]
        quiet(*command, env=environment, timeout=900)
    (wheel,) = into.glob("*.whl")
    return wheel


def quiet(*command: Any, timeout: float = 300, **options: Any) -> str:
    """Run a build tool, whose stderr is only of interest when it fails; returns its stdout."""
    words = [os.fspath(part) for part in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, **options)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


def find_uv() -> str:
    """The uv program, or a skip."""
    try:
        return uv.find()
    except ToolMissing as error:
        pytest.skip(str(error))


def with_index(*command: Any, **options: Any) -> str:
    """Run a command of uv that asks the package index; a skip when there is none."""
    words = [find_uv(), *map(os.fspath, command)]
    environment = uv.environment(os.environ, uv.IMPATIENT)
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, env=environment, **options)
    if done.returncode:
        reason = str(explain(ToolError("uv", f"exit code {done.returncode}", done.stderr), "the environment"))
        if reason.startswith("the package index cannot be reached"):
            pytest.skip(reason)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


def find_python(name: str) -> str:
    """An interpreter such as ``3.9`` or ``3.13t``, from PATH or pyenv, or a skip."""
    roots = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    number, suffix = re.fullmatch(r"([\d.]+)(t?)", name).groups()  # type: ignore[union-attr]
    places = sorted(roots.glob(f"{number}.*{suffix}/bin/python{name}"))
    for candidate in (*map(str, places), shutil.which(f"python{name}")):
        # Those of pyenv on PATH exist also for versions that are not chosen.
        if candidate and subprocess.run([candidate, "-c", "0"], capture_output=True).returncode == 0:
            return candidate
    pytest.skip(f"python{name} is not installed")


class Installed:
    """An environment that has the wheel, what the wheel requires, and nothing else.

    Args:
        directory: where to make it.
        python: the interpreter.
        wheel: the wheel.
        further: requirements besides.
    """

    def __init__(self, directory: Path, python: str, wheel: Path, further: tuple[str, ...] = ()) -> None:
        quiet(find_uv(), "venv", "-q", "--python", python, directory, env=uv.environment(os.environ))
        self.python = str(directory / "bin" / "python")
        self.scripts = directory / "bin"
        self.outside = directory.parent
        with_index("pip", "install", "-q", "--python", self.python, wheel, *further)

    @property
    def environment(self) -> dict[str, str]:
        """Variables for programs: nothing that leads back to the checkout, pkg-config sees the package."""
        variables = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
        }
        return {**variables, "PYTHON": self.python, "PKG_CONFIG_PATH": self.option("--pkgconfigdir", variables)}

    def option(self, name: str, variables: dict[str, str] | None = None) -> str:
        """What ``python -m runtimed_ffi NAME`` prints."""
        command = [self.python, "-m", "runtimed_ffi", name]
        return quiet(*command, cwd=self.outside, env=variables or self.environment).strip()

    def script(self, *arguments: Any) -> str:
        """Run a Python program there, which must succeed with nothing on stderr."""
        return run(self.python, *arguments, cwd=self.outside, env=self.environment)
