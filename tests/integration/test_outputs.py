"""Outputs of real kernels: complete, in order, and as the cell meant them, also for sessions that only watch."""

from __future__ import annotations

import pytest

import runtimed_ffi
from integration.tools import LIMIT, Recorder
from runtimed_ffi import Output


def texts(outputs: list[Output]) -> list[str]:
    return [(output.data or {}).get("text/plain", "") for output in outputs]


@pytest.mark.stress
def test_a_failing_cell_fails_every_time(session: runtimed_ffi.Session) -> None:
    cell = session.create_cell()
    for number in range(200):
        session.set_source(cell, f"def f():\n    raise ValueError('number {number}')\nf()")
        result = session.execute_cell(cell)
        assert not result.success
        assert result.state == "error"
        assert result.error is not None
        assert (result.error.ename, result.error.evalue) == ("ValueError", f"number {number}")
        assert f"number {number}" in "".join(result.error.traceback or ())
        assert result.outputs == [result.error]


@pytest.mark.stress
def test_a_thousand_outputs_are_complete_and_in_order(session: runtimed_ffi.Session) -> None:
    seen: list[Output] = []
    result = session.run("for i in range(1000):\n    display({'text/plain': str(i)}, raw=True)", on_output=seen.append)
    assert texts(result.outputs) == [str(i) for i in range(1000)]
    assert seen == result.outputs
    assert session.get_outputs(result.cell_id) == result.outputs


@pytest.mark.stress
def test_five_thousand_flushed_prints_are_complete_and_in_order(session: runtimed_ffi.Session) -> None:
    result = session.run("for i in range(5000):\n    print(i, flush=True)")
    assert result.success
    assert result.stdout == "".join(f"{i}\n" for i in range(5000))
    assert [output.name for output in result.outputs] == ["stdout"]
    assert session.get_outputs(result.cell_id) == result.outputs


@pytest.mark.stress
def test_a_thousand_outputs_while_another_session_watches(
    session: runtimed_ffi.Session, other: runtimed_ffi.Session
) -> None:
    with Recorder(other) as recorder:
        result = session.run("for i in range(1000):\n    display({'text/plain': str(i)}, raw=True)")
        recorder.until(lambda: len(recorder.outputs) >= 1000)
        assert [event.output for event in recorder.outputs] == result.outputs
        assert [event.index for event in recorder.outputs] == list(range(1000))
        assert {event.cell_id for event in recorder.outputs} == {result.cell_id}
    assert texts(result.outputs) == [str(i) for i in range(1000)]


