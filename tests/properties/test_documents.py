"""Documents through the C ABI: edits against plain lists, saving, copies, deviations of the schema.

Source: protocol 2, section 7; the header's comment on rtd_doc_edit.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from properties.documented import CODES, call
from runtimed_ffi._binding.ffi import bytes_in, check, ffi, lib, new_buffer, take_buf, text_in
from runtimed_ffi.errors import RuntimedError
from runtimed_ffi.testing import strategies
from runtimed_ffi.testing.changes import Text, change
from runtimed_ffi.testing.deviations import Deviating, documents
from runtimed_ffi.testing.model import NotebookModel, Refused
from runtimed_ffi.testing.profiles import examples
from runtimed_ffi.testing.replicas import Replica, converge
from runtimed_ffi.testing.wire import Json, encode

SOME: list[Json] = [
    {"op": "insert_cell", "cell_id": "a", "cell_type": "code", "source": "e\u0301😀\r\nx"},
    {"op": "insert_cell", "cell_id": "b", "cell_type": "markdown", "source": ""},
    {"op": "append_outputs", "cell_id": "a", "outputs": ["1", "2", "3"]},
]
"""A document with content, so that more edits are possible."""
_edits = st.lists(strategies.edits(), max_size=12)


def edit(replica: Replica, ops: Any) -> int:
    return call("rtd_doc_edit", replica.handle, *bytes_in(encode(ops)))


def cell(replica: Replica, cell_id: str) -> Json | None:
    out = new_buffer()
    code = call("rtd_doc_cell", replica.handle, *text_in(cell_id), out)
    raw = take_buf(out)
    return json.loads(raw) if code == lib.RTD_OK else None


@examples(2)
@given(_edits)
def test_edits_do_what_the_model_does(edits: list[list[Json]]) -> None:
    replica, model = Replica("n"), NotebookModel(metadata={"runtime": "python"})
    for ops in [SOME, *edits]:
        heads = replica.heads()
        code = edit(replica, ops)
        try:
            model.edit(ops)
        except Refused:
            assert code in (lib.RTD_E_NOT_FOUND, lib.RTD_E_ARG)
            assert replica.heads() == heads
        else:
            assert code == lib.RTD_OK
        assert replica.cells() == model.cells and replica.metadata() == model.metadata
    for one in model.cells:
        assert cell(replica, one["id"]) == one
    assert cell(replica, "never") is None


@examples()
@given(_edits, st.data())
def test_a_saved_document_loads_as_it_was(edits: list[list[Json]], data: st.DataObject) -> None:
    """Whole, and as a whole with later changes behind it; cut off anywhere it is an error or an older state."""
    replica = Replica("n")
    states, saved, heads = [replica.cells()], replica.save(), replica.heads()
    for ops in edits:
        edit(replica, ops)
        saved += replica.save_since(heads)
        assert replica.save_since(replica.heads()) == b""
        heads = replica.heads()
        states.append(replica.cells())
    for bytes_ in (saved, replica.save(), replica.save_since(b"")):
        loaded = Replica.load(bytes_)
        assert (loaded.heads(), loaded.cells(), loaded.metadata()) == (heads, replica.cells(), replica.metadata())
    cut = data.draw(st.integers(0, len(saved)))
    out = ffi.new("rtd_doc **")
    code = call("rtd_doc_load", *bytes_in(saved[:cut]), out)
    if code == lib.RTD_OK:
        torn = Replica.__new__(Replica)
        torn.handle = ffi.gc(out[0], lib.rtd_doc_free)
        assert torn.cells() in [[], *states]
    else:
        assert code == lib.RTD_E_CORRUPT and out[0] == ffi.NULL


@examples()
@given(st.binary(max_size=60) | st.binary(max_size=30).map(lambda tail: Replica("n").save() + tail))
def test_garbage_is_no_document(data: bytes) -> None:
    out = ffi.new("rtd_doc **")
    if call("rtd_doc_load", *bytes_in(data), out) == lib.RTD_OK:
        lib.rtd_doc_free(out[0])


@examples()
@given(st.data(), _edits)
def test_a_damaged_document_is_refused_or_reads(data: st.DataObject, edits: list[list[Json]]) -> None:
    replica = Replica("n")
    for ops in edits:
        edit(replica, ops)
    saved = bytearray(replica.save())
    for place in data.draw(st.lists(st.integers(0, len(saved) - 1), min_size=1, max_size=3)):
        saved[place] ^= data.draw(st.integers(1, 255))
    out = ffi.new("rtd_doc **")
    if call("rtd_doc_load", *bytes_in(bytes(saved)), out) == lib.RTD_OK:
        damaged = Replica.__new__(Replica)
        damaged.handle = ffi.gc(out[0], lib.rtd_doc_free)
        damaged.cells(), damaged.metadata(), damaged.save()


@examples()
@given(st.lists(strategies.edits(), min_size=1, max_size=8), st.data())
def test_a_copy_is_as_it_was_and_merges_back(edits: list[list[Json]], data: st.DataObject) -> None:
    replica = Replica("n")
    history = [(replica.heads(), replica.cells())]
    for ops in edits:
        edit(replica, ops)
        history.append((replica.heads(), replica.cells()))
    heads, cells = data.draw(st.sampled_from(history))
    copy = replica.fork(heads)
    assert copy.cells() == cells and copy.heads() == heads
    assert replica.contains(heads) and copy.contains(heads)
    edit(copy, [{"op": "insert_cell", "cell_id": "copy", "cell_type": "code", "source": "1"}])
    assert not replica.contains(copy.heads())
    replica.merge(copy)
    copy.merge(replica)
    assert replica.contains(copy.heads()) and copy.heads() == replica.heads()
    assert copy.cells() == replica.cells()
    assert [one["id"] for one in replica.cells()].count("copy") == 1
    out = ffi.new("rtd_doc **")
    strange = bytes(32)
    assert call("rtd_doc_fork", replica.handle, *bytes_in(strange), out) == lib.RTD_E_NOT_FOUND and out[0] == ffi.NULL
    assert not replica.contains(strange)
    assert call("rtd_doc_merge", replica.handle, Replica("n").handle) == lib.RTD_E_ARG


@examples()
@given(st.lists(st.binary(max_size=70), max_size=2))
def test_heads_are_a_multiple_of_32_bytes(heads: list[bytes]) -> None:
    replica, out, flag = Replica("n"), new_buffer(), ffi.new("int32_t *")
    forked = ffi.new("rtd_doc **")
    for one in heads:
        odd = len(one) % 32 != 0
        raw = bytes_in(one)
        assert (call("rtd_doc_contains", replica.handle, *raw, flag) == lib.RTD_E_ARG) == odd
        assert (call("rtd_doc_save_since", replica.handle, *raw, out) == lib.RTD_E_ARG) == odd
        take_buf(out)
        code = call("rtd_doc_fork", replica.handle, *raw, forked)
        assert (code == lib.RTD_E_ARG) == odd
        lib.rtd_doc_free(forked[0])


_noise = st.one_of(
    strategies.json_value(),
    strategies.edits().flatmap(
        lambda ops: st.tuples(
            st.sampled_from(ops), st.sampled_from(["op", "cell_id", "index", "outputs", "source", "key"])
        ).flatmap(lambda pick: strategies.json_value().map(lambda value: [*ops, {**pick[0], pick[1]: value}]))
    ),
)


@examples(2)
@given(_noise)
def test_an_invalid_edit_is_refused_and_changes_nothing(ops: Any) -> None:
    replica = Replica("n")
    heads = replica.heads()
    if edit(replica, ops) != lib.RTD_OK:
        assert replica.heads() == heads
    assert call("rtd_doc_edit", replica.handle, *bytes_in(b"[" + encode(ops))) == lib.RTD_E_ARG


def test_an_odd_document_by_hand() -> None:
    cells = [{"id": "a", "source": Text("x")}, {"id": "a", "execution_count": "3"}, {"id": Text("b")}]
    first, second = Replica.load(change({"cells": cells, "metadata": {"k": "v", "t": Text("v")}})).cells()
    assert (first["source"], first["execution_count"], first["outputs"]) == ("x", None, [])
    assert (second["source"], second["execution_count"], second["cell_type"]) == ("", 3, "")


@examples()
@given(documents())
def test_deviations_are_read_as_the_specification_says(case: Deviating) -> None:
    replica = Replica.load(case.data)
    assert replica.cells() == case.cells and replica.metadata() == case.metadata
    firsts: dict[str, Json] = {}
    for one in replica.cells():
        firsts.setdefault(one["id"], one)
    for cell_id, one in firsts.items():
        assert cell(replica, cell_id) == one
    joined = Replica()
    converge([replica, joined])
    assert joined.cells() == replica.cells() and joined.heads() == replica.heads()


def test_a_document_that_was_begun_twice_has_one_list_of_cells() -> None:
    """Section 7.2: two roots conflict, and one of the lists disappears with its cells; all readers agree which."""
    one = change({"cells": [{"id": "one"}], "metadata": {}}, actor=b"\x01" * 16)
    two = change({"cells": [{"id": "two"}], "metadata": {}}, actor=b"\x02" * 16)
    for data in (one + two, two + one):
        assert [each["id"] for each in Replica.load(data).cells()] == ["two"]


@examples(0.6)
@given(documents(), strategies.edits(ids=["a", "", "é", "k"], max_size=2))
def test_edits_of_a_deviating_document_work_or_change_nothing(case: Deviating, ops: list[Json]) -> None:
    replica = Replica.load(case.data)
    before = (replica.heads(), replica.cells(), replica.metadata())
    known = {one["id"] for one in before[1]}
    code = edit(replica, ops)
    if code != lib.RTD_OK:
        assert (replica.heads(), replica.cells(), replica.metadata()) == before
        return
    assert Replica.load(replica.save()).cells() == replica.cells()
    for op in ops[-1:]:
        now = {one["id"]: one for one in reversed(replica.cells())}.get(op.get("cell_id", ""))
        if op["op"] == "set_source" and op["cell_id"] in known and now is not None:
            assert now["source"] == op["source"]
        if op["op"] == "set_metadata":
            assert replica.metadata()[op["key"]] == op["value"]


def test_every_function_of_documents_refuses_null() -> None:
    replica, out, doc, flag = Replica("n"), new_buffer(), ffi.new("rtd_doc **"), ffi.new("int32_t *")
    replica.edit({"op": "insert_cell", "cell_id": "", "cell_type": "code", "source": ""})
    calls: dict[str, tuple[Any, ...]] = {
        "rtd_doc_save": (out,),
        "rtd_doc_save_since": (ffi.NULL, 0, out),
        "rtd_doc_heads": (out,),
        "rtd_doc_cells": (out,),
        "rtd_doc_cell": (ffi.NULL, 0, out),
        "rtd_doc_metadata": (out,),
        "rtd_doc_edit": (ffi.NULL, 0),
        "rtd_doc_create_cell": (ffi.NULL, 0, ffi.NULL, 0, -1, out),
        "rtd_doc_set_source": (ffi.NULL, 0, ffi.NULL, 0),
        "rtd_doc_delete_cell": (ffi.NULL, 0),
        "rtd_doc_fork": (ffi.NULL, 0, doc),
        "rtd_doc_merge": (replica.handle,),
        "rtd_doc_contains": (ffi.NULL, 0, flag),
    }
    made = {"rtd_doc_new", "rtd_doc_create", "rtd_doc_load"}
    assert {name for name in CODES if name.startswith("rtd_doc_")} == {*calls, *made}
    for name, arguments in calls.items():
        assert call(name, ffi.NULL, *arguments) == lib.RTD_E_NULL
        if arguments[-1] in (out, doc, flag):
            assert call(name, replica.handle, *arguments[:-1], ffi.NULL) == lib.RTD_E_NULL
    assert call("rtd_doc_merge", replica.handle, ffi.NULL) == lib.RTD_E_NULL
    assert call("rtd_doc_new", ffi.NULL) == lib.RTD_E_NULL
    assert call("rtd_doc_create", ffi.NULL, 1, doc) == lib.RTD_E_NULL and doc[0] == ffi.NULL
    assert call("rtd_doc_create", b"\xff", 1, doc) == lib.RTD_E_UTF8 and doc[0] == ffi.NULL
    assert call("rtd_doc_load", ffi.NULL, 1, doc) == lib.RTD_E_NULL
    assert call("rtd_doc_cell", replica.handle, b"\xff", 1, out) == lib.RTD_E_UTF8


def test_merging_a_document_with_itself_is_an_error() -> None:
    replica = Replica("n")
    with pytest.raises(RuntimedError):
        check(call("rtd_doc_merge", replica.handle, replica.handle))
