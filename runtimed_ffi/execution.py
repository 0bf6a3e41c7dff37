"""Executions: one run of one cell while it lasts.

Storey 6 (client). Knows events, outputs and the router; knows nothing of sessions. Source: python-api, sections 1.5 and
1.6; protocol 2, section 5.9.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Callable, Protocol

from runtimed_ffi import errors
from runtimed_ffi._binding import events
from runtimed_ffi._binding.events import Event
from runtimed_ffi._client.format import seconds_text
from runtimed_ffi._client.output_list import OutputList
from runtimed_ffi._client.router import Mailbox
from runtimed_ffi.output import Output
from runtimed_ffi.result import ExecutionResult

OnOutput = Callable[[Output], Any]

_STATES = {
    events.DONE_OK: "done",
    events.DONE_ERROR: "error",
    events.DONE_INTERRUPTED: "interrupted",
    events.DONE_CANCELLED: "cancelled",
    events.DONE_KERNEL_DIED: "kernel_died",
    events.DONE_LAUNCH_FAILED: "launch_failed",
    events.DONE_TIMED_OUT: "timed_out",
    events.DONE_DISCONNECTED: "disconnected",
    events.DONE_REFUSED: "refused",
}

_FAILURES: dict[str, tuple[type[errors.RuntimedError], str]] = {
    "cancelled": (errors.ExecutionCancelledError, "Execution cancelled"),
    "kernel_died": (errors.KernelDiedError, "Kernel died"),
    "launch_failed": (errors.LaunchFailedError, "Failed to launch kernel"),
    "disconnected": (errors.DisconnectedError, "Broadcast channel closed"),
}


class Channel(Protocol):
    """What an execution needs of a connection; see `Connection`."""

    def require(self) -> object:
        """Raise `StateError` in a process that was forked after the connection was made."""

    def wait(self, box: Mailbox) -> Event:
        """The mailbox's next event; blocks."""

    def raise_errors(self, box: Mailbox, failure: BaseException | None) -> None:
        """Raise what subscribers raised while somebody waited for this mailbox."""

    def read_output(self, event: Event) -> Output:
        """The output an event carries, fetched if need be."""

    def outputs(self, cell_id: str) -> list[Output]:
        """The outputs of a cell as the document has them now."""


