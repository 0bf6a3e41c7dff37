"""Automerge for JavaScript as client and as server of a room, and its documents and messages against the library's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import runtimed_ffi
from interop import automerge_js
from interop.automerge_js import JavaScript
from interop.daemons import until
from runtimed_ffi.testing import strategies
from runtimed_ffi.testing.changes import change
from runtimed_ffi.testing.deviations import Deviating, documents
from runtimed_ffi.testing.model import NotebookModel
from runtimed_ffi.testing.profiles import examples
from runtimed_ffi.testing.replicas import Replica, SyncState
from runtimed_ffi.testing.wire import Json

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

GOLDEN = Path(__file__).parents[1] / "golden" / "v2" / "files" / "notebook-docs"


@pytest.fixture(scope="module")
def js() -> Iterator[JavaScript]:
    with JavaScript(automerge_js.install()) as program:
        yield program


def hexes(heads: bytes) -> list[str]:
    """Heads as JavaScript names them."""
    return sorted(heads[at : at + 32].hex() for at in range(0, len(heads), 32))


def insert(cell_id: str, source: str = "", index: int | None = None) -> Json:
    return {"op": "insert_cell", "cell_id": cell_id, "cell_type": "code", "source": source, "index": index}


def seen(replica: Replica) -> Json:
    return {"cells": replica.cells(), "metadata": replica.metadata(), "heads": hexes(replica.heads())}


def possible(strategy: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    """Operations that both sides know, in one form."""
    known = {"insert_cell", "delete_cell", "set_source", "set_cell_type", "append_outputs", "clear_outputs"}
    known |= {"set_execution_count", "set_metadata"}
    return strategy.filter(lambda op: op["op"] in known)


_new = st.integers(0, 10**6).map("cell-{}".format)
_ops = st.lists(possible(strategies.operation(("a", "b"), _new)), min_size=1, max_size=6)


def start(js: JavaScript, cells: dict[str, str]) -> Replica:
    """One document on both sides."""
    replica = Replica("n")
    replica.edit(*[insert(cell_id, source) for cell_id, source in cells.items()])
    js.ask("load", name="d", data=replica.save().hex())
    return replica


def apply(target: Any, ops: list[Json]) -> None:
    """Edit by edit; an operation on a cell that is not there, or is there already, is left out."""
    for op in ops:
        ids = {cell["id"] for cell in target.cells()}
        if op["op"] == "set_metadata" or (op.get("cell_id") in ids) != (op["op"] == "insert_cell"):
            target.edit(op)


class OfJavaScript:
    """A document of the program, in the form of a replica."""

    def __init__(self, js: JavaScript, name: str = "d") -> None:
        self._js, self._name = js, name

    def cells(self) -> list[Json]:
        return list(self._js.ask("read", name=self._name)["cells"])

    def edit(self, *ops: Json) -> None:
        self._js.ask("edit", name=self._name, ops=list(ops))


# -- bytes


@examples(0.4)
@given(ops=_ops)
def test_what_one_saves_the_other_loads(js: JavaScript, ops: list[Json]) -> None:
    replica, model = start(js, {"a": "x"}), NotebookModel([], {"runtime": "python"})
    model.edit([insert("a", "x")])
    theirs = OfJavaScript(js)
    for one in (replica, theirs, model):
        if isinstance(one, NotebookModel):
            for op in ops:
                here = one.place(op.get("cell_id", "")) is not None
                if op["op"] == "set_metadata" or here != (op["op"] == "insert_cell"):
                    one.edit([op])
        else:
            apply(one, ops)
    assert replica.cells() == model.cells and js.ask("read", name="d")["cells"] == model.cells
    loaded = Replica.load(bytes.fromhex(js.ask("save", name="d")))
    assert seen(loaded) == js.ask("read", name="d")
    js.ask("load", name="e", data=replica.save().hex())
    assert js.ask("read", name="e") == seen(replica)


@examples(0.4)
@given(case=documents())
def test_both_read_odd_documents_alike(js: JavaScript, case: Deviating) -> None:
    js.ask("load", name="d", data=case.data.hex())
    read = js.ask("read", name="d")
    assert (read["cells"], read["metadata"]) == (case.cells, case.metadata)
    assert read["heads"] == hexes(Replica.load(case.data).heads())


def test_a_document_begun_twice_is_read_alike(js: JavaScript) -> None:
    both = b"".join(change({"cells": [{"id": name}], "metadata": {}}, actor=name.encode() * 16) for name in "ab")
    js.ask("load", name="d", data=both.hex())
    assert js.ask("read", name="d") == seen(Replica.load(both))
    assert [cell["id"] for cell in js.ask("read", name="d")["cells"]] == ["b"]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.automerge")), ids=lambda path: path.stem[:20])
def test_documents_of_the_reference_are_read_alike(js: JavaScript, path: Path) -> None:
    """Written by automerge 0.7."""
    js.ask("load", name="d", data=path.read_bytes().hex())
    assert js.ask("read", name="d") == seen(Replica.load(path.read_bytes()))


# -- messages


def talk(js: JavaScript, replica: Replica, state: SyncState, rounds: int = 100) -> int:
    """Exchange messages until neither side has one to send; returns their number."""
    count = 0
    for _ in range(rounds):
        quiet = True
        message = state.generate(replica)
        if message is not None:
            js.ask("receive", name="d", state="s", message=message.hex())
            quiet, count = False, count + 1
        answer = js.ask("generate", name="d", state="s")
        if answer is not None:
            state.receive(replica, bytes.fromhex(answer))
            quiet, count = False, count + 1
        if quiet:
            return count
    raise AssertionError("the exchange does not end")


@examples(0.4)
@given(rounds=st.lists(st.tuples(_ops, _ops), min_size=1, max_size=3), ours=st.booleans())
def test_concurrent_edits_converge(js: JavaScript, rounds: list[tuple[list[Json], list[Json]]], ours: bool) -> None:
    """Cells, texts, outputs and metadata; one side begins with an empty document, as a client does."""
    state = SyncState()
    js.ask("state", name="s")
    if ours:
        replica = Replica("n")
        js.ask("new", name="d")
    else:
        replica = Replica()
        js.ask("create", name="d", id="n")
    assert talk(js, replica, state) > 0
    replica.edit(insert("a", "e\u0301x😀\r\n"), insert("b"))
    talk(js, replica, state)
    for here, there in rounds:
        apply(replica, here)
        apply(OfJavaScript(js), there)
        talk(js, replica, state)
        assert js.ask("read", name="d") == seen(replica)
        assert state.converged(replica)
    assert Replica.load(bytes.fromhex(js.ask("save", name="d"))).cells() == replica.cells()


_splices = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3), strategies.text(3)), min_size=1, max_size=4)


@examples(0.4)
@given(base=strategies.text(), here=_splices, there=_splices)
def test_splices_of_one_text_merge_alike(js: JavaScript, base: str, here: Any, there: Any) -> None:
    """Indices count code points here and UTF-16 units there; the same places are meant."""
    replica, state = start(js, {"a": base}), SyncState()
    js.ask("state", name="s")
    for target, splices in ((replica, here), (OfJavaScript(js), there)):
        text = base
        for place, delete, new in splices:
            index = place % (len(text) + 1)
            delete = min(delete, len(text) - index)
            op = {"op": "splice_source", "cell_id": "a", "index": index, "delete": delete, "insert": new}
            target.edit(op)
            text = text[:index] + new + text[index + delete :]
            assert target.cells()[0]["source"] == text
    talk(js, replica, state)
    assert js.ask("read", name="d") == seen(replica)


def test_lists_and_texts_with_conflicts_end_alike(js: JavaScript) -> None:
    """Both insert at one place, delete what the other edits, clear what the other appends to."""
    replica, state = start(js, {"a": "abc", "b": "", "c": ""}), SyncState()
    js.ask("state", name="s")
    replica.edit(insert("ours", "1", 1), {"op": "delete_cell", "cell_id": "b"})
    replica.edit({"op": "splice_source", "cell_id": "a", "index": 1, "delete": 1, "insert": "ours"})
    replica.edit({"op": "append_outputs", "cell_id": "c", "outputs": ["one"]})
    ops = [insert("theirs", "2", 1), {"op": "set_source", "cell_id": "b", "source": "edited"}]
    ops.append({"op": "splice_source", "cell_id": "a", "index": 1, "delete": 1, "insert": "theirs"})
    ops.append({"op": "clear_outputs", "cell_id": "c"})
    js.ask("edit", name="d", ops=ops)
    talk(js, replica, state)
    read = js.ask("read", name="d")
    assert read == seen(replica)
    cells = {cell["id"]: cell for cell in read["cells"]}
    assert set(cells) == {"a", "c", "ours", "theirs"}
    assert sorted(cells["a"]["source"]) == sorted("aourstheirsc")


# -- over the socket


def test_javascript_is_a_client_of_our_daemon(js: JavaScript) -> None:
    with runtimed_ffi.Daemon() as daemon, daemon.session("with JavaScript") as session:
        first = session.create_cell("print('e\u0301😀')", "markdown")
        assert js.ask("connect", name="c", path=daemon.socket_path, id="with JavaScript")
        assert js.ask("client_until_cells", name="c", ids=[first])
        read = js.ask("client_read", name="c")
        assert read["capabilities"]["protocol"] == "v2"
        assert read["cells"][0]["source"] == "print('e\u0301😀')" and read["metadata"]["runtime"] == "python"
        js.ask("client_edit", name="c", ops=[insert("theirs", "1 + 1")])
        js.ask(
            "client_edit",
            name="c",
            ops=[{"op": "splice_source", "cell_id": first, "index": 7, "delete": 3, "insert": "a"}],
        )
        # A request sees every edit before it on its connection.
        assert js.ask("client_ask", name="c", message={"action": "execute_cell", "cell_id": "theirs"}) == {
            "result": "no_kernel"
        }
        refused = js.ask("client_ask", name="c", message={"action": "execute_cell", "cell_id": first})
        assert refused["error"].startswith("Cannot execute non-code cell")
        until(lambda: [cell.id for cell in session.get_cells()] == [first, "theirs"], what="the cell of JavaScript")
        until(lambda: session.get_cell(first).source == "print('a')", what="its edit")
        session.set_source("theirs", "2 + 2")
        last = session.create_cell("3")
        assert js.ask("client_until_cells", name="c", ids=[first, "theirs", last])
        here = [(cell.id, cell.source) for cell in session.get_cells()]
        assert [(cell["id"], cell["source"]) for cell in js.ask("client_read", name="c")["cells"]] == here
        js.ask("client_close", name="c")


def test_our_client_joins_a_room_of_javascript(js: JavaScript, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    js.ask("serve", name="s", path=path)
    js.ask("server_edit", name="s", id="room", ops=[insert("theirs", "👩\u200d👩 e\u0301")])
    sessions = [runtimed_ffi.Session("room", socket_path=path, autostart=False) for _ in range(2)]
    try:
        for session in sessions:
            session.connect()
            assert session.get_cell("theirs").source == "👩\u200d👩 e\u0301"
        one, other = sessions
        ours = one.create_cell("x = 1", index=0)
        one.splice_source("theirs", 3, 1, "_")
        other.set_metadata("k", "v")
        until(lambda: [cell.id for cell in other.get_cells()] == [ours, "theirs"], what="the other session")
        until(lambda: js.ask("server_read", name="s", id="room")["metadata"].get("k") == "v", what="the server")
        ops = [{"op": "set_source", "cell_id": ours, "source": "x = 2\r\n"}, insert("more")]
        js.ask("server_edit", name="s", id="room", ops=ops)
        until(lambda: len(one.get_cells()) == len(other.get_cells()) == 3, what="the server's cell")
        read = js.ask("server_read", name="s", id="room")
        assert read["cells"][0]["source"] == "x = 2\r\n" and read["cells"][1]["source"] == "👩\u200d👩_e\u0301"
        for session in sessions:
            assert [(cell.id, cell.source) for cell in session.get_cells()] == [
                (cell["id"], cell["source"]) for cell in read["cells"]
            ]
        assert one.queue_state() == {"executing": None, "queued": []}
        asked = js.ask("server_read", name="s", id="room")["requests"]
        assert "get_queue_state" in [request["action"] for request in asked]
    finally:
        for session in sessions:
            session.disconnect()
        js.ask("server_close", name="s")
