"""README and guide do what they say: each Python block runs as pasted and prints the text block below it; so does the C
program. The examples run too."""

import json
import os
import re
import subprocess
import sys

import pytest
from ctools import HEADER, ROOT, STRICT, cc, declarations, flags, run

import runtimed_ffi

PAGES = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/guide.md"))
PYTHON = [
    (title, code, expected)
    for title, code, expected in re.findall(
        r"^### ([^\n]+)\n(?:(?!^#).)*?^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", PAGES, re.M | re.S
    )
]
(C_PROGRAM,) = re.findall(r"^```c\n(.*?)^```$", PAGES, re.M | re.S)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of a new user, with a private daemon."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, runtimed_ffi.Daemon() as daemon:
        patch.setenv("HOME", str(home))
        yield {**os.environ, "RUNTIMED_SOCKET_PATH": daemon.socket_path}


def python(code, environment):
    """Runs a program in a new interpreter and returns what it prints; any output on stderr is a failure."""
    return run(sys.executable, "-W", "error", "-c", code, env=environment, cwd=environment["HOME"])


def test_every_python_block_is_found():
    assert len(PYTHON) == PAGES.count("```python\n") > 5
    assert sum(bool(expected) for _, _, expected in PYTHON) == PAGES.count("```text\n")


@pytest.mark.kernel
@pytest.mark.parametrize(("title", "code", "expected"), PYTHON, ids=[title for title, _, _ in PYTHON])
def test_python_block_runs_as_pasted(environment, title, code, expected):
    printed = python(code, environment)
    if expected:
        assert printed == expected


@pytest.mark.c
def test_c_program_compiles_and_runs(environment, tmp_path):
    source, program = tmp_path / "hello.c", tmp_path / "hello"
    source.write_text(C_PROGRAM, encoding="utf-8")
    run(*cc(), "-std=c99", *STRICT, source, *flags("--cflags", "--libs"), "-o", program)
    (cell,) = json.loads(run(program, environment["RUNTIMED_SOCKET_PATH"]))
    assert cell["source"] == "print('from C')"
    done = subprocess.run([program, str(tmp_path / "absent")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "os error 2" in done.stderr


@pytest.mark.kernel
def test_first_run_shows_the_main_job(environment):
    printed = run(sys.executable, ROOT / "examples" / "first_run.py", env=environment)
    for wanted in ("| three", "| 5050", "ZeroDivisionError", "failed, as it should"):
        assert wanted in printed


def test_host_room_example_hosts_a_room(environment):
    assert run(sys.executable, ROOT / "examples" / "host_room.py", env=environment) == "HELLO!\n"


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.c
def test_fragments_of_the_abi_book_compile(tmp_path):
    book = (ROOT / "docs" / "abi.md").read_text(encoding="utf-8")
    head = "#include <stdio.h>\n#include <string.h>\n#include <poll.h>\n#include <runtimed_ffi.h>\n"
    fragments = re.findall(r"^```c\n(.*?)^```$", book, re.M | re.S)
    assert len(fragments) > 8
    for number, fragment in enumerate(fragments):
        source = tmp_path / f"fragment{number}.c"
        source.write_text(head + fragment, encoding="utf-8")
        run(*cc(), "-std=c99", "-Wall", "-Werror", "-Wno-unused-function", "-fsyntax-only", *flags("--cflags"), source)


def test_abi_book_names_what_the_header_has():
    book = (ROOT / "docs" / "abi.md").read_text(encoding="utf-8")
    header = HEADER.read_text(encoding="utf-8")
    names = set(re.findall(r"\bRTD_(?:E|EV|DONE)_[A-Z_]*[A-Z]\b", declarations(header))) - {"RTD_EV_NONE"}
    assert not sorted(name for name in names if name not in book)
    mentioned = set(re.findall(r"\brtd_[a-z_]+[a-z]\b", book))
    assert not sorted(name for name in mentioned if not re.search(rf"\b{name}\b", header))
