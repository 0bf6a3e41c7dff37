"""Cells, outputs and results: what was observed of `runtimed` 0.1.4, and the contract of value objects."""

from __future__ import annotations

import ast
import copy
import json
import math
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import runtimed_ffi
from runtimed_ffi import Cell, ExecutionResult, Output
from runtimed_ffi._client import arguments
from runtimed_ffi._format import quoted, seconds_text

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "python-api-seed.json").read_text("utf-8"))

STDOUT = Output("stream", name="stdout", text="hi\tx\n")
STDERR = Output("stream", name="stderr", text="e\n")
DISPLAY = Output("display_data", data={"text/html": "<b>x</b>", "text/plain": "<IPython.core.display.HTML object>"})
VALUE = Output("execute_result", data={"text/plain": "42"}, execution_count=1)
ERROR = Output("error", ename="ZeroDivisionError", evalue="division by zero", traceback=["a", "b", "c", "d"])
ALL = [STDOUT, STDERR, DISPLAY, VALUE]


def observed(name):
    """A value of the golden file; it holds Python reprs."""
    return ast.literal_eval(GOLDEN[name])


def test_cell_repr():
    cell = Cell("CID", "code", "é" * 20 + '\n\t"x"\u200b\x07 end of it')
    assert repr(cell) == observed("cell repr")


@pytest.mark.parametrize(
    "source, shown",
    [
        ("x = 1", '"x = 1"'),
        ("a" * 30, '"' + "a" * 30 + '"'),
        ("a" * 31, '"' + "a" * 30 + '"...'),
        ("é" * 15, '"' + "é" * 15 + '"'),
        ("é" * 16, '"' + "é" * 16 + '"...'),
    ],
)
def test_cell_repr_counts_characters_and_bytes(source, shown):
    assert repr(Cell("c", "code", source)) == f"Cell(id=c, type=code, source={shown})"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", '""'),
        ("it's", '"it\'s"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("\0\t\n\r", '"\\0\\t\\n\\r"'),
        ("\x1b[0m\x7f", '"\\u{1b}[0m\\u{7f}"'),
        ("e\u0301", '"e\\u{301}"'),
        ("\u200d\u00ad\u00a0", '"\\u{200d}\\u{ad}\\u{a0}"'),
        ("日本 😀", '"日本 😀"'),
        ("\U000e0001", '"\\u{e0001}"'),
    ],
)
def test_quoting(text, expected):
    assert quoted(text) == expected


@given(st.text())
def test_quoting_is_one_printable_line(text):
    shown = quoted(text)
    assert shown.isprintable()
    assert shown.startswith('"') and shown.endswith('"') and len(shown) >= len(text) + 2


def test_output_reprs():
    assert repr(ALL) == GOLDEN["outputs"]
    assert repr(ERROR) in GOLDEN["err"]
    assert repr(Output("stream")) == 'Output(stream, ?: "")'
    assert repr(Output("error")) == "Output(error, ?: )"
    assert repr(Output("weird")) == "Output(weird)"


def test_output_fields():
    fields = [(o.output_type, o.name, o.text, o.data, o.execution_count) for o in ALL]
    assert fields == observed("fields")


def test_results():
    result = ExecutionResult("CID", ALL, execution_count=1)
    assert repr(result) == observed("result")
    assert result.stdout == "hi\tx\n"
    assert result.stderr == "e\n"
    assert result.display_data == [DISPLAY, VALUE]
    assert result.error is None and result.success
    failed = ExecutionResult("CID", [STDOUT, ERROR], success=False)
    assert repr(failed) == "ExecutionResult(cell=CID, status=error, outputs=2)"
    assert failed.error == ERROR
    assert bool(failed), "a result is always true"
    assert ExecutionResult("CID").stdout == ExecutionResult("CID").stderr == ""


