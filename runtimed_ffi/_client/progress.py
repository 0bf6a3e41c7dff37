"""What the events of one execution add up to: its state, outputs and result, without I/O and without waiting.

Storey 6 (client). Knows events and outputs; knows nothing of connections and threads. Source: python-api, sections 1.5
and 1.6; protocol 2, section 5.9.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from runtimed_ffi import errors
from runtimed_ffi._binding.events import Done, Event, EventKind
from runtimed_ffi._client.output_list import OutputList
from runtimed_ffi._format import seconds_text
from runtimed_ffi.output import Output
from runtimed_ffi.result import ExecutionResult

_STATES: dict[int, str] = {
    Done.OK: "done",
    Done.ERROR: "error",
    Done.INTERRUPTED: "interrupted",
    Done.CANCELLED: "cancelled",
    Done.KERNEL_DIED: "kernel_died",
    Done.LAUNCH_FAILED: "launch_failed",
    Done.TIMED_OUT: "timed_out",
    Done.DISCONNECTED: "disconnected",
    Done.REFUSED: "refused",
}

_FAILURES: dict[str, tuple[type[errors.RuntimedError], str]] = {
    "cancelled": (errors.ExecutionCancelledError, "Execution cancelled"),
    "kernel_died": (errors.KernelDiedError, "Kernel died"),
    "launch_failed": (errors.LaunchFailedError, "Failed to launch kernel"),
    "disconnected": (errors.DisconnectedError, "Broadcast channel closed"),
}

_NO_KERNEL = "Unexpected response: NoKernel"


class Progress:
    """One execution, as far as its events have been applied.

    Args:
        cell_id: the cell.
        timeout_secs: the caller's limit in seconds, for the text of the error.

    Threads: one at a time applies; the attributes may be read meanwhile.
    """

    def __init__(self, cell_id: str, timeout_secs: float | None = None) -> None:
        self.cell_id = cell_id
        self.execution_id: str | None = None
        self.state = "submitted"
        self.outputs = OutputList()
        self.arrived: list[Output] = []
        """Every output to be yielded, in order: changed ones again, each piece of stream text once."""
        self.result: ExecutionResult | None = None
        """The result, once the end was applied."""
        self._timeout_secs = timeout_secs
        self._count: int | None = None
        self._missed = False
        self._reason = ""

    def needs_document(self, event: Event) -> bool:
        """Whether `catch_up` must come before this event is applied: events were dropped, and this one is the end."""
        ends = event.kind == EventKind.DONE and event.code not in (Done.DISCONNECTED, Done.REFUSED)
        return self._missed and ends

    def catch_up(self, outputs: Sequence[Output]) -> Iterator[Output]:
        """Make up for dropped events (protocol 2, section 5.14) with the outputs of the cell in the document.

        Yields:
            Each output that is new; it is in `arrived`.
        """
        for output in self.outputs.catch_up(outputs):
            self.arrived.append(output)
            yield output

    def apply(self, event: Event, output: Output | None = None) -> Output | None:
        """Take one event into account; returns the output that is new by it, if any, which is in `arrived`.

        `output` is what an ``OUTPUT`` carries; the caller has read it, which may need I/O.
        """
        if event.kind == EventKind.OUTPUT and output is not None:
            news = self.outputs.apply(event.code, event.number, output)
            if news is not None:
                self.arrived.append(news)
            return news
        if event.kind == EventKind.QUEUED:
            self.state = "queued"
            self._accepted(event.json())
        elif event.kind == EventKind.STARTED:
            self.state = "running"
            self._count = event.number if event.number >= 0 else None
        elif event.kind == EventKind.CLEARED:
            self.outputs.clear()
        elif event.kind == EventKind.RESYNC:
            self._missed = True
        elif event.kind == EventKind.DONE:
            self._end(_STATES.get(event.code, "error"), event)
        elif event.kind == EventKind.CLOSED:
            self._end("disconnected", event)
        return None

    def failure(self) -> errors.RuntimedError | None:
        """The exception for an execution that could not end by itself; a new one on every call, `None` for the others.

        A failing or interrupted cell is no failure of the execution.
        """
        exception: errors.RuntimedError
        if self.state == "timed_out":
            seconds = seconds_text(self._timeout_secs or 0)
            exception = errors.TimeoutError_(f"Execution timed out after {seconds} seconds")
        elif self.state == "refused":
            exception = _refusal(self._reason)
        elif self.state in _FAILURES:
            kind, text = _FAILURES[self.state]
            known = not self._reason or self._reason.startswith(text)
            exception = kind(self._reason or text) if known else kind(f"{text}: {self._reason}")
        else:
            return None
        exception.result = self.result
        exception.reason = self._reason
        return exception

    def _accepted(self, response: Any) -> None:
        execution_id = response.get("execution_id") if isinstance(response, dict) else None
        if isinstance(execution_id, str):
            self.execution_id = execution_id

    def _end(self, state: str, event: Event) -> None:
        if event.kind == EventKind.DONE and event.number >= 0:
            self._count = event.number
        self._reason = event.text
        if state == "refused" and _is_no_kernel(event):
            self._reason = _NO_KERNEL
        outputs = self.outputs.current()
        has_error = any(output.output_type == "error" for output in outputs)
        if state == "interrupted" and not has_error:
            outputs.append(Output("error", ename="KeyboardInterrupt", evalue=event.text, traceback=()))
        self.state = state
        self.result = ExecutionResult(
            self.cell_id,
            outputs,
            success=state == "done" and not has_error,
            execution_count=self._count,
            execution_id=self.execution_id,
            state=state,
        )


def _is_no_kernel(event: Event) -> bool:
    try:
        response = event.json()
    except ValueError:
        return False
    return isinstance(response, dict) and response.get("result") == "no_kernel"


def _refusal(text: str) -> errors.RuntimedError:
    if text.startswith("Cell not found"):
        return errors.CellNotFoundError(text)
    if text in (_NO_KERNEL, "no_kernel"):
        return errors.NoKernelError(_NO_KERNEL)
    return errors.DaemonError(text or "Daemon returned error")
