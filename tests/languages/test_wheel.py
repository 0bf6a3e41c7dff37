"""The distributions: what is in them, what packaging tools report, and that they work in an empty environment."""

from __future__ import annotations

import configparser
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import subinterpreters
from ctools import ROOT, require, run

from languages.wheels import Installed, build_wheel, find_python, quiet, with_index
from runtimed_ffi._binding import config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PYPY = sys.implementation.name == "pypy"
SYSTEM = {"libc.so.6", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1"}
stable_abi = pytest.mark.skipif(PYPY, reason="no abi3 (PEP 384) on PyPy: a wheel is for one version")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="auditwheel and readelf are for Linux")


def tool(requirement: str, *arguments: object) -> str:
    """Run a tool from the package index in an environment of its own, on the newest CPython that uv finds."""
    name, _, version = requirement.partition("==")
    return with_index("tool", "run", "--python", "cpython>=3.10", "--from", f"{name}=={version}", name, *arguments)


# --- what is in them


def test_sdist_holds_every_source(sdist: Path, sources: Path) -> None:
    # Those that are needed to build and to test; what only work in the repository needs is not, nor what was compiled.
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    known = {path.relative_to(sources).as_posix() for path in sources.rglob("*") if path.is_file()}
    for_developers = re.compile(r"\.|tools/|Makefile$|rustfmt\.toml$|__pycache__/")
    assert {name for name in known if not for_developers.match(name)} <= names
    assert not [name for name in names if name.startswith(("csrc/target", "runtimed_ffi/lib", "runtimed_ffi/include"))]


