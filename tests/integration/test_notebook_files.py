"""Notebook files with a whole daemon: loaded, saved, changed by other programs, broken, and the reference's."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

import runtimed_ffi
from integration.tools import LIMIT, Recorder, Thread

GOLDEN = Path(__file__).parent.parent / "golden" / "v2" / "files"


def write(path: Path, *cells: tuple[str, str]) -> None:
    """Write a notebook as another program would."""
    listed = [
        {"id": name, "cell_type": "markdown", "source": source, "metadata": {"of": name}} for name, source in cells
    ]
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": listed}
    path.write_text(json.dumps(notebook))


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes()))


def sources(session: runtimed_ffi.Session) -> list[str]:
    return [cell.source for cell in session.get_cells()]


def inspect(socket_path: str, notebook_id: str) -> dict[str, Any]:
    """The answer to `inspect_notebook` (4.1), which our client does not send."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LIMIT)
        connection.connect(socket_path)
        for message in ({"channel": "pool"}, {"type": "inspect_notebook", "notebook_id": notebook_id}):
            data = json.dumps(message).encode()
            connection.sendall(len(data).to_bytes(4, "big") + data)
        with connection.makefile("rb") as answers:
            return dict(json.loads(answers.read(int.from_bytes(answers.read(4), "big"))))


@pytest.fixture
def notebook(directory: str) -> Path:
    return Path(directory) / "nb.ipynb"


def journal(directory: str, notebook_id: str) -> Path:
    name = hashlib.sha256(notebook_id.encode()).hexdigest() + ".automerge"
    return Path(directory) / "notebook-docs" / name


def test_load_edit_save(directory: str, notebook: Path) -> None:
    write(notebook, ("a", "# one"), ("b", "two"))
    notebook.chmod(0o640)
    with runtimed_ffi.Daemon(directory) as daemon, daemon.session(str(notebook)) as session:
        session.connect()
        assert sources(session) == ["# one", "two"], "the first peer sees the file"
        session.set_source("a", "# ONE")
        made = session.create_cell("1 + 1")
        assert session.save() == str(notebook)
        saved = read(notebook)
        assert [(cell["id"], "".join(cell["source"])) for cell in saved["cells"]] == [
            ("a", "# ONE"),
            ("b", "two"),
            (made, "1 + 1"),
        ]
        assert saved["cells"][1]["metadata"] == {"of": "b"}
        assert notebook.stat().st_mode & 0o777 == 0o640
    assert notebook.name in os.listdir(directory)
    assert [name for name in os.listdir(directory) if name.endswith(".tmp")] == []


@pytest.mark.kernel
def test_outputs_are_saved_and_loaded(directory: str, notebook: Path) -> None:
    with runtimed_ffi.Daemon(directory) as daemon, daemon.session(str(notebook)) as session:
        session.start_kernel()
        session.run("print('out')\n'x' * 20_000")
        session.save()
    (cell,) = read(notebook)["cells"]
    assert [output["output_type"] for output in cell["outputs"]] == ["stream", "execute_result"]
    assert cell["execution_count"] == 1
    shutil.rmtree(Path(directory) / "notebook-docs")
    with runtimed_ffi.Daemon(directory) as daemon, daemon.session(str(notebook)) as session:
        session.connect()
        (loaded,) = session.get_cells()
        assert loaded.execution_count == 1
        assert session.get_outputs(loaded.id)[1].data == cell["outputs"][1]["data"]


def test_a_room_without_a_file_says_so(directory: str) -> None:
    with runtimed_ffi.Daemon(directory) as daemon:
        for name in ("untitled", "relative.ipynb", f"{directory}/../x.ipynb", f"{directory}/x.txt"):
            with daemon.session(name) as session:
                session.connect()
                with pytest.raises(runtimed_ffi.errors.DaemonError, match="the room has no file"):
                    session.save()


def test_a_change_by_others_is_merged_at_once(directory: str, notebook: Path) -> None:
    write(notebook, ("a", "one two"), ("b", "b"))
    with runtimed_ffi.Daemon(directory) as daemon, daemon.session(str(notebook)) as session:
        session.connect()
        session.set_source("a", "ONE two")
        session.sync()
        with Recorder(session) as recorder:
            write(notebook, ("b", "b"), ("a", "one TWO"), ("c", "new"))
            recorder.until(lambda: sources(session) == ["b", "ONE TWO", "new"])
        session.save()
        assert [cell["metadata"] for cell in read(notebook)["cells"]] == [{"of": name} for name in "bac"]


