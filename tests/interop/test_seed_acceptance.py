"""What a program written for `runtimed` 0.1.4 relies on, with `runtimed_ffi` imported in its place.

Source: python-api, sections 1.7, 1.12 and 1.13.  The daemon is one process, started by the reference's command line;
the sessions find it by `RUNTIMED_SOCKET_PATH` and by nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

pytest.importorskip("runtimed_ffi._binding.ffi", reason="the C library is not built")

import runtimed_ffi as runtimed
from interop.daemons import STOP_SECONDS, DaemonProcess, accepts, daemon, until

pytestmark = [pytest.mark.kernel, pytest.mark.interop]

CELL_SECONDS = 10.0
"""Within this time another session sees a new cell ..."""
EDIT_SECONDS = 10.0
"""... and an edit."""
LONG = "import time\nprint('started', flush=True)\ntime.sleep(600)"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with daemon(tmp_path_factory.mktemp("seed")) as process:
        yield process


@pytest.fixture(autouse=True)
def environment(running: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIMED_SOCKET_PATH", str(running.socket))


@pytest.fixture
def session(running: DaemonProcess) -> Iterator[Any]:
    made = runtimed.Session()
    yield made
    made.close()
    made.disconnect()


@pytest.fixture
def kernel(session: Any) -> Any:
    session.start_kernel()
    return session


def _soon(condition: Callable[[], object], seconds: float) -> None:
    until(condition, seconds, "visible to the other session")


class TestConnectivity:
    def test_connect(self, session: Any) -> None:
        assert not session.is_connected
        session.connect()
        assert session.is_connected

    def test_repr(self, session: Any) -> None:
        session.connect()
        assert "Session" in repr(session)
        assert session.notebook_id in repr(session)


class TestDocumentFirst:
    def test_create(self, session: Any) -> None:
        session.connect()
        cell_id = session.create_cell("x = 1")
        assert cell_id.startswith("cell-")
        cell = session.get_cell(cell_id)
        assert (cell.id, cell.source, cell.cell_type) == (cell_id, "x = 1", "code")

    def test_edit(self, session: Any) -> None:
        session.connect()
        cell_id = session.create_cell("before")
        session.set_source(cell_id, "after")
        assert session.get_cell(cell_id).source == "after"

    def test_list(self, session: Any) -> None:
        session.connect()
        made = [session.create_cell(f"n = {n}") for n in range(3)]
        assert [cell.id for cell in session.get_cells()] == made

    def test_delete(self, session: Any) -> None:
        session.connect()
        cell_id = session.create_cell("gone")
        session.delete_cell(cell_id)
        with pytest.raises(runtimed.RuntimedError, match="not found"):
            session.get_cell(cell_id)

    def test_execute_reads_the_document(self, kernel: Any) -> None:
        cell_id = kernel.create_cell("print('first text')")
        kernel.set_source(cell_id, "print('second text')")
        result = kernel.execute_cell(cell_id)
        assert result.success
        assert result.cell_id == cell_id
        assert result.execution_count is not None
        assert "second text" in result.stdout
        assert "first text" not in result.stdout

    def test_run(self, kernel: Any) -> None:
        result = kernel.run("print(6 * 7)")
        assert result.success
        assert "42" in result.stdout

    def test_exception(self, kernel: Any) -> None:
        result = kernel.run("raise ValueError('on purpose')")
        assert not result.success
        assert "ValueError" in result.error.ename

    def test_state_between_cells(self, kernel: Any) -> None:
        assert kernel.run("kept = 'still here'").success
        result = kernel.run("print(kept)")
        assert result.success
        assert "still here" in result.stdout


class TestTwoSessions:
    @pytest.fixture
    def other(self, session: Any) -> Iterator[Any]:
        made = runtimed.Session(session.notebook_id)
        yield made
        made.close()
        made.disconnect()

    def test_a_cell_of_the_other(self, session: Any, other: Any) -> None:
        session.connect()
        other.connect()
        cell_id = session.create_cell("made here")
        _soon(lambda: [c.id for c in other.get_cells()] == [cell_id], CELL_SECONDS)
        assert other.get_cell(cell_id).source == "made here"

    def test_an_edit_of_the_other(self, session: Any, other: Any) -> None:
        session.connect()
        other.connect()
        cell_id = session.create_cell("one")
        _soon(lambda: [c.id for c in other.get_cells()] == [cell_id], CELL_SECONDS)
        other.set_source(cell_id, "two")
        _soon(lambda: session.get_cell(cell_id).source == "two", EDIT_SECONDS)

    def test_one_kernel(self, session: Any, other: Any) -> None:
        session.start_kernel()
        other.start_kernel()
        assert session.kernel_started
        assert other.kernel_started
        assert session.run("shared = 'from one'").success
        assert "from one" in other.run("print(shared)").stdout

    def test_a_cell_made_by_one_and_run_by_the_other(self, session: Any, other: Any) -> None:
        session.start_kernel()
        other.start_kernel()
        cell_id = session.create_cell("print('run by the other')")
        _soon(lambda: [c.id for c in other.get_cells()] == [cell_id], CELL_SECONDS)
        result = other.execute_cell(cell_id)
        assert result.success
        assert "run by the other" in result.stdout


class TestKernel:
    def test_start(self, session: Any) -> None:
        session.connect()
        assert not session.kernel_started
        assert session.env_source is None
        session.start_kernel()
        assert session.kernel_started
        assert session.env_source is not None

    def test_interrupt_while_idle(self, kernel: Any) -> None:
        kernel.interrupt()
        assert kernel.run("print('alive')").stdout == "alive\n"

    def test_shutdown(self, kernel: Any) -> None:
        kernel.shutdown_kernel()
        assert not kernel.kernel_started


class TestOutputs:
    def test_stdout(self, kernel: Any) -> None:
        assert kernel.run("print('hello stdout')").stdout == "hello stdout\n"

    def test_stderr(self, kernel: Any) -> None:
        assert "hello stderr" in kernel.run("import sys; sys.stderr.write('hello stderr\\n')").stderr

    def test_value(self, kernel: Any) -> None:
        result = kernel.run("2 + 2")
        assert result.success
        assert any("4" in (output.data or {}).get("text/plain", "") for output in result.display_data)

    def test_several_prints(self, kernel: Any) -> None:
        result = kernel.run("for n in range(3): print('line', n, flush=True)")
        assert result.stdout == "line 0\nline 1\nline 2\n"


class TestErrors:
    def test_no_kernel(self, session: Any) -> None:
        session.connect()
        cell_id = session.create_cell("1")
        with pytest.raises(runtimed.RuntimedError, match=r"[Kk]ernel"):
            session.execute_cell(cell_id)

    def test_unknown_cell(self, session: Any) -> None:
        session.connect()
        with pytest.raises(runtimed.RuntimedError, match="not found"):
            session.get_cell("cell-that-never-was")

    def test_syntax_error(self, kernel: Any) -> None:
        result = kernel.run("if True print('no colon')")
        assert not result.success
        assert "SyntaxError" in result.error.ename


def test_the_daemon_client_finds_the_same_daemon(kernel: Any) -> None:
    client = runtimed.DaemonClient()
    assert client.ping()
    assert client.is_running()
    assert repr(client) == "DaemonClient(connected)"
    assert set(client.status()) == {"uv_available", "conda_available", "uv_warming", "conda_warming"}
    rooms = {room["notebook_id"]: room for room in client.list_rooms()}
    assert rooms[kernel.notebook_id]["has_kernel"]
    assert rooms[kernel.notebook_id]["active_peers"] == 1
    assert client.flush_pool() is None


def test_the_daemon_ends_in_time_while_a_cell_runs(tmp_path: Path) -> None:
    process = DaemonProcess(tmp_path)
    try:
        session = runtimed.Session(socket_path=str(process.socket))
        session.start_kernel()
        execution = session.submit_cell(
            session.create_cell("import time\nprint('started', flush=True)\ntime.sleep(600)")
        )
        assert next(iter(execution)).text.startswith("started")
        assert process.terminate() < STOP_SECONDS
        start = time.monotonic()
        with pytest.raises(runtimed.RuntimedError):
            execution.result()
        assert time.monotonic() - start < STOP_SECONDS
        assert not accepts(process.socket)
        assert not runtimed.DaemonClient(socket_path=str(process.socket)).ping()
        session.disconnect()
    finally:
        process.kill()