def test_wheel_holds_exactly_the_expected_files(wheel: Path, sources: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        scripts = configparser.ConfigParser()
        scripts.read_string(archive.read(entry_points).decode())
    modules = {path.relative_to(sources).as_posix() for path in (sources / "runtimed_ffi").rglob("*") if path.is_file()}
    extension = Path(sys.modules["runtimed_ffi._native"].__file__ or "").name
    built = {
        f"runtimed_ffi/{extension}",
        "runtimed_ffi/include/runtimed_ffi.h",
        f"runtimed_ffi/lib/{Path(config.get_library()).name}",
        "runtimed_ffi/lib/pkgconfig/runtimed_ffi.pc",
    }
    assert {name for name in names if ".dist-info/" not in name} == modules | built
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert set(scripts["console_scripts"]) == {"runtimed-ffi", "runtimed"}
    assert set(scripts["pkg_config"]) == {"runtimed_ffi"}


def test_wheel_names_its_platforms(wheel: Path) -> None:
    python, abi, platform = wheel.stem.split("-")[2:]
    if PYPY:
        assert python == f"pp{sys.version_info[0]}{sys.version_info[1]}" and abi.startswith("pypy")
    else:
        assert (python, abi) == ("cp39", "abi3")
    assert platform != "any"


@linux
def test_size_is_what_the_documentation_states(wheel: Path) -> None:
    text = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")
    packed, unpacked = (float(number) for number in re.findall(r"wheel is ([\d.]+) MB, unpacked ([\d.]+) MB", text)[0])
    with zipfile.ZipFile(wheel) as archive:
        found = wheel.stat().st_size / 1e6, sum(entry.file_size for entry in archive.infolist()) / 1e6
    assert found == (pytest.approx(packed, rel=0.2), pytest.approx(unpacked, rel=0.2))


# --- reports of packaging tools


def test_twine_finds_nothing_wrong(sdist: Path, wheel: Path) -> None:
    out = tool("twine==6.2.0", "check", "--strict", sdist, wheel)
    assert out.count("PASSED") == 2, out


@linux
@pytest.mark.skipif(PYPY, reason="auditwheel cannot determine which libc an extension for PyPy is made for")
def test_auditwheel_finds_only_libraries_of_the_system(wheel: Path) -> None:
    out = tool("auditwheel==6.4.2", "show", wheel)
    assert "is consistent with the following platform tag" in " ".join(out.split()), out
    assert set(re.findall(r"lib[\w.+-]+\.so\.\d+", out)) <= SYSTEM, out


@stable_abi
def test_extension_keeps_to_the_stable_abi(wheel: Path) -> None:
    tool("abi3audit==0.0.20", "--strict", wheel)


@linux
def test_extension_of_an_installed_wheel_finds_the_library_beside_it(installed: Installed) -> None:
    readelf = require("readelf")
    where = "import runtimed_ffi._native as native; print(native.__file__)"
    extension, library = installed.script("-c", where).strip(), installed.option("--library")
    assert f"[{Path(library).name}]" in re.search(r"\(SONAME\).*", run(*readelf, "-d", library))[0]  # type: ignore[index]
    dynamic = run(*readelf, "-d", extension)
    assert f"[{Path(library).name}]" in re.search(r"\(NEEDED\).*", dynamic)[0]  # type: ignore[index]
    found = re.search(r"\(R(?:UN)?PATH\).*\[(.*)\]", dynamic)
    assert found and "$ORIGIN/lib" in found[1].split(":")
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic + run(*readelf, "-d", library))
    assert set(needed) <= SYSTEM | {Path(library).name, "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}, needed


# --- that they work

ALONE = """
import pathlib, sys
import runtimed_ffi
from runtimed_ffi import _native

package = pathlib.Path(runtimed_ffi.__file__).resolve().parent
assert package.parts[-2] == "site-packages" and pathlib.Path(sys.prefix).resolve() in package.parents, package
if sys.platform == "linux":
    with open("/proc/self/maps") as maps:
        loaded = {line.split()[-1] for line in maps if "runtimed_ffi" in line}
    assert loaded and all(path.startswith(str(package)) for path in loaded), loaded
with runtimed_ffi.Daemon() as daemon, daemon.session() as session:
    session.start_kernel()
    heard = []
    result = session.run("import sys; print(sys.prefix)\\n6 * 7", on_output=heard.append)
    assert result.success and result.stdout == sys.prefix + "\\n", result
    assert "".join(output.text or "" for output in heard[:-1]) == result.stdout  # in one piece or more
    assert heard[-1].data == {"text/plain": "42"}
print(runtimed_ffi.__version__)
"""


def refuses_subinterpreters(installed: Installed) -> None:
    # CPython's own decimal module prints to stderr when a second interpreter imports it.
    out = quiet(installed.python, "-c", subinterpreters.SCRIPT, cwd=installed.outside, env=installed.environment)
    subinterpreters.check(out)


def works(installed: Installed) -> None:
    """The package alone, its commands, and the example that hosts a room."""
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.M)
    assert version and installed.script("-c", ALONE) == f"{version[1]}\n"
    assert (
        quiet(installed.scripts / "runtimed-ffi", "--version", cwd=installed.outside) == f"runtimed-ffi {version[1]}\n"
    )
    assert "daemon" in quiet(installed.scripts / "runtimed", "--help", cwd=installed.outside)
    program = (ROOT / "examples" / "host_room.py").read_text(encoding="utf-8")
    assert installed.script("-c", program) == "HELLO!\n"


@pytest.mark.kernel
def test_installed_wheel_works(installed: Installed) -> None:
    works(installed)


@pytest.mark.kernel
@stable_abi
@pytest.mark.parametrize("version", ["3.9", "3.13"])
def test_the_same_wheel_works_on_the_oldest_and_the_newest_python(version: str, wheel: Path, workshop: Path) -> None:
    # Which versions these are is said by pyproject.toml and docs; the wheel's own version is that of the stable ABI.
    installed = Installed(workshop / f"installed-{version}", find_python(version), wheel)
    works(installed)
    refuses_subinterpreters(installed)


@pytest.mark.kernel
@pytest.mark.parametrize("version", ["3.13t", "3.14t"])
def test_free_threaded_python_builds_a_wheel_of_its_own(version: str, sdist: Path, workshop: Path) -> None:
    python, into = find_python(version), workshop / f"wheel-{version}"
    tools, wheels = workshop / f"tools-{version}", into / "wheels"
    quiet(python, "-m", "venv", tools)
    quiet(tools / "bin" / "pip", "install", "-q", "setuptools>=77", "cffi>=2", "wheel")
    wheels.mkdir(parents=True)
    works(Installed(into / "installed", python, build_wheel(sdist, wheels, str(tools / "bin" / "python"))))