def test_a_broken_file_is_reported_and_left_alone(directory: str, notebook: Path) -> None:
    notebook.write_text("{ half a")
    with runtimed_ffi.Daemon(directory) as daemon, daemon.session(str(notebook)) as session:
        session.connect()
        session.create_cell("mine")
        with pytest.raises(runtimed_ffi.errors.DaemonError, match="the file is no JSON"):
            session.save()
        assert notebook.read_text() == "{ half a"
        with Recorder(session) as recorder:
            write(notebook, ("a", "mended"))
            recorder.until(lambda: sorted(sources(session)) == ["mended", "mine"])
        session.save()
        assert len(read(notebook)["cells"]) == 2


def test_unsaved_edits_survive_a_killed_daemon(directory: str, notebook: Path) -> None:
    write(notebook, ("a", "one two"))
    with runtimed_ffi.Daemon(directory) as daemon:
        session = daemon.session(str(notebook))
        session.connect()
        session.set_source("a", "ONE two")
        session.sync()
        daemon.kill()
        session.disconnect()
    write(notebook, ("a", "one TWO"))
    with runtimed_ffi.Daemon(directory) as daemon, daemon.session(str(notebook)) as session:
        session.connect()
        assert sources(session) == ["ONE TWO"]


def test_two_names_of_one_file_are_two_rooms_that_meet_in_it(directory: str, notebook: Path) -> None:
    write(notebook, ("a", "one"))
    link = notebook.with_name("link.ipynb")
    link.symlink_to(notebook)
    a, b = str(notebook), str(link)
    with runtimed_ffi.Daemon(directory) as daemon, daemon.session(a) as first, daemon.session(b) as second:
        first.connect()
        second.connect()
        first.create_cell("of the first", "markdown")
        second.create_cell("of the second", "markdown")
        second.sync()
        with Recorder(second) as recorder:
            first.save()
            recorder.until(lambda: set(sources(second)) == {"one", "of the first", "of the second"})
        second.save()
        assert link.is_symlink()
        assert len(read(notebook)["cells"]) == 3


def test_a_room_that_opens_slowly_delays_no_other_and_a_corrupt_journal_is_noted(
    directory: str, notebook: Path
) -> None:
    """The journal is a pipe: the library reads it until something is written, and then finds no document in it."""
    write(notebook, ("a", "one"))
    slow = journal(directory, str(notebook))
    with runtimed_ffi.Daemon(directory) as daemon:
        os.mkfifo(slow)
        session = daemon.session(str(notebook))
        opened = threading.Event()

        def connect() -> None:
            session.connect()
            opened.set()

        waiting = Thread(connect)
        with daemon.session("other") as other:
            other.connect()
            cell = other.create_cell("1")
            other.sync()
            assert other.kernel_info()["status"] == "not_started"
            with slow.open("wb") as pipe:  # Opens as soon as the library reads.
                for number in range(20):
                    other.set_source(cell, str(number))
                    other.sync()
                assert not opened.is_set()
                pipe.write(b"no document")
        waiting.get()
        assert sources(session) == ["one"], "the file is loaded into a new document"
        session.disconnect()
        state = inspect(daemon.socket_path, str(notebook))
        assert state["source"] == "live_room"
        assert "could not be read" in state["notes"][0]
        assert slow.with_name(slow.name + ".corrupt").exists()


def test_a_cache_of_the_reference_opens(directory: str) -> None:
    """golden files: every document the reference's daemon has left, with its blobs"""
    shutil.copytree(GOLDEN / "notebook-docs", Path(directory) / "notebook-docs")
    shutil.copytree(GOLDEN / "blobs", Path(directory) / "blobs")
    expected = json.loads((GOLDEN / "expected.json").read_text())["notebooks"]
    assert len(expected) > 5
    with runtimed_ffi.Daemon(directory) as daemon:
        for notebook in expected:
            with daemon.session(notebook["notebook_id"]) as session:
                session.connect()
                found = [(cell.id, cell.cell_type, cell.source, cell.execution_count) for cell in session.get_cells()]
                assert found == [
                    (cell["id"], cell["cell_type"], cell["source"], json.loads(cell["execution_count"]))
                    for cell in notebook["cells"]
                ]
                assert session.get_metadata() == notebook["metadata"]
                for cell in notebook["cells"]:
                    if "long_text" not in json.dumps(cell["outputs"]):
                        compare(session.get_outputs(cell["id"]), cell["outputs"])
                session.create_cell("still writable")
                session.sync()


def compare(found: list[runtimed_ffi.Output], expected: list[dict[str, Any]]) -> None:
    assert [output.output_type for output in found] == [output["output_type"] for output in expected]
    for output, wanted in zip(found, expected):
        for name in ("text", "name", "data", "ename", "evalue", "traceback", "execution_count"):
            if name in wanted and name != "data":
                assert getattr(output, name) == wanted[name], name
        # Our client hands JSON types on as their text.
        bundle = dict(output.data or {})
        for mime in bundle:
            if mime.endswith("json"):
                bundle[mime] = json.loads(bundle[mime])
        assert bundle == wanted.get("data", {})
