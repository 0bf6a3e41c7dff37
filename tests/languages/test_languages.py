"""Each language runs a cell on a real kernel with nothing but what is in the wheel: header, library, pkg-config file.

The programs are those of `examples/`; the daemon and its kernels run in the same clean environment.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest
from cells import Gate
from ctools import ROOT, STRICT, npm_ci, require, run

from languages.wheels import Installed, quiet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
not_again = pytest.mark.skipif(
    sys.implementation.name == "pypy",
    reason="the program uses the library and no Python: `make test-python` has run it with the same library",
)

EXAMPLES = ROOT / "examples"
C99 = ["-std=c99", *STRICT]
# {0} is how C and C++ both write an empty struct, which some compilers warn about in C++.
CXX = ["-std=c++11", *STRICT, "-Wno-missing-field-initializers", "-x", "c++"]
COMPILERS = {
    "gcc": ["gcc", *C99],
    "clang": ["clang", *C99],
    "g++": ["g++", *CXX],
    "clang++": ["clang++", *CXX],
}


class Builder:
    """Makes programs of the examples, each once, from copies outside the checkout."""

    def __init__(self, installed: Installed, directory: Path) -> None:
        self.installed = installed
        self.directory = directory
        directory.mkdir()
        self._made: dict[str, list[str]] = {}

    def command(self, host: str) -> list[str]:
        """The command line of `run_cell` for a host, without its arguments; a skip if the host is not there."""
        if host not in self._made:
            name, _, way = host.partition("-")
            make: Callable[[str], list[str]] = getattr(self, f"_{name}", self._c)
            self._made[host] = make(way or name)
        return self._made[host]

    def copy(self, *parts: str) -> Path:
        """A copy of an example, or of the directory of one."""
        source, target = EXAMPLES.joinpath(*parts), self.directory.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("node_modules"), dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)
        return target

    def compiled(self, compiler: str, source: str) -> str:
        """A C program, compiled with the flags that pkg-config finds in the package."""
        command, *options = COMPILERS[compiler]
        pkg_config = require(os.environ.get("PKG_CONFIG") or "pkg-config")
        found = run(*pkg_config, "--cflags", "--libs", "runtimed_ffi", env=self.installed.environment)
        program = self.directory / f"{Path(source).stem}-{compiler}"
        run(*require(command), *options, self.copy("c", source), "-x", "none", *shlex.split(found), "-o", program)
        return str(program)

    def _c(self, compiler: str) -> list[str]:
        return [self.compiled(compiler, "run_cell.c")]

    def _lua(self, way: str) -> list[str]:
        # The way is the last argument: see `arguments`.
        return [*require(os.environ.get("LUAJIT") or "luajit"), str(self.copy("lua", "run_cell.lua"))]

    def _node(self, _: str) -> list[str]:
        node, project = require("node"), self.copy("node")
        npm_ci(project)
        return [*node, str(project / "run_cell.js")]

    def _go(self, _: str) -> list[str]:
        go = require("go")
        project = self.copy("go")
        cache = {"GOCACHE": os.environ.get("GOCACHE", str(self.directory / "go-cache")), "GOFLAGS": "-mod=mod"}
        environment = {**self.installed.environment, **cache, "GOTOOLCHAIN": "local", "GOPROXY": "off"}
        quiet(*go, "vet", ".", cwd=project, env=environment)
        quiet(*go, "build", "-o", "run_cell", ".", cwd=project, env=environment)
        return [str(project / "run_cell")]

    def _python(self, _: str) -> list[str]:
        return [self.installed.python, str(self.copy("python", "run_cell.py"))]


HOSTS = [
    *(pytest.param(name, marks=[pytest.mark.c, not_again]) for name in COMPILERS),
    *(pytest.param(f"lua-{way}", marks=not_again) for way in ("poll", "wait", "dispatch")),
    pytest.param("node", marks=not_again),
    pytest.param("go", marks=not_again),
    "python",
]


@pytest.fixture(scope="module")
def builder(installed: Installed, workshop: Path) -> Builder:
    return Builder(installed, workshop / "programs")


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest, builder: Builder) -> str:
    builder.command(request.param)
    return str(request.param)


def start(builder: Builder, host: str, *arguments: str) -> subprocess.Popen[str]:
    """Start `run_cell` outside the checkout, its output and its errors as pipes."""
    way = [host.partition("-")[2]] if host.startswith("lua-") else []
    return subprocess.Popen(
        [*builder.command(host), *arguments, *way],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=builder.installed.outside,
        env=builder.installed.environment,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=100)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.mark.kernel
def test_a_cell_runs_and_its_outputs_are_printed_as_they_come(
    builder: Builder, host: str, socket_path: str, gate: Gate
) -> None:
    code = f"""
print("one é 😀", flush=True)
{gate.wait}
print("two")
for n in range(200): display(n)
6 * 7"""
    process = start(builder, host, socket_path, f"room-{host}", code)
    # Only when the first output has been seen can the cell end. The document may be ahead of the broadcasts.
    assert process.stdout is not None
    first = process.stdout.readline()
    if first == "In [1]\n":
        first = process.stdout.readline()
    assert first == "one é 😀\n", finish(process)
    gate.open()
    status, out, err = finish(process)
    assert (status, err) == (0, "")
    lines = [line for line in out.splitlines() if line not in ("In [1]", "")]
    assert lines == ["two", *map(str, range(200)), "42"]


@pytest.mark.kernel
def test_the_end_of_a_cell_is_printed(builder: Builder, host: str, socket_path: str) -> None:
    code = "print('before')\n1 / 0"
    status, out, err = finish(start(builder, host, socket_path, f"room-{host}", code))
    assert status == 1
    assert "before" in out and "ZeroDivisionError" in out
    assert err.startswith("ended with") and "division by zero" in err


def test_failures_are_printed(builder: Builder, host: str, place: Path) -> None:
    status, out, err = finish(start(builder, host, str(place / "missing"), "n", "1"))
    assert (status, out) == (2, "") and "No such file" in err
    if not host.startswith("lua-"):
        status, out, err = finish(start(builder, host))
        assert (status, out) == (2, "") and err.startswith("usage:")


JOIN = """
import sys, runtimed_ffi
session = runtimed_ffi.Session("shared", socket_path=sys.argv[1], autostart=False)
session.start_kernel()
for source in ("print(1)", "print(1)  # longer"):
    result = session.run(source)
    print(result.success, result.execution_count, result.stdout, end="")
session.disconnect()  # the last peer leaves, which ends this host
"""


@pytest.mark.c
@pytest.mark.parametrize("compiler", COMPILERS)
def test_python_joins_a_room_hosted_by_c(builder: Builder, compiler: str, place: Path) -> None:
    socket = place / "s"
    program = builder.compiled(compiler, "host_room.c")
    with subprocess.Popen([program, socket], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "hosting\n"
            first, second = builder.installed.script("-c", JOIN, socket).splitlines()
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "", "")
    assert first.startswith("True 1 ") and second.startswith("True 2 ")
    assert int(second.split()[2]) - int(first.split()[2]) == len("  # longer")
    assert not socket.exists()
