"""`ExecutionResult`: what one execution of a cell produced, as a read-only value.

Storey 5 (values). Knows outputs, and nothing of how they came. Source: python-api, section 1.6.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from runtimed_ffi.output import Output


class ExecutionResult:
    r"""What one execution of a cell produced. Compares and pickles by value; always true, look at `success`.

    Example::

        result = session.run("print('hi'); 1 + 1")
        assert result.success and result.stdout == "hi\n"
    """

    __slots__ = ("_cell_id", "_execution_count", "_execution_id", "_outputs", "_state", "_success")

    def __init__(
        self,
        cell_id: str,
        outputs: Iterable[Output] = (),
        *,
        success: bool = True,
        execution_count: int | None = None,
        execution_id: str | None = None,
        state: str = "done",
    ) -> None:
        self._cell_id = cell_id
        self._outputs = tuple(outputs)
        self._success = success
        self._execution_count = execution_count
        self._execution_id = execution_id
        self._state = state

    @property
    def cell_id(self) -> str:
        """The cell that ran."""
        return self._cell_id

    @property
    def outputs(self) -> list[Output]:
        """All outputs in order; a fresh list on every read."""
        return list(self._outputs)

    @property
    def success(self) -> bool:
        """True when the cell ran to its end without an error output."""
        return self._success

    @property
    def execution_count(self) -> int | None:
        """The number the kernel gave this execution; `None` when it never started."""
        return self._execution_count

    @property
    def execution_id(self) -> str | None:
        """The daemon's name for this execution; `None` from a daemon that has none."""
        return self._execution_id

    @property
    def state(self) -> str:
        """How it ended, see `Execution.state`."""
        return self._state

    @property
    def stdout(self) -> str:
        """Everything printed to standard output."""
        return "".join(output.text or "" for output in self._outputs if output.name == "stdout")

    @property
    def stderr(self) -> str:
        """Everything printed to standard error."""
        return "".join(output.text or "" for output in self._outputs if output.name == "stderr")

    @property
    def display_data(self) -> list[Output]:
        """The displays and the value of the cell."""
        return [output for output in self._outputs if output.output_type in ("display_data", "execute_result")]

    @property
    def error(self) -> Output | None:
        """The first error output."""
        return next((output for output in self._outputs if output.output_type == "error"), None)

    def _fields(self) -> tuple[Any, ...]:
        head = (self._cell_id, self._outputs, self._success)
        return (*head, self._execution_count, self._execution_id, self._state)

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, ExecutionResult) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        status = "ok" if self._success else "error"
        return f"ExecutionResult(cell={self._cell_id}, status={status}, outputs={len(self._outputs)})"
