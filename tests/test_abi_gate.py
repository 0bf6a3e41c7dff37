"""The ABI as committed facts: csrc/abi says which functions, struct layouts and numbers hosts rely on.

After a wanted change `make abi` rewrites both files; docs/abi-changes.md then needs a line.
"""

import os
import re
import sys

import pytest
from ctools import HEADER, ROOT, STRICT, cc, declarations, flags, require, run

from runtimed_ffi import _config
from runtimed_ffi._native import ffi

ABI = ROOT / "csrc" / "abi"
DECLARATIONS = declarations(HEADER.read_text(encoding="utf-8"))
FUNCTIONS = sorted(re.findall(r"\b(rtd_\w+)\s*\([^;]*\)\s*;", DECLARATIONS))


def compare(name, lines):
    """Compares with the committed file, or rewrites it when asked to."""
    path, text = ABI / name, "".join(f"{line}\n" for line in lines)
    if os.environ.get("RTD_UPDATE_ABI"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    found = path.read_text() if path.exists() else ""
    assert found == text, f"csrc/abi/{name} differs: if that is wanted, `make abi` and a line in docs/abi-changes.md"


def test_functions_of_the_header_are_the_committed_ones():
    assert len(set(FUNCTIONS)) == len(FUNCTIONS), "declared twice"
    compare("symbols.txt", FUNCTIONS)


@pytest.mark.skipif(sys.platform == "darwin", reason="nm -D is for ELF")
def test_library_exports_exactly_the_functions_of_the_header():
    symbols = run(*require("nm"), "-D", "--defined-only", _config.get_library())
    assert sorted(line.split()[-1] for line in symbols.splitlines()) == FUNCTIONS


def test_header_of_the_package_is_the_committed_one():
    with open(os.path.join(_config.get_include(), "runtimed_ffi.h"), encoding="utf-8") as packaged:
        assert packaged.read() == HEADER.read_text(encoding="utf-8"), "build again: `make build`"


def structs():
    """Names and fields of the structs that hosts can see into."""
    for name in sorted(ffi.list_types()[0]):
        if name.startswith("rtd_") and ffi.typeof(name).kind == "struct":
            try:
                ffi.sizeof(name)
            except ffi.error:
                continue  # opaque (and cffi aborts the process when asked for its fields)
            yield name, [field for field, _ in ffi.typeof(name).fields]


def enumerators():
    """Names of all constants, in the order of the header."""
    for body in re.findall(r"\benum\b[^{;]*\{(.*?)\}", DECLARATIONS, flags=re.S):
        yield from re.findall(r"\bRTD_\w+", body)


@pytest.mark.c
@pytest.mark.skipif(sys.maxsize < 2**32, reason="csrc/abi/layout.txt is that of 64-bit machines")
def test_layout_and_numbers_are_the_committed_ones(tmp_path):
    prints = [f'printf("%s = %d\\n", "{name}", (int){name});' for name in enumerators()]
    for name, fields in structs():
        prints.append(f'printf("%s: %u\\n", "{name}", (unsigned)sizeof({name}));')
        for field in fields:
            offset, size = f"offsetof({name}, {field})", f"sizeof((({name} *)0)->{field})"
            prints.append(f'printf("  %s: %u + %u\\n", "{field}", (unsigned){offset}, (unsigned){size});')
    source = tmp_path / "layout.c"
    lines = ["#include <stdio.h>", '#include "runtimed_ffi.h"', "int main(void) {", *prints, "return 0; }"]
    source.write_text("\n".join(lines))
    run(*cc(), "-std=c99", *STRICT, *flags("--cflags"), source, "-o", tmp_path / "layout")
    compare("layout.txt", run(tmp_path / "layout").splitlines())


def test_abi_number_has_a_line_in_its_log():
    numbers = [re.search(rf"\bRTD_ABI_{part} = (\d+)", DECLARATIONS)[1] for part in ("MAJOR", "MINOR")]
    assert f"\n## {'.'.join(numbers)}\n" in (ROOT / "docs" / "abi-changes.md").read_text()
