"""Executions: one run of one cell while it lasts.

Storey 6 (client). Knows events, outputs and the router; knows nothing of sessions. Source: python-api, sections 1.5 and
1.6; protocol 2, section 5.9.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Callable

from runtimed_ffi import errors
from runtimed_ffi._binding.events import Event, EventKind
from runtimed_ffi._client.connection import Call
from runtimed_ffi._client.progress import Progress
from runtimed_ffi.output import Output
from runtimed_ffi.result import ExecutionResult

OnOutput = Callable[[Output], Any]


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
        self, call: Call, cell_id: str, on_output: OnOutput | None = None, timeout_secs: float | None = None
    ) -> None:
        self._call = call
        self._progress = Progress(cell_id, timeout_secs)
        self._on_output = on_output
        self._turn = threading.Lock()
        self._consumer: int | None = None
        self._bells: list[threading.Lock] = []
        self._callback_error: Exception | None = None

    @property
    def cell_id(self) -> str:
        """The cell."""
        return self._progress.cell_id

    @property
    def execution_id(self) -> str | None:
        """The daemon's name for this execution, once it has accepted it; `None` from a daemon that has none."""
        return self._progress.execution_id

    @property
    def state(self) -> str:
        """``submitted``, ``queued``, ``running``, or how it ended.

        The ends are ``done``, ``error``, ``interrupted``, ``cancelled``, ``kernel_died``, ``launch_failed``,
        ``timed_out``, ``disconnected`` and ``refused``.
        """
        return self._progress.state

    @property
    def done(self) -> bool:
        """True when the end has been consumed."""
        return self._progress.result is not None

    @property
    def outputs(self) -> list[Output]:
        """The outputs so far, in the order of the cell; a fresh list on every read.

        While a cell prints, a stream may be several neighbouring outputs; when it has ended it is one, as in a file.
        """
        return self._progress.outputs.current()

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
        progress = self._progress
        while progress.result is None:
            self._advance()
        failure = progress.failure()
        self._raise_callback_errors(failure)
        if failure is not None:
            raise failure
        return progress.result

    def __iter__(self) -> Iterator[Output]:
        """Yield outputs as they come, changed ones again; ends when the execution does, whatever the end is.

        Stream text comes in pieces, each once; put together they are the outputs of the result.

        Raises:
            What callbacks have raised, as `result()`; nothing about the execution itself.
        """
        progress, position = self._progress, 0
        while True:
            while position < len(progress.arrived):
                position += 1
                yield progress.arrived[position - 1]
            if progress.result is not None and position >= len(progress.arrived):
                self._raise_callback_errors(None)
                return
            self._advance(position)

    def __repr__(self) -> str:
        return f"Execution(cell={self.cell_id}, state={self.state}, outputs={len(self._progress.outputs)})"

    def _raise_callback_errors(self, failure: errors.RuntimedError | None) -> None:
        error, self._callback_error = self._callback_error, None
        if error is not None:
            raise error from (error.__cause__ or failure)
        self._call.raise_errors(failure)

    def _advance(self, seen: int | None = None) -> None:
        """Consume one event, unless there are more outputs than the `seen` ones, those that an iterator has seen."""
        # In a forked child the consuming thread, and the one that holds the lock, may not exist.
        self._call.require()
        me = threading.get_ident()
        nested = self._consumer == me  # Called back from `on_output`.
        try:
            while True:
                with self._turn:
                    if self.done or (seen is not None and seen < len(self._progress.arrived)):
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
            self._consume(self._call.next_event())
        finally:
            if not nested and self._consumer == me:
                self._consumer = None
                with self._turn:
                    bells, self._bells = self._bells, []
                for bell in bells:
                    bell.release()

    def _consume(self, event: Event) -> None:
        progress = self._progress
        if progress.needs_document(event):
            self._catch_up()
        output = self._call.read_output(event) if event.kind == EventKind.OUTPUT else None
        news = progress.apply(event, output)
        self._call.accept(event)
        if news is not None:
            self._tell(news)

    def _catch_up(self) -> None:
        try:
            outputs = self._call.outputs(self.cell_id)
        except errors.RuntimedError:
            return  # The cell was deleted, or the connection has gone: what came is what there is.
        for output in self._progress.catch_up(outputs):
            self._tell(output)

    def _tell(self, output: Output) -> None:
        if self._on_output is None or self._callback_error is not None:
            return
        try:
            self._on_output(output)
        except Exception as error:
            self._callback_error = error