@pytest.mark.parametrize("how", ["print", "value", "display", "error"])
def test_ten_megabytes_arrive_intact(session: runtimed_ffi.Session, other: runtimed_ffi.Session, how: str) -> None:
    code = {
        "print": "print(text, end='')",
        "value": "from IPython.display import HTML\nHTML(text)",
        "display": "display({'image/png': text, 'text/plain': 'p'}, raw=True)",
        "error": "raise ValueError(text)",
    }[how]
    text = "0123456789abcdef" * (10 * 1024 * 1024 // 16)
    result = session.run(f"text = '0123456789abcdef' * {len(text) // 16}\n{code}")
    other.sync()
    for outputs in (result.outputs, other.get_outputs(result.cell_id)):
        if how == "print":
            assert "".join(output.text or "" for output in outputs) == text
        elif how == "error":
            assert outputs[0].evalue == text
        else:
            mime = "text/html" if how == "value" else "image/png"
            assert (outputs[0].data or {})[mime] == text


def test_the_document_stays_small_when_outputs_are_large(session: runtimed_ffi.Session) -> None:
    result = session.run("print('x' * 1_000_000)")
    assert len(result.stdout) == 1_000_001
    (cell,) = session.get_cells()
    assert len(session._require().native.cell(cell.id)["outputs"][0]) == 64  # the hash of a manifest


def test_stdout_and_stderr_keep_their_order(session: runtimed_ffi.Session) -> None:
    result = session.run(
        "import sys\nfor i in range(50):\n"
        "    print('out', i, flush=True)\n    print('err', i, file=sys.stderr, flush=True)"
    )
    assert result.stdout == "".join(f"out {i}\n" for i in range(50))
    assert result.stderr == "".join(f"err {i}\n" for i in range(50))
    assert [output.name for output in result.outputs] == ["stdout", "stderr"] * 50


def test_outputs_of_all_kinds_keep_their_order(session: runtimed_ffi.Session) -> None:
    result = session.run(
        "import sys\nprint('a')\nsys.stdout.flush()\ndisplay(1)\nprint('b')\nsys.stdout.flush()\n"
        "print('c', file=sys.stderr)\nsys.stderr.flush()\ndisplay(2)\n3"
    )
    kinds = [output.name or output.output_type for output in result.outputs]
    assert kinds == ["stdout", "display_data", "stdout", "stderr", "display_data", "execute_result"]
    assert result.outputs[-1].execution_count == result.execution_count


def test_updates_of_a_display_replace_it(session: runtimed_ffi.Session, other: runtimed_ffi.Session) -> None:
    seen: list[Output] = []
    with Recorder(other) as recorder:
        result = session.run(
            "handle = display('first', display_id=True)\ndisplay('next')\nhandle.update('second')\n"
            "handle.update('third')",
            on_output=seen.append,
        )
        assert texts(result.outputs) == ["'third'", "'next'"]
        # An update that arrives together with its display is one change with it.
        recorder.until(lambda: "'third'" in texts([event.output for event in recorder.outputs]))
        assert [event.index for event in recorder.outputs if event.replaced] in ([0, 0], [0], [])
    assert "'third'" in texts(seen)
    assert session.get_outputs(result.cell_id) == result.outputs


def test_a_display_is_updated_by_a_later_cell(session: runtimed_ffi.Session) -> None:
    first = session.run("handle = display('old', display_id=True)")
    second = session.run("handle.update('new')")
    assert second.outputs == []
    assert texts(session.get_outputs(first.cell_id)) == ["'new'"]


def test_clear_output_with_wait_leaves_the_last_text(session: runtimed_ffi.Session) -> None:
    result = session.run(
        "from IPython.display import clear_output\n"
        "for i in range(20):\n    clear_output(wait=True)\n    print('step', i, flush=True)"
    )
    assert result.stdout == "step 19\n"
    assert session.get_outputs(result.cell_id) == result.outputs


def test_clear_output_at_once_and_nothing_afterwards(session: runtimed_ffi.Session) -> None:
    result = session.run("from IPython.display import clear_output\nprint('gone', flush=True)\nclear_output()")
    assert result.success
    assert result.outputs == []
    assert session.get_outputs(result.cell_id) == []


def test_clear_output_with_wait_and_nothing_afterwards(session: runtimed_ffi.Session) -> None:
    result = session.run(
        "from IPython.display import clear_output\nprint('stays', flush=True)\nclear_output(wait=True)"
    )
    assert result.stdout == "stays\n"


def test_input_is_an_error_and_no_hang(session: runtimed_ffi.Session) -> None:
    result = session.run("input('name? ')", timeout_secs=LIMIT)
    assert result.error is not None
    assert result.error.ename == "StdinNotImplementedError"


def test_a_second_run_replaces_the_outputs(session: runtimed_ffi.Session, other: runtimed_ffi.Session) -> None:
    cell = session.create_cell("print('one')\ndisplay(1)")
    assert len(session.execute_cell(cell).outputs) == 2
    session.set_source(cell, "print('two')")
    assert session.execute_cell(cell).stdout == "two\n"
    other.sync()
    assert [output.text for output in other.get_outputs(cell)] == ["two\n"]


def test_text_that_is_not_ascii(session: runtimed_ffi.Session) -> None:
    text = "äöü ∑ 🐍 \u2028 \\u0041 \x1b[31mred\x1b[0m"
    result = session.run(f"print({text!r})")
    assert result.stdout == text + "\n"


def test_lone_surrogates_do_not_break_the_execution(session: runtimed_ffi.Session) -> None:
    result = session.run("print('before', flush=True)\nprint('\\ud800', flush=True)\nprint('after', flush=True)")
    assert result.stdout == "before\n?\nafter\n", "what UTF-8 cannot encode is replaced, and nothing beside it is lost"
    assert session.run("print('alive')").stdout == "alive\n"
