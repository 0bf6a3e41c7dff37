"""One output of a cell, as a read-only value.

Storey 5 (values). Knows nbformat outputs; knows nothing of sessions. Source: python-api, section 1.6.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtimed_ffi._format import quoted


class Output:
    """A stream text, a display, the value of a cell, or an error.

    Members that do not apply to the type are `None`. Equal outputs compare equal; outputs pickle and copy. `data` and
    `traceback` are fresh copies on every read.

    Example::

        for output in session.run("print('hi')").outputs:
            print(output.output_type, output.text)
    """

    __slots__ = ("_data", "_ename", "_evalue", "_execution_count", "_name", "_output_type", "_text", "_traceback")

    def __init__(
        self,
        output_type: str,
        *,
        name: str | None = None,
        text: str | None = None,
        data: Mapping[str, str] | None = None,
        ename: str | None = None,
        evalue: str | None = None,
        traceback: Sequence[str] | None = None,
        execution_count: int | None = None,
    ) -> None:
        self._output_type = output_type
        self._name = name
        self._text = text
        self._data = None if data is None else dict(data)
        self._ename = ename
        self._evalue = evalue
        self._traceback = None if traceback is None else tuple(traceback)
        self._execution_count = execution_count

    @classmethod
    def from_nbformat(cls, value: Mapping[str, Any]) -> Output:
        """Read an nbformat output. Missing members get empty values, so that no output vanishes."""
        kind = str(value.get("output_type") or "")
        if kind == "stream":
            return cls(kind, name=str(value.get("name") or "stdout"), text=_joined(value.get("text")))
        if kind in ("display_data", "execute_result"):
            data = value.get("data")
            items = data.items() if isinstance(data, Mapping) else ()
            count = value.get("execution_count") if kind == "execute_result" else None
            return cls(
                kind,
                data={str(mime): _as_text(item) for mime, item in items},
                execution_count=count if isinstance(count, int) else None,
            )
        if kind == "error":
            lines = value.get("traceback")
            return cls(
                kind,
                ename=_joined(value.get("ename")),
                evalue=_joined(value.get("evalue")),
                traceback=[str(line) for line in lines] if isinstance(lines, list) else [],
            )
        return cls(kind)

    @property
    def output_type(self) -> str:
        """``stream``, ``display_data``, ``execute_result`` or ``error``."""
        return self._output_type

    @property
    def name(self) -> str | None:
        """Of a stream: ``stdout`` or ``stderr``."""
        return self._name

    @property
    def text(self) -> str | None:
        """Of a stream: its text."""
        return self._text

    @property
    def data(self) -> dict[str, str] | None:
        """Of a display or a value: MIME type to text; JSON values as JSON text, binary types as base64."""
        return None if self._data is None else dict(self._data)

    @property
    def ename(self) -> str | None:
        """Of an error: the name of the exception's class."""
        return self._ename

    @property
    def evalue(self) -> str | None:
        """Of an error: the exception's text."""
        return self._evalue

    @property
    def traceback(self) -> list[str] | None:
        """Of an error: the lines of the traceback, with terminal colours."""
        return None if self._traceback is None else list(self._traceback)

    @property
    def execution_count(self) -> int | None:
        """Of a value: the number of the execution."""
        return self._execution_count

    def _fields(self) -> tuple[Any, ...]:
        data = None if self._data is None else tuple(sorted(self._data.items()))
        return (
            self._output_type,
            self._name,
            self._text,
            data,
            self._ename,
            self._evalue,
            self._traceback,
            self._execution_count,
        )

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, Output) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        if self._output_type == "stream":
            return f"Output(stream, {self._name or '?'}: {quoted(self._text or '')})"
        if self._output_type in ("display_data", "execute_result"):
            mimes = ", ".join(quoted(mime) for mime in sorted(self._data or ()))
            return f"Output({self._output_type}, [{mimes}])"
        if self._output_type == "error":
            return f"Output(error, {self._ename or '?'}: {self._evalue or ''})"
        return f"Output({self._output_type})"


@dataclass(frozen=True)
class OutputEvent:
    """What `Session.on_output` subscribers get: an output that appeared in, or changed in, any cell of the notebook."""

    cell_id: str
    index: int
    """Position in the cell's list of outputs, as it is when neighbouring stream outputs of one name are one."""
    output: Output
    replaced: bool
    """True when it takes the place of the output at that position (a display was updated)."""
    continued: bool = False
    """True when it is stream text that goes on the output at that position. Each piece of text comes once."""


def _joined(value: Any) -> str:
    if isinstance(value, list):
        return "".join(map(str, value))
    return "" if value is None else str(value)


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
