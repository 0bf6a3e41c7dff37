"""The package for programs in other languages: header, library, flags. An installed wheel: tests/languages."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ctools import HEADER, ROOT, STRICT, cc, cxx, flags, require, run

import runtimed_ffi
from runtimed_ffi._binding import config
from runtimed_ffi._native import ffi, lib

PRINT_VERSION = """
#include <stdio.h>
#include "runtimed_ffi.h"
int main(void) { puts(rtd_version()); return 0; }
"""


def text(*parts):
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


# --- the header


@pytest.mark.c
def test_header_compiles_alone_and_twice(tmp_path):
    (tmp_path / "one.c").write_text(
        '#include "runtimed_ffi.h"\n#include "runtimed_ffi.h"\nint one(void) { return RTD_OK; }\n'
    )
    (tmp_path / "two.c").write_text('#include "runtimed_ffi.h"\nint one(void);\nint main(void) { return one(); }\n')
    arguments = ["-std=c99", *STRICT, *flags("--cflags"), tmp_path / "one.c", tmp_path / "two.c"]
    run(*cc(), *arguments, "-o", tmp_path / "program")
    run(tmp_path / "program")


@pytest.mark.c
def test_header_compiles_as_cxx(tmp_path):
    source = tmp_path / "unit.cpp"
    source.write_text(
        '#include "runtimed_ffi.h"\n#include <cstdio>\nint main() { return std::puts(rtd_version()) < 0; }\n'
    )
    program = tmp_path / "program"
    run(*cxx(), "-std=c++11", *STRICT, source, *flags("--cflags", "--libs"), "-o", program)
    assert run(program).strip() == runtimed_ffi.__version__


@pytest.mark.c
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_header_pleases_both_compilers(tmp_path, compiler):
    source = tmp_path / "unit.c"
    source.write_text('#include "runtimed_ffi.h"\n')
    run(*require(compiler), "-std=c99", *STRICT, "-fsyntax-only", *flags("--cflags"), source)


# --- the flags


@pytest.mark.c
def test_flags_compile_and_link_a_program(tmp_path):
    source, program = tmp_path / "version.c", tmp_path / "version"
    source.write_text(PRINT_VERSION)
    run(*cc(), "-std=c99", *STRICT, source, *flags("--cflags", "--libs"), "-o", program)
    assert run(program, cwd="/").strip() == runtimed_ffi.__version__


@pytest.mark.c
def test_pkg_config_finds_the_library(tmp_path):
    pkg_config = require(os.environ.get("PKG_CONFIG", "pkg-config"))
    environment = {**os.environ, "PKG_CONFIG_PATH": config.get_pkgconfig_dir()}
    assert run(*pkg_config, "--modversion", "runtimed_ffi", env=environment).strip() == runtimed_ffi.__version__
    arguments = run(*pkg_config, "--cflags", "--libs", "runtimed_ffi", env=environment).split()
    source, program = tmp_path / "version.c", tmp_path / "version"
    source.write_text(PRINT_VERSION)
    run(*cc(), "-std=c99", *STRICT, source, *arguments, "-o", program)
    assert run(program, cwd="/").strip() == runtimed_ffi.__version__


def test_options_print_paths_that_exist():
    (include,), (library,), (pkgconfig,) = (flags(f"--{name}") for name in ("include", "library", "pkgconfigdir"))
    assert os.path.exists(os.path.join(include, "runtimed_ffi.h"))
    assert os.path.isfile(library) and not os.path.islink(library)
    assert os.path.exists(os.path.join(pkgconfig, "runtimed_ffi.pc"))


def test_command_without_options_prints_its_help():
    done = subprocess.run([sys.executable, "-m", "runtimed_ffi"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "--cflags" in done.stdout and not done.stderr
    assert run(sys.executable, "-m", "runtimed_ffi", "--version") == f"runtimed-ffi {runtimed_ffi.__version__}\n"


# --- names and numbers


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="readelf is for ELF")
def test_extension_finds_the_bundled_library_beside_itself():
    readelf = require("readelf")
    library = Path(config.get_library())
    assert f"[{library.name}]" in re.search(r"\(SONAME\).*", run(*readelf, "-d", library))[0]
    assert library.name == f"libruntimed_ffi.so.{lib.RTD_ABI_MAJOR}"
    dynamic = run(*readelf, "-d", sys.modules["runtimed_ffi._native"].__file__)
    assert f"[{library.name}]" in re.search(r"\(NEEDED\).*", dynamic)[0]
    # Some Pythons add a directory of their own.
    assert "$ORIGIN/lib" in re.search(r"\(R(?:UN)?PATH\).*\[(.*)\]", dynamic)[1].split(":")


def test_versions_agree():
    def manifest(*parts):
        return re.search(r'^version = "(.+)"$', text(*parts), flags=re.M)[1]

    found = {
        "pyproject.toml": manifest("pyproject.toml"),
        "Cargo.toml": manifest("csrc", "Cargo.toml"),
        "header": re.search(r'#define RTD_VERSION "(.+)"', HEADER.read_text(encoding="utf-8"))[1],
        "cbindgen.toml": re.search(r'#define RTD_VERSION "(.+)"', text("csrc", "cbindgen.toml"))[1],
        "CHANGELOG.md": re.search(r"^## \[(\d.*?)\]", text("CHANGELOG.md"), flags=re.M)[1],
        "__version__": runtimed_ffi.__version__,
        "library": ffi.string(lib.rtd_version()).decode(),
        "extension": ffi.string(lib.RTD_VERSION).decode(),
    }
    assert len(set(found.values())) == 1, found
    number = lib.rtd_abi_version()
    assert (number >> 16, number & 0xFFFF) == (lib.RTD_ABI_MAJOR, lib.RTD_ABI_MINOR)
