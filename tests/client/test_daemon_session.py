"""Sessions against a real daemon and a real kernel: what the seed's own tests assert, and what the seed got wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid

import pytest
from cells import BEGUN
from fakes import SECONDS, in_thread

from runtimed_ffi import errors

pytestmark = pytest.mark.kernel


def until(session, condition, hint=None):
    """Wait, on the session's own events, until the condition holds."""
    arrived = threading.Event()
    with session.on_change(lambda change: arrived.set()):
        session.start_pump()
        try:
            while not condition():
                assert arrived.wait(SECONDS), "no event made the condition true"
                arrived.clear()
        finally:
            session.stop_pump()


# -- connecting


def test_connect_and_repr(session):
    assert session.is_connected
    assert repr(session) == f"Session(id={session.notebook_id}, status=connected)"
    session.connect()


def test_a_session_that_left_can_come_back(open_session):
    keeper, session = open_session("back"), open_session("back")
    cell = session.create_cell("x")
    session.sync()
    session.disconnect()
    with pytest.raises(errors.NotConnectedError, match=r"^Not connected$"):
        session.get_cells()
    session.connect()
    assert [c.id for c in session.get_cells()] == [cell] == [c.id for c in keeper.get_cells()]


# -- document


def test_cells(session):
    first = session.create_cell("a = 1")
    assert first.startswith("cell-")
    cell = session.get_cell(first)
    assert (cell.id, cell.cell_type, cell.source, cell.execution_count) == (first, "code", "a = 1", None)
    second = session.create_cell("# title", "markdown", 0)
    third = session.create_cell("z", "weird", 99)
    assert [c.id for c in session.get_cells()] == [second, first, third]
    session.set_source(first, "a = 2\n")
    assert session.get_cell(first).source == "a = 2\n"
    session.splice_source(first, 4, 1, "é😀")
    session.splice_source(first, 5, 1)
    assert session.get_cell(first).source == "a = é\n"
    session.move_cell(third, 0)
    session.set_cell_type(third, "raw")
    assert [c.id for c in session.get_cells()] == [third, second, first]
    assert session.get_cell(third).cell_type == "raw"
    session.delete_cell(first)
    with pytest.raises(errors.CellNotFoundError, match=f"^Cell not found: {first}$"):
        session.get_cell(first)
    for call in (session.delete_cell, session.clear_outputs, lambda c: session.set_source(c, "")):
        with pytest.raises(errors.CellNotFoundError, match=r"^Cell not found: a$"):
            call("a")


def test_metadata(open_session):
    session, other = open_session("meta"), open_session("meta")
    session.set_metadata("key", "välue")
    assert session.get_metadata()["key"] == "välue"
    session.sync()
    until(other, lambda: other.get_metadata().get("key") == "välue")


def test_25_edits_reach_the_other(open_session):
    name = f"edits-{uuid.uuid4()}"
    one, two = open_session(name), open_session(name)
    cell = one.create_cell("0")
    seen = []
    done = threading.Event()

    def look(change):
        seen.extend(c.source for c in two.get_cells())
        if seen and seen[-1] == "25":
            done.set()

    with two.on_change(look):
        two.start_pump()
        for number in range(1, 26):
            one.set_source(cell, str(number))
        assert done.wait(SECONDS)
        two.stop_pump()
    assert two.get_cell(cell).source == "25"
    assert "" not in seen, "a cell and its text are one change"


def test_concurrent_edits_merge(daemon, open_session):
    one, two = open_session("merge"), open_session("merge")
    cell = one.create_cell("middle")
    one.sync()
    until(two, lambda: len(two.get_cells()) == 1)
    # Neither receives anything until both have written.
    os.kill(daemon.pid, signal.SIGSTOP)
    os.waitpid(daemon.pid, os.WUNTRACED)
    try:
        one.set_source(cell, "start middle")
        two.set_source(cell, "middle end")
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    one.sync()
    two.sync()
    until(one, lambda: one.get_cell(cell).source == "start middle end")
    until(two, lambda: two.get_cell(cell).source == "start middle end")


def test_edits_made_just_before_leaving_arrive_however_large(open_session):
    leaving, staying = open_session("large"), open_session("large")
    text = os.urandom(300_000).hex()  # More than the socket takes at once.
    cell = leaving.create_cell(text)
    leaving.disconnect()
    staying.sync()
    assert staying.get_cell(cell).source == text


def test_edits_made_just_before_the_exit_arrive_however_large(daemon, open_session):
    staying = open_session("large-exit")
    script = """if True:
        import os, sys
        import runtimed_ffi
        session = runtimed_ffi.Session("large-exit", socket_path=sys.argv[1])
        session.create_cell(os.urandom(300_000).hex())
    """
    subprocess.run([sys.executable, "-c", script, daemon.socket_path], check=True, timeout=100)
    staying.sync()
    assert [len(cell.source) for cell in staying.get_cells()] == [600_000]


