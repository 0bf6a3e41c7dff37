"""The end of the interpreter under any load; and interpreters that are refused."""

from __future__ import annotations

import os
import sys

import pytest
import subinterpreters

import runtimed_ffi
from integration.tools import finish, first_output, python

WAYS = ["pump", "thread", "exit", "cycle", "edits", "callback", "host", "forgotten"]

EXIT = """
    import os, sys, tempfile, threading
    import runtimed_ffi
    from runtimed_ffi.blobs import Blobs
    from runtimed_ffi.host import Host

    path, room, load, way = sys.argv[1:]
    session = runtimed_ffi.Session(room, socket_path=path)
    session.start_kernel()
    received = threading.Event()
    session.on_output(lambda output: received.set())
    session.on_change(lambda change: None)
    session.on_broadcast(lambda message: None)
    if way != "thread":
        session.start_pump()
    # The kernel displays only as much as requested: a load now, and no endless history for a later session.
    asked = os.open(load, os.O_WRONLY)
    os.write(asked, bytes(500))

    def wait():
        try:
            session.run("1", timeout_secs=None, on_output=print)
        except runtimed_ffi.RuntimedError:
            pass

    for _ in range(2):
        threading.Thread(target=wait, daemon=True).start()
    assert received.wait(30), "no outputs came"
    if way == "edits":
        mine = runtimed_ffi.Session(room + "-edits", socket_path=path)
        mine.connect()
        cell, begun = mine.create_cell(""), threading.Event()

        def edit():
            number = 0
            while True:
                number += 1
                try:
                    mine.set_source(cell, str(number))
                    mine.sync()
                except runtimed_ffi.RuntimedError:
                    return
                begun.set()

        threading.Thread(target=edit, daemon=True).start()
        assert begun.wait(30)
    if way == "callback":
        inside, never = threading.Event(), threading.Event()

        def stuck(output):
            inside.set()
            never.wait()

        session.on_output(stuck)
        # The displays requested above may all have been delivered before this callback was registered.
        os.write(asked, bytes(100))
        assert inside.wait(30)
    if way == "host":
        # What has no exit handler: a room with a peer that waits, documents, a blob store.
        directory = tempfile.TemporaryDirectory()
        host = Host(os.path.join(directory.name, "s"))
        threading.Thread(target=host.wait, daemon=True).start()
        host.prepare_room("r")
        document, blobs = host.fork("r"), Blobs(directory.name)
    if way == "exit":
        sys.exit(0)
    if way == "cycle":
        cycle = [session]
        cycle.append(cycle)
        del session
    if way == "forgotten":
        # Collected by the interpreter's last steps, after the exit handlers.
        import builtins
        builtins.kept = [session]
        del session
"""


@pytest.mark.pypy
@pytest.mark.stress
@pytest.mark.timeout(900)
def test_the_interpreter_ends_with_a_live_session_under_load(
    session: runtimed_ffi.Session, pytestconfig: pytest.Config, directory: str
) -> None:
    asked = os.path.join(directory, "asked")
    os.mkfifo(asked)
    held = os.open(asked, os.O_RDWR)
    code = (
        f"import os\nfrom IPython.display import clear_output\nasked = os.open({asked!r}, os.O_RDONLY)\n"
        "for i in range(1000000):\n    display(i)\n    if i % 100 == 99: clear_output()\n    os.read(asked, 1)"
    )
    load = session.submit_cell(session.create_cell(code))
    first_output(load)
    path = session._require().socket_path
    runs = pytestconfig.getoption("exit_runs")
    ways = [WAYS[number % len(WAYS)] for number in range(runs)]
    # Two at a time: while one ends, the next one imports.
    running = [(ways[0], python(EXIT, path, session.notebook_id, asked, ways[0]))]
    for way in [*ways[1:], None]:
        if way is not None:
            running.append((way, python(EXIT, path, session.notebook_id, asked, way)))
        ended, process = running.pop(0)
        try:
            finish(process, 60.0)
        except AssertionError as error:
            raise AssertionError(f"{ended}: {error}") from None
    session.shutdown_kernel()
    os.close(held)


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="only CPython has subinterpreters")
def test_subinterpreters_are_refused() -> None:
    if sys.version_info < (3, 13):
        pytest.importorskip("_xxsubinterpreters", reason="this CPython was built without its test of subinterpreters")
    process = python(subinterpreters.SCRIPT)
    out, err = process.communicate(timeout=60)
    # CPython's own decimal module prints to stderr when a second interpreter imports it.
    assert process.returncode == 0 and "runtimed" not in err, err
    subinterpreters.check(out)
