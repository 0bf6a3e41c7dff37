"""C programs that use the library: the tests in tests/c and the examples, plain, under valgrind, with sanitizers."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from ctools import ROOT, STRICT, cc, flags, require, run

import runtimed_ffi
from runtimed_ffi._binding import config

pytestmark = pytest.mark.c

TESTS = ROOT / "tests" / "c"
SMOKE = [TESTS / "pure.c", TESTS / "smoke.c"]
EXAMPLES = ROOT / "examples" / "c"
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
LOST = "definite,indirect,possible"
MEMCHECK = ["--quiet", "--leak-check=full", f"--show-leak-kinds={LOST}", f"--errors-for-leak-kinds={LOST}"]


@pytest.fixture
def place():
    """A directory whose path is short enough for a socket."""
    directory = tempfile.mkdtemp(prefix="rtd-")
    yield Path(directory)
    shutil.rmtree(directory)


def compile_program(source, place, compiler, *options):
    program = place / source.stem
    arguments = ["-std=c99", *STRICT, *options, source, *flags("--cflags", "--libs"), "-ldl", "-lpthread"]
    run(*compiler, *arguments, "-o", program)
    return program


def sanitized(source, place):
    """The program with both sanitizers in it; proven, because a compiler that ignores the flags would pass too."""
    try:
        program = compile_program(source, place, cc(), *SANITIZE)
    except AssertionError as error:
        if "cannot find" in str(error) and ("asan" in str(error) or "ubsan" in str(error)):
            pytest.skip("libasan or libubsan is not installed")
        raise
    symbols = run(*require("nm"), program)
    assert "__asan_init" in symbols and "__ubsan_handle_" in symbols
    return program


def memcheck():
    return [*require(os.environ.get("VALGRIND") or "valgrind"), *MEMCHECK, "--error-exitcode=99"]


# --- every function once


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("source", SMOKE, ids=lambda source: source.stem)
def test_smoke(place, source, compiler):
    program = compile_program(source, place, require(compiler))
    assert run(program, place) == "ok\n"


@pytest.mark.parametrize("source", SMOKE, ids=lambda source: source.stem)
def test_smoke_under_valgrind(place, source):
    program = compile_program(source, place, cc(), "-g")
    assert run(*memcheck(), program, place) == "ok\n"


@pytest.mark.parametrize("source", SMOKE, ids=lambda source: source.stem)
def test_smoke_with_sanitizers(place, source):
    assert run(sanitized(source, place), place) == "ok\n"


# --- the library in a process that does more than use it


def test_library_is_unloaded_and_loaded_again(place):
    program = compile_program(TESTS / "lifetime.c", place, cc())
    assert run(program, config.get_library(), place) == "ok\n"


def test_library_is_unloaded_and_loaded_again_under_valgrind(place):
    program = compile_program(TESTS / "lifetime.c", place, cc(), "-g")
    assert run(*memcheck(), program, config.get_library(), place) == "ok\n"


def test_no_signal_when_the_peer_has_gone(place):
    # Python ignores SIGPIPE, but gives its children the default action back.
    program = compile_program(TESTS / "sigpipe.c", place, cc())
    assert run(program, place) == "ok\n"


def test_forked_child(place):
    program = compile_program(TESTS / "fork.c", place, cc())
    assert run(program, place) == "ok\n"


def test_forked_child_with_sanitizers(place):
    assert run(sanitized(TESTS / "fork.c", place), place) == "ok\n"


# --- the examples; what they do, and from other languages, is tested with an installed wheel: tests/languages


def test_python_session_in_a_room_hosted_by_c(place):
    program, socket = sanitized(EXAMPLES / "host_room.c", place), place / "s"
    with subprocess.Popen([program, socket], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as host:
        try:
            assert host.stdout.readline() == "hosting\n"
            with runtimed_ffi.Session("shared", socket_path=str(socket), autostart=False) as session:
                session.start_kernel()
                first = session.run("print(1)")
                assert first.success and first.stdout.endswith(" bytes\n"), first
                second = session.run("print(1)  # longer")
                assert int(second.stdout.split()[0]) - int(first.stdout.split()[0]) == len("  # longer")
                assert second.execution_count == 2
                session.disconnect()  # the last peer leaves, which ends this host
            out, err = host.communicate(timeout=20)
            assert (host.returncode, out, err) == (0, "", "")
        finally:
            host.kill()
    assert not socket.exists()


@pytest.fixture(scope="module")
def daemon():
    with runtimed_ffi.Daemon() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def run_cell():
    directory = tempfile.mkdtemp(prefix="rtd-")
    yield compile_program(EXAMPLES / "run_cell.c", Path(directory), cc(), "-g")
    shutil.rmtree(directory)


@pytest.mark.kernel
def test_c_program_that_runs_a_cell_is_clean_under_valgrind(run_cell, daemon):
    code = "print('x' * 20000)\nfor n in range(20): display(n)\n'done'"
    out = run(*memcheck(), run_cell, daemon.socket_path, "valgrind", code)
    assert "x" * 20000 in out and out.rstrip().endswith("'done'")
