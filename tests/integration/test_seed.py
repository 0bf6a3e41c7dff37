"""Programs written for `runtimed` 0.1 run unchanged: the patterns of its announcement, with our package's name."""

from __future__ import annotations

import pytest

import runtimed_ffi as runtimed


@pytest.fixture
def _found(shared_daemon: runtimed.Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those programs find their daemon."""
    monkeypatch.setenv("RUNTIMED_SOCKET_PATH", shared_daemon.socket_path)


@pytest.mark.usefixtures("_found")
def test_basic_execution(capsys: pytest.CaptureFixture[str]) -> None:
    with runtimed.Session(notebook_id="my-notebook") as session:
        session.start_kernel()
        result = session.run("print('hello')")
        print(result.stdout)  # "hello\n"
    assert capsys.readouterr().out == "hello\n\n"
    session.disconnect()


@pytest.mark.usefixtures("_found")
def test_document_first() -> None:
    session = runtimed.Session()
    session.connect()
    session.start_kernel()

    cell_id = session.create_cell("x = 42")

    result = session.execute_cell(cell_id)
    assert result.success and result.cell_id == cell_id

    session.set_source(cell_id, "x = 100")
    cell = session.get_cell(cell_id)
    assert (cell.id, cell.cell_type, cell.source) == (cell_id, "code", "x = 100")
    cells = session.get_cells()
    assert [cell.id for cell in cells] == [cell_id]
    session.delete_cell(cell_id)
    with pytest.raises(runtimed.RuntimedError, match="not found"):
        session.get_cell(cell_id)
    session.close()
    session.disconnect()


@pytest.mark.usefixtures("_found")
def test_daemon_client() -> None:
    client = runtimed.DaemonClient()
    assert client.ping() is True
    stats = client.status()
    assert {"uv_available", "conda_available"} <= set(stats)
    with runtimed.Session("listed") as session:
        session.connect()
        rooms = client.list_rooms()
        assert "listed" in [room["notebook_id"] for room in rooms]
        session.disconnect()


@pytest.mark.usefixtures("_found")
def test_executing_reads_from_the_document_all_clients_see() -> None:
    session, other = runtimed.Session("many"), runtimed.Session("many")
    cell_id = session.create_cell("print('shared')")
    session.sync()
    other.start_kernel()
    result = other.execute_cell(cell_id)
    assert result.stdout == "shared\n"
    for each in (session, other):
        each.sync()
        assert [output.text for output in each.get_outputs(cell_id)] == ["shared\n"]
        each.close()
        each.disconnect()


@pytest.mark.usefixtures("_found")
def test_errors_as_values_and_as_exceptions() -> None:
    session = runtimed.Session("errors")
    session.connect()
    with pytest.raises(runtimed.RuntimedError, match=r"[Kk]ernel"):
        session.run("1")
    session.start_kernel()
    assert session.kernel_started and session.env_source is not None
    result = session.run("raise ValueError('test error')")
    assert not result.success and result.error is not None
    assert "ValueError" in (result.error.ename or "")
    result = session.run("def broken(")
    assert not result.success and result.error is not None
    assert "SyntaxError" in (result.error.ename or "")
    with pytest.raises(runtimed.RuntimedError, match="not found"):
        session.execute_cell("cell-that-is-not-there")
    session.interrupt()
    session.shutdown_kernel()
    assert not session.kernel_started
    session.disconnect()
