"""The execution queue of a room and the life of one execution.

Storey: daemon (7).  Source: protocol 2, sections 5.9 to 5.12, with the rules for a new daemon (14.2): an execution
ends when its ``execute_reply`` AND its ``idle`` have come; then, after its last output, it gets exactly one
``execution_done``, whatever happened (also when it never started).  Everything is synchronous and runs on the loop:
one batch of kernel messages goes in, one publication comes out.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Callable

from runtimed_ffi.daemon.ports import CallLater, Json, KernelPort, Message, Publish, Timer
from runtimed_ffi.daemon.rooms.comms import COMM_MESSAGES, Comms
from runtimed_ffi.daemon.rooms.outputs import Publication, as_dict, bundle, display_id_of, stream_text, to_nbformat
from runtimed_ffi.daemon.rooms.run import Run
from runtimed_ffi.daemon.rooms.writer import OutputTarget, OutputWriter

log = logging.getLogger(__name__)

FENCE_DELAY = 1.0
"""Seconds between one half of an end (reply or idle) and the question whether the other half was lost."""

QUEUE_LIMIT = 10_000
"""Executions that may wait when another is requested."""

QUEUE_CODE_LIMIT = 64 * 1024 * 1024
"""Characters of their code, that of the other included."""

REMEMBERED_CELLS = 1000
"""The last run of a cell is remembered after its end, so that what its threads still print finds it.  At so many cells
those that have been deleted are looked for, and again whenever their number has doubled."""

_STATUS = {
    **{name: name for name in ("starting", "idle", "busy", "restarting", "shutdown")},
    "terminating": "shutdown",
    "dead": "shutdown",
}
"""Kernel states and the status that peers get for them (5.8)."""


class QueueFull(Exception):
    """The queue is full: no further execution is accepted."""


class ExecutionQueue:
    """At most one execution at the kernel; the others wait in order.

    Args:
        publish: Receives each publication: (ops, broadcasts, cause).
        writer: The room's outputs.
        comms: The room's widgets.
        new_id: Makes execution ids.
        call_later: ``loop.call_later``; used only to detect lost replies.
    """

    def __init__(
        self,
        publish: Publish,
        writer: OutputWriter,
        comms: Comms,
        new_id: Callable[[], str],
        call_later: CallLater,
    ) -> None:
        self._publish = publish
        self._writer = writer
        self._comms = comms
        self._new_id = new_id
        self._call_later = call_later
        self._kernel: KernelPort | None = None
        self._executing: Run | None = None
        self._queue: deque[Run] = deque()
        self._by_message: dict[str, Run] = {}
        self._last_run: dict[str, Run] = {}
        self._remembered = REMEMBERED_CELLS
        self._busy_with: str | None = None
        self._fence_timer: Timer | None = None

    # -- state

    @property
    def executing(self) -> str | None:
        """The cell at the kernel, or ``None``."""
        return self._executing.cell_id if self._executing else None

    @property
    def queued(self) -> list[str]:
        """The cells that wait, in order."""
        return [run.cell_id for run in self._queue]

    @property
    def busy(self) -> bool:
        """Whether an execution is at the kernel or waits."""
        return self._executing is not None or bool(self._queue)

    # -- from requests

    def submit(self, cell_id: str, code: str, peer: int, publication: Publication) -> Run:
        """Queue an execution and start it if the kernel is free.

        A cell that is executing or waiting is left alone; its present execution is returned (idempotence, 5.9).  The
        caller sends the response and then publishes.  Raises :class:`QueueFull`.
        """
        waiting = len(self._queue)
        if cell_id != self.executing and cell_id not in self.queued:
            characters = sum(len(run.code) for run in self._queue) + len(code)
            if waiting >= QUEUE_LIMIT or (waiting and characters > QUEUE_CODE_LIMIT):
                raise QueueFull(f"the queue is full: {waiting} executions wait")
        return self.submit_all([(cell_id, code)], peer, publication)[0]

    def submit_all(self, cells: Sequence[tuple[str, str]], peer: int, publication: Publication) -> list[Run]:
        """As ``submit``, for ids and codes of the cells of a document, which bounds them.

        The queue is broadcast once, because each broadcast is as long as the queue.
        """
        present = {run.cell_id: run for run in [*self._queue, *filter(None, [self._executing])]}
        before = len(self._queue)
        runs = []
        for cell_id, code in cells:
            run = present.get(cell_id)
            if run is None:
                run = present[cell_id] = Run(OutputTarget(cell_id, self._new_id()), code, peer)
                if self._executing is not None and self._executing.interrupted:
                    run.interrupted_before = self._executing
                self._queue.append(run)
            runs.append(run)
        if len(self._queue) > before:
            self._queue_changed(publication)
            self._start_next(publication)
        return runs

    # The life of an interrupt
    #
    # A SIGINT hits whatever the kernel does when it arrives. Between two cells it is lost, or costs the next cell. So
    # three places keep track of which execution an interrupt is for:
    #
    # 1. Here, before it is sent. ``Run.interrupted`` marks the execution at the kernel: its KeyboardInterrupt, or its
    #    missing reply, is then "interrupted" and no error (``Run.outcome``). If the kernel has not announced the start
    #    yet, the signal would come too early: ``Run.interrupt_at_start`` sends it from ``_on_started``, unless the
    #    kernel is busy with something else, which is interrupted at once. ``Run.interrupted_before`` of later requests
    #    names the interrupted run, so that its error does not cancel them (``_stop_on_error``).
    # 2. ``Kernel.interrupt``, while it is being delivered. A remote provisioner takes time; ``_interrupt_target`` is
    #    the execution that was the last one when the interrupt was requested. Once it is delivered, it is sent again
    #    only if another interrupt was requested meanwhile for a newer execution that is still the last one.
    # 3. ``kernel_main``, when it arrives. IPython swallows a KeyboardInterrupt in the callbacks before a cell;
    #    ``_interrupt_preparations`` lets it end the cell instead.

    def interrupt(self) -> None:
        """Interrupt the kernel, now or when it begins with its execution.  The queue is not touched."""
        kernel, run = self._kernel, self._executing
        if kernel is None or (run is None and self._busy_with is None):
            # An idle kernel would take the signal late, in the middle of the next cell.
            return
        if run is not None:
            run.interrupted = True
            if not run.started:
                run.interrupt_at_start = True
                if self._busy_with in (None, run.msg_id):
                    return
        kernel.interrupt()

    # -- from the kernel

    def attach(self, kernel: KernelPort) -> None:
        """A kernel is ready: start what has queued up."""
        self._kernel = kernel
        self._comms.clear()
        publication = Publication()
        self._start_next(publication)
        self._send(publication)

    def detach(self, status: str, reason: str, publication: Publication) -> None:
        """The kernel is gone, or none will come: end everything with ``status`` and ``reason``.

        The caller publishes (it knows which broadcasts go before).
        """
        self._writer.finish_all(publication)
        self._comms.clear()
        self._kernel = None
        self._busy_with = None
        self._disarm()
        run, self._executing = self._executing, None
        ended = ([run] if run is not None else []) + list(self._queue)
        self._queue.clear()
        self._by_message.clear()
        self._last_run.clear()
        for gone in ended:
            self._done(gone, status, reason, publication)
        if ended:
            self._queue_changed(publication)

    def on_messages(self, batch: Sequence[Message]) -> None:
        """All kernel messages that were readable at one moment become one publication."""
        publication = Publication()
        for message in batch:
            try:
                if message.channel == "iopub":
                    self._on_iopub(message, publication)
                elif message.channel == "shell":
                    self._on_shell(message, publication)
            except Exception:
                log.exception("a kernel message of type %r was skipped", message.msg_type)
        self._writer.flush(publication)
        self._send(publication)
        run = self._executing
        if run is not None and run.idle != (run.reply is not None) and not run.fence_id and not self._fence_timer:
            self._fence_timer = self._call_later(FENCE_DELAY, self._send_fence)

    def _on_iopub(self, message: Message, publication: Publication) -> None:
        run = self._by_message.get(message.parent_id)
        content = message.content
        kind = message.msg_type
        if kind == "stream":
            if run is not None:
                name = "stderr" if content.get("name") == "stderr" else "stdout"
                self._writer.stream(run.target, name, stream_text(content), publication)
        elif kind in ("display_data", "execute_result", "error"):
            if run is not None:
                display_id = display_id_of(content) if kind != "error" else None
                self._writer.output(run.target, to_nbformat(kind, content), publication, display_id)
        elif kind == "update_display_data":
            display_id = display_id_of(content)
            if display_id is not None:
                data, metadata = bundle(content.get("data")), as_dict(content.get("metadata"))
                self._writer.update_display(display_id, data, metadata, publication)
        elif kind == "clear_output":
            if run is not None:
                self._writer.clear(run.target, bool(content.get("wait")), publication)
        elif kind == "status":
            self._on_status(message, run, publication)
        elif kind == "execute_input":
            # Broadcast once, however often the kernel repeats it.
            if run is not None and run is self._executing and not run.started:
                self._on_started(run, content.get("execution_count"), publication)
        elif kind in COMM_MESSAGES:
            self._writer.flush(publication)
            self._comms.on_message(message, publication)

    def _on_status(self, message: Message, run: Run | None, publication: Publication) -> None:
        state = str(message.content.get("execution_state"))
        self._busy_with = message.parent_id if state == "busy" else None
        self._writer.flush(publication)
        executing = self._executing
        if executing is not None and executing.fence_id and message.parent_id == executing.fence_id:
            # The daemon's own request; peers do not see its status.
            executing.fence_idle = executing.fence_idle or state == "idle"
            self._settle(executing, publication)
            return
        status = _STATUS.get(state, "unknown")
        publication.broadcast("kernel_status", status=status, cell_id=run.cell_id if run is not None else None)
        if run is not None and run is executing and state == "idle":
            run.idle = True
            self._settle(run, publication)

    def _on_started(self, run: Run, count: object, publication: Publication) -> None:
        self._writer.flush(publication)
        run.started = True
        self._count(run, count, publication)
        publication.broadcast(
            "execution_started",
            cell_id=run.cell_id,
            execution_count=run.target.execution_count or 0,
            execution_id=run.execution_id,
        )
        if run.interrupt_at_start and self._kernel is not None:
            self._kernel.interrupt()

    def _on_shell(self, message: Message, publication: Publication) -> None:
        run = self._executing
        if run is None:
            return
        if run.fence_id and message.parent_id == run.fence_id:
            run.fence_reply = True
            self._settle(run, publication)
            return
        if message.msg_type != "execute_reply" or message.parent_id != run.msg_id or run.reply is not None:
            return
        self._writer.flush(publication)
        run.reply = message.content
        if run.target.execution_count is None:
            self._count(run, message.content.get("execution_count"), publication)
        if message.content.get("status") != "ok":
            self._stop_on_error(run, publication)
        self._settle(run, publication)

    # -- steps

    def _start_next(self, publication: Publication) -> None:
        while self._kernel is not None and self._executing is None and self._queue:
            run = self._queue.popleft()
            self._executing = run
            try:
                # Send the request first: the kernel works while the room is notified.
                run.msg_id = self._kernel.execute(run.code)
            except Exception as error:
                log.exception("an execution could not be sent to the kernel")
                self._executing = None
                self._done(run, "error", f"the kernel could not be reached: {error}", publication)
                self._queue_changed(publication)
                continue
            run.code = ""  # A run is kept for longer than its code is needed.
            if len(self._last_run) >= self._remembered:
                self._forget_deleted()
            previous = self._last_run.get(run.cell_id)
            if previous is not None:
                self._by_message.pop(previous.msg_id, None)
            self._last_run[run.cell_id] = run
            self._by_message[run.msg_id] = run
            self._queue_changed(publication)
            self._writer.begin(run.target, publication)

    def _forget_deleted(self) -> None:
        """Forget the runs of deleted cells: a client may create a cell for each run and delete it."""
        for cell_id in self._writer.forget_deleted(self._last_run):
            self._by_message.pop(self._last_run.pop(cell_id).msg_id, None)
        self._remembered = max(REMEMBERED_CELLS, 2 * len(self._last_run))

    def _stop_on_error(self, failed: Run, publication: Publication) -> None:
        """Cancel what the same peer has queued behind the failed run; executions of other peers stay.

        Executions requested after the run was interrupted are kept as well: ``interrupt(); run(...)`` means to run.
        """
        dropped = [run for run in self._queue if run.peer == failed.peer and run.interrupted_before is not failed]
        if dropped:
            self._queue = deque(run for run in self._queue if run not in dropped)
        self._queue_changed(publication)
        for run in dropped:
            self._done(run, "cancelled", f"cell {failed.cell_id} failed before it", publication)

    def _settle(self, run: Run, publication: Publication) -> None:
        if not (run.fence_reply and run.fence_idle):
            if run.reply is None or not run.idle:
                return
            if self._kernel is not None and self._kernel.publishes_late:
                # Its answer to another request comes behind what it still has to publish.
                run.fence_id = run.fence_id or self._kernel.fence()
                return
        self._disarm()
        if run.reply is None:
            # The kernel has dropped the request, as it does when an interrupt finds it between two cells.
            self._stop_on_error(run, publication)
        self._executing = None
        self._write_pages(run, publication)
        status, reason = run.outcome()
        self._done(run, status, reason, publication)
        self._queue_changed(publication)
        self._start_next(publication)

    def _write_pages(self, run: Run, publication: Publication) -> None:
        """Write the pages of the shell reply.  Only now: the reply may have overtaken outputs on iopub."""
        payloads = (run.reply or {}).get("payload")
        for payload in payloads if isinstance(payloads, list) else ():
            if as_dict(payload).get("source") == "page":
                page = {"output_type": "display_data", "data": bundle(payload.get("data")), "metadata": {}}
                self._writer.output(run.target, page, publication)

    def _done(self, run: Run, status: str, reason: str, publication: Publication) -> None:
        members: Json = {"cell_id": run.cell_id, "execution_id": run.execution_id, "status": status}
        if status != "ok":
            members["reason"] = reason
        members["execution_count"] = run.target.execution_count
        self._writer.finish(run.target, publication)
        publication.broadcast("execution_done", **members)

    def _count(self, run: Run, count: object, publication: Publication) -> None:
        if isinstance(count, int) and not isinstance(count, bool):
            run.target.execution_count = count
            publication.set_execution_count(run.cell_id, count)

    def _queue_changed(self, publication: Publication) -> None:
        publication.broadcast("queue_changed", executing=self.executing, queued=self.queued)

    def _send_fence(self) -> None:
        """One half of the end is missing: send another request; once that is answered, the half is lost."""
        self._fence_timer = None
        run, kernel = self._executing, self._kernel
        if run is not None and kernel is not None and run.idle != (run.reply is not None):
            run.fence_id = kernel.fence()

    def _disarm(self) -> None:
        timer, self._fence_timer = self._fence_timer, None
        if timer is not None:
            timer.cancel()

    def _send(self, publication: Publication) -> None:
        if publication:
            self._publish(publication.ops, publication.broadcasts, 0)