# -- executions


def test_the_document_is_what_runs(kernel_session):
    cell = kernel_session.create_cell("print('from the document')")
    result = kernel_session.execute_cell(cell)
    assert (result.cell_id, result.success, result.stdout) == (cell, True, "from the document\n")
    assert result.execution_count is not None and result.execution_id
    assert kernel_session.get_cell(cell).execution_count == result.execution_count
    kernel_session.set_source(cell, "print('edited')")
    assert kernel_session.execute_cell(cell).stdout == "edited\n"
    assert [output.text for output in kernel_session.get_outputs(cell)] == ["edited\n"], "outputs are replaced"
    kernel_session.clear_outputs(cell)
    assert kernel_session.get_outputs(cell) == []
    assert kernel_session.get_cell(cell).execution_count is None


def test_state_is_kept_between_cells(kernel_session):
    assert kernel_session.run("kept = 41").success
    result = kernel_session.run("kept + 1")
    assert [output.data["text/plain"] for output in result.display_data] == ["42"]


def test_outputs(kernel_session):
    assert kernel_session.run("print('hello stdout')").stdout == "hello stdout\n"
    assert kernel_session.run("import sys; print('e', file=sys.stderr)").stderr == "e\n"
    several = kernel_session.run("print('line 1'); print('line 2'); print('line 3')")
    assert several.stdout == "line 1\nline 2\nline 3\n"
    rich = kernel_session.run(
        "from IPython.display import HTML, JSON, display; display(HTML('<b>x</b>')); JSON({'a': 1})"
    )
    assert rich.display_data[0].data["text/html"] == "<b>x</b>"
    assert rich.display_data[1].data["application/json"] == '{"a":1}'


def test_failing_cells(kernel_session):
    for _ in range(20):
        result = kernel_session.run("raise ValueError('mine')")
        assert not result.success
        assert (result.error.ename, result.error.evalue) == ("ValueError", "mine")
        assert result.error.traceback
    assert "SyntaxError" in kernel_session.run("def").error.ename


def test_large_outputs(kernel_session):
    result = kernel_session.run("print('x' * 300_000)")
    assert result.stdout == "x" * 300_000 + "\n"
    assert kernel_session.get_outputs(result.cell_id) == result.outputs


def test_a_thousand_outputs_in_order(kernel_session):
    seen = []
    result = kernel_session.run("for i in range(1000): display(i)", on_output=seen.append)
    assert [output.data["text/plain"] for output in result.outputs] == [str(n) for n in range(1000)]
    assert seen == result.outputs


def test_outputs_come_while_the_cell_runs(kernel_session):
    """The cell goes on only after its first output has arrived here."""
    go = os.path.join(os.path.dirname(__file__), f".go-{uuid.uuid4()}")
    code = f"import os\nprint('first', flush=True)\nos.mkfifo({go!r})\nprint(1)\nopen({go!r}).read()\nprint('second')"
    execution = kernel_session.submit_cell(kernel_session.create_cell(code), timeout_secs=SECONDS)
    try:
        stream = iter(execution)
        text = ""
        while "1\n" not in text:
            text += next(stream).text
        assert execution.state == "running" and not execution.done
        with open(go, "w"):
            pass
        assert execution.result().stdout == "first\n1\nsecond\n"
    finally:
        if os.path.exists(go):
            os.unlink(go)


def test_an_exception_in_a_callback(kernel_session):
    def callback(output):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        kernel_session.run("print(1)", on_output=callback)
    assert kernel_session.run("print(2)").stdout == "2\n"


def test_refusals(kernel_session):
    with pytest.raises(errors.CellNotFoundError, match=r"^Cell not found in document: nope$"):
        kernel_session.execute_cell("nope")
    text = kernel_session.create_cell("# t", "markdown")
    with pytest.raises(errors.DaemonError, match=rf"^Cannot execute non-code cell: {text} \(type: markdown\)$"):
        kernel_session.execute_cell(text)
    with pytest.raises(errors.KernelMismatchError, match="requested 'deno' but 'python' is already running"):
        kernel_session.start_kernel("deno")


def test_timeout_then_run_again(open_session):
    session = open_session(kernel=True)
    cell = session.create_cell("import time; print('begun', flush=True); time.sleep(30)")
    ended = threading.Event()
    watch = session.on_broadcast(lambda broadcast: broadcast["event"] == "execution_done" and ended.set())
    with pytest.raises(errors.TimeoutError_, match=r"^Execution timed out after 0.5 seconds$") as late:
        session.execute_cell(cell, 0.5)
    assert late.value.result.state == "timed_out"
    # Asking for a cell that is still running would only join that run (protocol 2, section 5.9).
    session.start_pump()
    session.interrupt()
    assert ended.wait(SECONDS)
    session.stop_pump()
    watch.remove()
    session.set_source(cell, "print('again')")
    result = session.execute_cell(cell)
    assert result.stdout == "again\n", "the end of the earlier run does not end this one"
    with pytest.raises(TimeoutError, match=r"^Execution timed out after 0 seconds$"):
        session.run("1", 0)


