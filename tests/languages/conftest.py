"""One wheel and one clean environment for all tests here, and a daemon that runs in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cells import Gate

from languages import wheels

DAEMON = """
import sys, runtimed_ffi
with runtimed_ffi.Daemon() as daemon:
    print(daemon.socket_path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def workshop() -> Iterator[Path]:
    """A directory outside the checkout, with a path short enough for sockets."""
    directory = tempfile.mkdtemp(prefix="rtd-")
    yield Path(directory)
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def sources(workshop: Path) -> Path:
    """A copy of the sources in the checkout."""
    tree = workshop / "sources"
    wheels.copy_sources(tree)
    return tree


@pytest.fixture(scope="session")
def sdist(sources: Path, workshop: Path) -> Path:
    """The source distribution."""
    (workshop / "sdist").mkdir()
    return wheels.build_sdist(sources, workshop / "sdist")


@pytest.fixture(scope="session")
def wheel(sdist: Path, workshop: Path) -> Path:
    """The wheel for this interpreter, built from the source distribution."""
    (workshop / "wheel").mkdir()
    return wheels.build_wheel(sdist, workshop / "wheel")


@pytest.fixture(scope="session")
def installed(wheel: Path, workshop: Path) -> wheels.Installed:
    """A clean environment of this interpreter with the wheel."""
    return wheels.Installed(workshop / "installed", sys.executable, wheel)


@pytest.fixture(scope="session")
def socket_path(installed: wheels.Installed) -> Iterator[str]:
    """The socket of a daemon that runs in the clean environment."""
    command = [installed.python, "-c", DAEMON]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=installed.environment, cwd=installed.outside, **pipes) as process:  # type: ignore[call-overload]
        yield process.stdout.readline().strip()
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a path short enough for sockets."""
    directory = tempfile.mkdtemp(prefix="rtd-")
    yield Path(directory)
    shutil.rmtree(directory)


@pytest.fixture
def gate(place: Path) -> Iterator[Gate]:
    """Something that a cell waits for."""
    made = Gate(place / "gate")
    yield made
    made.close()
