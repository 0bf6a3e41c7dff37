"""The ABI as committed facts: csrc/abi says which functions, types, struct layouts and numbers hosts rely on.

After a wanted change `make abi` rewrites them; docs/abi-changes.md then needs a line that ends with their fingerprint.
"""

import hashlib
import os
import re
import sys

import pytest
from ctools import HEADER, ROOT, STRICT, cc, declarations, flags, require, run

from runtimed_ffi._binding import config
from runtimed_ffi._native import ffi

ABI = ROOT / "csrc" / "abi"
DECLARATIONS = declarations(HEADER.read_text(encoding="utf-8"))
FUNCTIONS = sorted(re.findall(r"\b(rtd_\w+)\s*\([^;]*\)\s*;", DECLARATIONS))


FACTS = ("symbols.txt", "prototypes.txt", "layout.txt")
LOG = ROOT / "docs" / "abi-changes.md"


def prototypes(text):
    """The functions and function types of declarations, one a line, without comments and parameters' line breaks."""
    statements = (" ".join(statement.split()) for statement in text.split(";"))
    return sorted(statement for statement in statements if re.search(r"\brtd_\w+\)?\s*\(", statement))


def fingerprint(facts):
    """A short number for the texts of the files in csrc/abi."""
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:12]


def log_problem(log, number, mark):
    """What is missing in the log of changes for the ABI with this number and fingerprint; None when nothing is."""
    sections = re.split(r"^## ", log, flags=re.M)[1:]
    if not sections or sections[0].splitlines()[0] != number:
        return f"the newest section has to be {number}"
    # A line goes on, indented, until the next one.
    entries = re.findall(r"^- .*(?:\n  .*)*", sections[0], flags=re.M)
    if not entries or not entries[0].endswith(f" [{mark}]"):
        return f"csrc/abi has changed: put a line on top that says what changed and ends with [{mark}]"
    if log.count("[" + mark + "]") > 1:
        return f"[{mark}] stands there more than once"
    return None


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


def test_prototypes_of_the_header_are_the_committed_ones():
    found = prototypes(DECLARATIONS)
    names = {re.search(r"\b(rtd_\w+)\)?\s*\(", prototype)[1] for prototype in found}
    assert names >= set(FUNCTIONS) and {"rtd_event_fn", "rtd_wakeup_fn"} <= names
    compare("prototypes.txt", found)


@pytest.mark.skipif(sys.platform == "darwin", reason="nm -D is for ELF")
def test_library_exports_exactly_the_functions_of_the_header():
    symbols = run(*require("nm"), "-D", "--defined-only", config.get_library())
    assert sorted(line.split()[-1] for line in symbols.splitlines()) == FUNCTIONS


def test_header_of_the_package_is_the_committed_one():
    with open(os.path.join(config.get_include(), "runtimed_ffi.h"), encoding="utf-8") as packaged:
        assert packaged.read() == HEADER.read_text(encoding="utf-8"), "build again: `make build`"


def structs():
    """Names of the structs that hosts can see into, and their fields with their types."""
    for name in sorted(ffi.list_types()[0]):
        if name.startswith("rtd_") and ffi.typeof(name).kind == "struct":
            try:
                ffi.sizeof(name)
            except ffi.error:
                continue  # opaque (and cffi aborts the process when asked for its fields)
            yield name, [(field, ffi.getctype(value.type)) for field, value in ffi.typeof(name).fields]


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
        for field, of in fields:
            offset, size = f"offsetof({name}, {field})", f"sizeof((({name} *)0)->{field})"
            prints.append(f'printf("  %s: %u + %u, {of}\\n", "{field}", (unsigned){offset}, (unsigned){size});')
    source = tmp_path / "layout.c"
    lines = ["#include <stdio.h>", '#include "runtimed_ffi.h"', "int main(void) {", *prints, "return 0; }"]
    source.write_text("\n".join(lines))
    run(*cc(), "-std=c99", *STRICT, *flags("--cflags"), source, "-o", tmp_path / "layout")
    compare("layout.txt", run(tmp_path / "layout").splitlines())


def test_every_change_has_a_line_in_the_log():
    number = ".".join(re.search(rf"\bRTD_ABI_{part} = (\d+)", DECLARATIONS)[1] for part in ("MAJOR", "MINOR"))
    mark = fingerprint([(ABI / name).read_text(encoding="utf-8") for name in FACTS])
    assert log_problem(LOG.read_text(encoding="utf-8"), number, mark) is None


def test_a_change_without_a_line_is_noticed():
    before, after = fingerprint(["rtd_a\n", "", ""]), fingerprint(["rtd_a\nrtd_b\n", "", ""])
    assert before != after
    log = f"# Changes\n\n## 0.2\n\n- `rtd_a`: the first,\n  and a line more. [{before}]\n\n## 0.1\n\n- First.\n"
    assert log_problem(log, "0.2", before) is None
    assert "put a line on top" in log_problem(log, "0.2", after)
    assert log_problem(log.replace("- `rtd_a`", f"- `rtd_b`: new. [{after}]\n- `rtd_a`"), "0.2", after) is None
    below = log.replace("\n\n## 0.1", f"\n- `rtd_b`: new. [{after}]\n\n## 0.1")
    assert "put a line on top" in log_problem(below, "0.2", after)
    assert log_problem(log, "0.3", before) == "the newest section has to be 0.3"
    assert "more than once" in log_problem(log + f"- Again. [{before}]\n", "0.2", before)


@pytest.mark.parametrize(
    "change",
    [
        ("int32_t rtd_b(const rtd_a *a, size_t n);", "int32_t rtd_b(const rtd_a *a, uint32_t n);"),
        ("int32_t rtd_b(const rtd_a *a, size_t n);", "uint32_t rtd_b(const rtd_a *a, size_t n);"),
        ("int32_t rtd_b(const rtd_a *a, size_t n);", "int32_t rtd_b(rtd_a *a, size_t n);"),
        ("typedef void (*rtd_b_fn)(void *u);", "typedef void (*rtd_b_fn)(void *u, int32_t n);"),
    ],
)
def test_a_changed_prototype_is_noticed(change):
    # The names are the same, and no struct has another layout.
    before, after = (prototypes("typedef struct rtd_a rtd_a;\n" + text) for text in change)
    assert len(before) == len(after) == 1 and before != after


def test_line_breaks_are_no_change():
    assert prototypes("int rtd_b(int a,\n          int b);") == prototypes("int rtd_b(int a, int b);")
