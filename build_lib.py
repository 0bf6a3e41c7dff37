"""Builds the C library and puts it where the package carries it: the one place that calls cargo.

``python build_lib.py [directory]`` fills ``<directory>/lib`` and ``<directory>/include`` (default: the
package in this source tree). RTD_CARGO_PROFILE names another profile of cargo than ``release``: the tests use
``dev``, whose dependencies the Rust tests have compiled already. With RTD_LIB_DIR and RTD_INCLUDE_DIR set, nothing
is built or bundled and an installed library is used instead.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
CRATE = ROOT / "csrc"
PACKAGE = ROOT / "runtimed_ffi"


class Library(NamedTuple):
    """What an extension needs to compile and link."""

    include_dir: Path
    library: Path
    rpath: str


def external():
    """The directories (library, include) of an installed library to use instead of our own, or None."""
    lib, include = os.environ.get("RTD_LIB_DIR"), os.environ.get("RTD_INCLUDE_DIR")
    if bool(lib) != bool(include):
        raise SystemExit("Set both RTD_LIB_DIR and RTD_INCLUDE_DIR, or neither.")
    return (Path(lib).resolve(), Path(include).resolve()) if lib and include else None


def header_path():
    """The header that declarations are read from."""
    installed = external()
    return (installed[1] if installed else CRATE / "include") / "runtimed_ffi.h"


def bundled_name(header):
    """The file name in the package: the SONAME, because a wheel holds no symbolic links."""
    major = re.search(r"\bRTD_ABI_MAJOR = (\d+)", header)
    if not major:
        raise SystemExit(f"RTD_ABI_MAJOR not found in {header_path()}")
    return f"libruntimed_ffi.{major[1]}.dylib" if sys.platform == "darwin" else f"libruntimed_ffi.so.{major[1]}"


def link_option(name):
    """The linker's option for a library that has no link with the plain name beside it."""
    return f"-l{name[3 : -len('.dylib')]}" if name.endswith(".dylib") else f"-l:{name}"


def cargo_build():
    """Runs cargo; returns the path of the library it made."""
    cargo = os.environ.get("CARGO", "cargo")
    if not shutil.which(cargo):
        raise SystemExit(f"'{cargo}' not found: building runtimed-ffi needs a Rust toolchain (https://rustup.rs)")
    profile = os.environ.get("RTD_CARGO_PROFILE", "release")
    subprocess.run([cargo, "build", "--profile", profile, "--locked"], cwd=CRATE, check=True)
    # Relative names are relative to the crate for us as for cargo, which ran there.
    target = CRATE / os.environ.get("CARGO_TARGET_DIR", "target")
    triple = os.environ.get("CARGO_BUILD_TARGET", "")
    directory = target / triple / ("debug" if profile == "dev" else profile)
    return directory / ("libruntimed_ffi.dylib" if sys.platform == "darwin" else "libruntimed_ffi.so")


def replace(source, target):
    """Copies by rename: a process that has the old file mapped keeps it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.new")
    shutil.copy2(source, temporary)
    os.replace(temporary, target)


def build(package=PACKAGE):
    """Builds, fills ``package``, and says how to link."""
    package = Path(package)
    for leftover in (package / "include", package / "lib" / "pkgconfig"):
        shutil.rmtree(leftover, ignore_errors=True)
    installed = external()
    if installed:
        shutil.rmtree(package / "lib", ignore_errors=True)
        for name in ("libruntimed_ffi.so", "libruntimed_ffi.dylib", bundled_name(header_path().read_text())):
            if (installed[0] / name).exists():
                return Library(installed[1], installed[0] / name, str(installed[0]))
        raise SystemExit(f"No libruntimed_ffi in RTD_LIB_DIR ({installed[0]})")
    header = header_path().read_text(encoding="utf-8")
    library = package / "lib" / bundled_name(header)
    replace(cargo_build(), library)
    for other in library.parent.glob("libruntimed_ffi*"):
        if other != library:
            other.unlink()  # of an earlier ABI
    replace(header_path(), package / "include" / "runtimed_ffi.h")
    version = re.search(r'#define RTD_VERSION "(.+)"', header)[1]
    template = (CRATE / "runtimed_ffi.pc.in").read_text()
    pc_file = package / "lib" / "pkgconfig" / "runtimed_ffi.pc"
    pc_file.parent.mkdir(parents=True, exist_ok=True)
    pc_file.write_text(template.replace("@VERSION@", version).replace("@LINK@", link_option(library.name)))
    return Library(package / "include", library, "@loader_path/lib" if sys.platform == "darwin" else "$ORIGIN/lib")


if __name__ == "__main__":
    print(build(*sys.argv[1:2]).library)