def test_interrupt_from_another_thread(open_session):
    session = open_session(kernel=True)
    begun = threading.Event()
    code = BEGUN + "while True: pass"
    join = in_thread(lambda: session.run(code, None, on_output=lambda output: begun.set()))
    assert begun.wait(SECONDS)
    session.interrupt()
    result = join()
    assert (result.success, result.error.ename) == (False, "KeyboardInterrupt")
    assert session.run("'alive'").success
    session.interrupt()


def test_two_sessions_share_document_and_kernel(open_session):
    name = f"two-{uuid.uuid4()}"
    one, two = open_session(name, kernel=True), open_session(name)
    assert not two.kernel_started
    two.start_kernel()
    one.run("shared = 5")
    assert two.run("shared").display_data[0].data["text/plain"] == "5"
    arrived = threading.Event()
    values = []

    def note(event):
        values.append((event.cell_id, event.output.data))
        arrived.set()

    with two.on_output(note):
        two.start_pump()
        result = one.run("'for all'")
        assert arrived.wait(SECONDS)
        two.stop_pump()
    assert values == [(result.cell_id, {"text/plain": "'for all'"})]
    two.close()
    one.close()
    two.start_kernel()
    assert two.run("shared").success, "neither close stops a kernel that the other may use"


def test_close_stops_the_kernel_of_a_lonely_session(daemon, open_session):
    session = open_session(kernel=True)
    assert session.kernel_info()["status"] in ("idle", "busy", "starting")
    session.close()
    assert (session.is_connected, session.kernel_started, session.env_source) == (True, False, None)
    assert session.kernel_info()["kernel_type"] is None
    with pytest.raises(errors.NoKernelError, match=r"^No kernel running$"):
        session.interrupt()
    session.shutdown_kernel()


def test_a_kernel_stopped_by_another(open_session):
    name = f"stopped-{uuid.uuid4()}"
    one, two = open_session(name, kernel=True), open_session(name, kernel=True)
    one.shutdown_kernel()
    with pytest.raises(errors.KernelError, match=r"^Unexpected response: NoKernel$"):
        two.run("1")
    two.start_kernel()
    assert two.run("1").success


def test_a_shutdown_ends_waiters(open_session):
    session = open_session(kernel=True)
    begun = threading.Event()
    code = BEGUN + "while True: pass"
    join = in_thread(lambda: session.run(code, None, on_output=lambda output: begun.set()))
    assert begun.wait(SECONDS)
    session.shutdown_kernel()
    with pytest.raises((errors.ExecutionCancelledError, errors.KernelDiedError)) as ended:
        join()
    assert ended.value.result.stdout == "begun\n"


def test_a_killed_kernel_ends_the_waiter(open_session):
    session = open_session(kernel=True)
    pid = int(session.run("import os; os.getpid()").display_data[0].data["text/plain"])
    begun = threading.Event()
    code = BEGUN + "while True: pass"
    join = in_thread(lambda: session.run(code, None, on_output=lambda output: begun.set()))
    assert begun.wait(SECONDS)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(errors.KernelDiedError, match=r"^Kernel") as died:
        join()
    assert died.value.reason
    assert died.value.result.stdout == "begun\n"
    session.start_kernel()
    assert session.run("1").success


def test_a_failure_cancels_what_waits_behind_it(open_session):
    session = open_session(kernel=True)
    first = session.submit_cell(session.create_cell("import time; time.sleep(0.2); 1/0"))
    second = session.submit_cell(session.create_cell("print('never')"))
    assert first.result().error.ename == "ZeroDivisionError"
    with pytest.raises(errors.ExecutionCancelledError):
        second.result()


def test_run_all_and_queue(open_session):
    session = open_session(kernel=True)
    for number in range(3):
        session.create_cell(f"print({number})")
    session.create_cell("text", "markdown")
    finished = []
    last = threading.Event()

    def note(broadcast):
        if broadcast["event"] == "execution_done":
            finished.append(broadcast["cell_id"])
            if len(finished) == 3:
                last.set()

    with session.on_broadcast(note):
        session.start_pump()
        assert session.run_all() == 3
        assert last.wait(SECONDS)
        session.stop_pump()
    session.sync()
    assert [session.get_outputs(cell)[0].text for cell in finished] == ["0\n", "1\n", "2\n"]
    assert session.queue_state()["queued"] == []
