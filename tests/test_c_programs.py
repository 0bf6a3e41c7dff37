"""C programs that use the library: the tests in tests/c and the examples, plain, under valgrind, with sanitizers."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from ctools import ROOT, STRICT, cc, flags, require, run

import runtimed_ffi
from runtimed_ffi import _config

pytestmark = pytest.mark.c

TESTS = ROOT / "tests" / "c"
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
def test_smoke(place, compiler):
    program = compile_program(TESTS / "smoke.c", place, require(compiler))
    assert run(program, place) == "ok\n"


def test_smoke_under_valgrind(place):
    program = compile_program(TESTS / "smoke.c", place, cc(), "-g")
    assert run(*memcheck(), program, place) == "ok\n"


def test_smoke_with_sanitizers(place):
    assert run(sanitized(TESTS / "smoke.c", place), place) == "ok\n"


# --- the library in a process that does more than use it


def test_library_is_unloaded_and_loaded_again(place):
    program = compile_program(TESTS / "lifetime.c", place, cc())
    assert run(program, _config.get_library(), place) == "ok\n"


def test_library_is_unloaded_and_loaded_again_under_valgrind(place):
    program = compile_program(TESTS / "lifetime.c", place, cc(), "-g")
    assert run(*memcheck(), program, _config.get_library(), place) == "ok\n"


def test_no_signal_when_the_peer_has_gone(place):
    # Python ignores SIGPIPE, but gives its children the default action back.
    program = compile_program(TESTS / "sigpipe.c", place, cc())
    assert run(program, place) == "ok\n"


def test_forked_child(place):
    program = compile_program(TESTS / "fork.c", place, cc())
    assert run(program, place) == "ok\n"


def test_forked_child_with_sanitizers(place):
    assert run(sanitized(TESTS / "fork.c", place), place) == "ok\n"


# --- the examples


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
def test_c_program_runs_a_cell_and_prints_outputs_as_they_come(run_cell, daemon, place):
    gate = place / "gate"
    code = f"""
import os, time
print("one", flush=True)
while not os.path.exists({str(gate)!r}):
    time.sleep(0.01)
print("two")
6 * 7"""
    command = [run_cell, daemon.socket_path, "as-they-come", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        try:
            # The document may be ahead of the broadcasts.
            assert sorted(program.stdout.readline() for _ in range(2)) == ["In [1]\n", "one\n"]
            gate.touch()  # only now can the cell end
            out, err = program.communicate(timeout=60)
        finally:
            program.kill()
    assert (program.returncode, err) == (0, "")
    assert "two" in out and out.rstrip().endswith("42")


@pytest.mark.kernel
def test_c_program_tells_how_a_cell_ended(run_cell, daemon):
    command = [run_cell, daemon.socket_path, "failing", "print('before')\n1 / 0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "before" in done.stdout and "ZeroDivisionError" in done.stdout
    assert done.stderr.startswith("ended with 1:")


def test_c_program_tells_what_went_wrong(run_cell, place):
    done = subprocess.run([run_cell, place / "nobody", "n", "1"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and "No such file" in done.stderr and not done.stdout
    done = subprocess.run([run_cell], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and done.stderr.startswith("usage:")


@pytest.mark.kernel
def test_c_program_that_runs_a_cell_is_clean_under_valgrind(run_cell, daemon):
    code = "print('x' * 20000)\nfor n in range(20): display(n)\n'done'"
    out = run(*memcheck(), run_cell, daemon.socket_path, "valgrind", code)
    assert "x" * 20000 in out and out.rstrip().endswith("'done'")


# --- the same from Lua


@pytest.mark.kernel
@pytest.mark.parametrize("way", ["poll", "wait", "dispatch"])
def test_lua_program_runs_a_cell(daemon, way):
    luajit = require(os.environ.get("LUAJIT") or "luajit")
    program = ROOT / "examples" / "lua" / "run_cell.lua"
    environment = {**os.environ, "PYTHON": sys.executable}
    command = [*luajit, program, daemon.socket_path, f"lua-{way}"]

    def lua(code):
        command_line = [*command, code, way]
        return subprocess.run(command_line, capture_output=True, text=True, timeout=100, env=environment)

    done = lua("print('hello')\nfor n in range(200): display(n)\n6 * 7")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    lines.remove("In [1]")  # anywhere: the document may be ahead of the broadcasts
    assert lines[0] == "hello" and lines[-1] == "42"
    assert [line for line in lines if line.isdigit()] == [*map(str, range(200)), "42"]
    failed = lua("1 / 0")
    assert failed.returncode == 1 and "ZeroDivisionError" in failed.stdout