def test_reads_give_fresh_copies():
    result = ExecutionResult("CID", [VALUE, ERROR])
    result.outputs.clear()
    VALUE.data.clear()
    ERROR.traceback.clear()
    assert result.outputs == [VALUE, ERROR]
    assert VALUE.data == {"text/plain": "42"}
    assert ERROR.traceback == ["a", "b", "c", "d"]


@pytest.mark.parametrize("value", [Cell("c", "code", "x", 3), *ALL, ERROR, ExecutionResult("c", [*ALL, ERROR])])
def test_values_compare_copy_pickle_and_are_read_only(value):
    for same in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert same == value
        assert hash(same) == hash(value)
        assert repr(same) == repr(value)
    assert value != "something else"
    public = [name for name in dir(value) if not name.startswith("_") and not callable(getattr(value, name))]
    for name in public:
        with pytest.raises(AttributeError):
            setattr(value, name, None)


def test_reading_nbformat():
    read = Output.from_nbformat
    assert read({"output_type": "stream", "name": "stdout", "text": ["a\n", "b"]}).text == "a\nb"
    rich = read({"output_type": "display_data", "data": {"application/json": {"é": [1, None]}, "text/plain": "x"}})
    assert rich.data == {"application/json": '{"é":[1,null]}', "text/plain": "x"}
    assert read({"output_type": "execute_result", "data": {}, "execution_count": 7}).execution_count == 7
    assert read({"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["t"]}).traceback == ["t"]


@pytest.mark.parametrize("kind", ["stream", "display_data", "execute_result", "error", "weird", ""])
def test_incomplete_nbformat_does_not_vanish(kind):
    assert Output.from_nbformat({"output_type": kind}).output_type == kind


@pytest.mark.parametrize(
    "seconds, text",
    [(60.0, "60"), (60, "60"), (0.5, "0.5"), (0, "0"), (1e-7, "0.0000001"), (1e22, "1" + "0" * 22), (100, "100")],
)
def test_seconds(seconds, text):
    assert seconds_text(seconds) == text


@given(st.floats(min_value=0, allow_infinity=False))
def test_seconds_are_plain_and_exact(seconds):
    text = seconds_text(seconds)
    assert float(text) == seconds
    assert set(text) <= set("0123456789.")
    assert not text.endswith(".")


def test_argument_texts():
    with pytest.raises(TypeError, match=r"^argument 'source': 'int' object is not an instance of 'str'$"):
        arguments.text("source", 1)
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        arguments.text("source", "\ud800")
    with pytest.raises(OverflowError, match=r"^can't convert negative int to unsigned$"):
        arguments.index("index", -1)
    with pytest.raises(OverflowError):
        arguments.index("index", 1 << 64)
    assert arguments.index("index", (1 << 64) - 1) == (1 << 63) - 1
    with pytest.raises(TypeError, match=r"^argument 'index': 'str' object cannot be interpreted as an integer$"):
        arguments.index("index", "1")
    with pytest.raises(TypeError, match=r"^argument 'timeout_secs': must be real number, not str$"):
        arguments.timeout("timeout_secs", "1")


@pytest.mark.parametrize("bad", [-1, -0.001, math.nan, math.inf, -math.inf])
def test_bad_timeouts(bad):
    with pytest.raises(ValueError, match="timeout_secs"):
        arguments.timeout("timeout_secs", bad)


def test_timeouts_in_milliseconds():
    assert arguments.milliseconds(None) == -1
    assert arguments.milliseconds(0) == 0
    assert arguments.milliseconds(0.0001) == 1
    assert arguments.milliseconds(1.5) == 1500
    assert arguments.milliseconds(1e300) > 0


def test_exports():
    assert len(set(runtimed_ffi.__all__)) == len(runtimed_ffi.__all__)
    for name in runtimed_ffi.__all__:
        assert getattr(runtimed_ffi, name) is not None
    later = {"BridgedSidecar", "Sidecar", "sidecar"}
    assert set(observed("all")) - later <= set(runtimed_ffi.__all__)
    assert set(observed("native")) <= set(runtimed_ffi.__all__)