class Execution:
    """One run of one cell. Made by `Session.submit_cell`.

    Events are consumed by the thread that waits: in `result()`, or in a `for` loop over the execution, which yields
    each output as it comes. `on_output` runs on that thread, in order, and no lock of the session is held meanwhile.
    What it raises is raised by `result()`, or by the loop, after the execution has ended; it is not called any more
    after it has raised.

    Threads: `state`, `done` and `outputs` never block and show what has been consumed so far; when several threads
    wait for the same execution, one consumes at a time.

    Example::

        execution = session.submit_cell(cell_id)
        for output in execution:
            print(output)
        result = execution.result()
    """

    def __init__(
        self,
        channel: Channel,
        box: Mailbox,
        cell_id: str,
        on_output: OnOutput | None = None,
        timeout_secs: float | None = None,
    ) -> None:
        self._channel = channel
        self._box = box
        self._cell_id = cell_id
        self._on_output = on_output
        self._timeout_secs = timeout_secs
        self._turn = threading.Lock()
        self._consumer: int | None = None
        self._bells: list[threading.Lock] = []
        self._state = "submitted"
        self._execution_id: str | None = None
        self._count: int | None = None
        self._outputs = OutputList()
        self._arrived: list[Output] = []
        self._missed = False
        self._callback_error: Exception | None = None
        self._result: ExecutionResult | None = None
        self._reason = ""

    @property
    def cell_id(self) -> str:
        """The cell."""
        return self._cell_id

    @property
    def execution_id(self) -> str | None:
        """The daemon's name for this execution, once it has accepted it; `None` from a daemon that has none."""
        return self._execution_id

    @property
    def state(self) -> str:
        """``submitted``, ``queued``, ``running``, or how it ended.

        The ends are ``done``, ``error``, ``interrupted``, ``cancelled``, ``kernel_died``, ``launch_failed``,
        ``timed_out``, ``disconnected`` and ``refused``.
        """
        return self._state

    @property
    def done(self) -> bool:
        """True when the end has been consumed."""
        return self._result is not None

    @property
    def outputs(self) -> list[Output]:
        """The outputs so far, in the order of the cell; a fresh list on every read.

        While a cell prints, a stream may be several neighbouring outputs; when it has ended it is one, as in a file.
        """
        return self._outputs.current()

    def result(self) -> ExecutionResult:
        """Wait for the end.

        A failing or interrupted cell does not raise: the result has `success` false and an `error`.

        Raises:
            TimeoutError_: the limit given to `submit_cell` has passed; the cell goes on.
            ExecutionCancelledError, KernelDiedError, LaunchFailedError, DisconnectedError: it could not end by itself.
            CellNotFoundError, NoKernelError, DaemonError: the daemon refused it.
            StateError: after a fork.
            KeyboardInterrupt: Ctrl-C; the cell goes on, and the call may be repeated.

        Each of these, the last two apart, has the partial result in `result`. What `on_output` has raised is raised
        first, once.
        """
        while self._result is None:
            self._advance()
        failure = self._failure(self._result)
        self._raise_callback_errors(failure)
        if failure is not None:
            raise failure
        return self._result

    def __iter__(self) -> Iterator[Output]:
        """Yield outputs as they come, changed ones again; ends when the execution does, whatever the end is.

        Stream text comes in pieces, each once; put together they are the outputs of the result.

        Raises:
            What callbacks have raised, as `result()`; nothing about the execution itself.
        """
        position = 0
        while True:
            while position < len(self._arrived):
                position += 1
                yield self._arrived[position - 1]
            if self._result is not None and position >= len(self._arrived):
                self._raise_callback_errors(None)
                return
            self._advance(position)

    def __repr__(self) -> str:
        return f"Execution(cell={self._cell_id}, state={self._state}, outputs={len(self._outputs)})"

    def _raise_callback_errors(self, failure: errors.RuntimedError | None) -> None:
        error, self._callback_error = self._callback_error, None
        if error is not None:
            raise error from (error.__cause__ or failure)
        self._channel.raise_errors(self._box, failure)

    def _advance(self, seen: int | None = None) -> None:
        """Consume one event; not when another thread has meanwhile done so for an iterator that has seen `seen`
        outputs."""
        # In a forked child the thread that consumes may not be there, nor who could release the lock.
        self._channel.require()
        me = threading.get_ident()
        nested = self._consumer == me  # Called back from `on_output`.
        try:
            while True:
                with self._turn:
                    if self._result is not None or (seen is not None and seen < len(self._arrived)):
                        return
                    if nested or self._consumer is None:
                        self._consumer = me
                        break
                    # Rung after every event: an iterator must not wait for the end because another thread does.
                    # A bare lock, because an interrupt in Condition.wait() can leave its lock in the wrong state.
                    bell = threading.Lock()
                    bell.acquire()
                    self._bells.append(bell)
                bell.acquire()
            event = self._channel.wait(self._box)
            output = self._apply(event)
            self._box.accept(event)
            if output is not None:
                self._tell(output)
        finally:
            if not nested and self._consumer == me:
                self._consumer = None
                with self._turn:
                    bells, self._bells = self._bells, []
                for bell in bells:
                    bell.release()

    def _apply(self, event: Event) -> Output | None:
        if event.kind == events.OUTPUT:
            output = self._channel.read_output(event)
            news = self._outputs.apply(event.code, event.number, output)
            if news is not None:
                self._arrived.append(news)
            return news
        if event.kind == events.QUEUED:
            self._state = "queued"
            self._accepted(event.json())
        elif event.kind == events.STARTED:
            self._state = "running"
            self._count = event.number if event.number >= 0 else None
        elif event.kind == events.CLEARED:
            self._outputs.clear()
        elif event.kind == events.RESYNC:
            self._missed = True
        elif event.kind == events.DONE:
            self._settle(_STATES.get(event.code, "error"), event)
        elif event.kind == events.ENDED:
            self._settle("disconnected", event)
        return None

    def _accepted(self, response: Any) -> None:
        execution_id = response.get("execution_id") if isinstance(response, dict) else None
        if isinstance(execution_id, str):
            self._execution_id = execution_id

    def _settle(self, state: str, event: Event) -> None:
        if self._missed and state not in ("disconnected", "refused"):
            self._catch_up()
        if event.kind == events.DONE and event.number >= 0:
            self._count = event.number
        self._reason = event.text
        if state == "refused" and _is_no_kernel(event):
            self._reason = "Unexpected response: NoKernel"
        outputs = self.outputs
        failed = state != "done" or any(output.output_type == "error" for output in outputs)
        if state == "interrupted" and not any(output.output_type == "error" for output in outputs):
            outputs.append(Output("error", ename="KeyboardInterrupt", evalue=event.text, traceback=()))
        self._state = state
        self._result = ExecutionResult(
            self._cell_id,
            outputs,
            success=not failed,
            execution_count=self._count,
            execution_id=self._execution_id,
            state=state,
        )

    def _catch_up(self) -> None:
        """Progress was dropped at the bound of the queue; the document has everything (protocol 2, section 5.14)."""
        try:
            outputs = self._channel.outputs(self._cell_id)
        except errors.RuntimedError:
            return  # The cell was deleted, or the connection has gone: what came is what there is.
        for output in self._outputs.catch_up(outputs):
            self._arrived.append(output)
            self._tell(output)

    def _tell(self, output: Output) -> None:
        if self._on_output is None or self._callback_error is not None:
            return
        try:
            self._on_output(output)
        except Exception as error:
            self._callback_error = error

    def _failure(self, result: ExecutionResult) -> errors.RuntimedError | None:
        exception: errors.RuntimedError
        if self._state == "timed_out":
            seconds = seconds_text(self._timeout_secs or 0)
            exception = errors.TimeoutError_(f"Execution timed out after {seconds} seconds")
        elif self._state == "refused":
            exception = _refusal(self._reason)
        elif self._state in _FAILURES:
            kind, text = _FAILURES[self._state]
            known = not self._reason or self._reason.startswith(text)
            exception = kind(self._reason or text) if known else kind(f"{text}: {self._reason}")
        else:
            return None
        exception.result = result
        exception.reason = self._reason
        return exception


def _is_no_kernel(event: Event) -> bool:
    try:
        response = event.json()
    except ValueError:
        return False
    return isinstance(response, dict) and response.get("result") == "no_kernel"


def _refusal(text: str) -> errors.RuntimedError:
    if text.startswith("Cell not found"):
        return errors.CellNotFoundError(text)
    if text == "Unexpected response: NoKernel" or text == "no_kernel":
        return errors.NoKernelError("Unexpected response: NoKernel")
    return errors.DaemonError(text or "Daemon returned error")
