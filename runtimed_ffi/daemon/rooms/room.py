"""One room: a notebook, its peers, and its kernel.

Storey: daemon (7).  Source: protocol 2, sections 5.11, 5.12 and 10.4.  The document and the peers' connections are the
host's; a room here adds the kernel and the execution queue.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Callable, Optional

from runtimed_ffi.daemon.environments import requirements
from runtimed_ffi.daemon.environments.plans import BUILT_IN_TYPES, LaunchRequest
from runtimed_ffi.daemon.ports import (
    Json,
    KernelPort,
    LaunchError,
    Launching,
    LaunchListener,
    Message,
)
from runtimed_ffi.daemon.rooms.comms import Comms
from runtimed_ffi.daemon.rooms.execution import ExecutionQueue
from runtimed_ffi.daemon.rooms.outputs import Publication
from runtimed_ffi.daemon.rooms.writer import OutputWriter
from runtimed_ffi.daemon.tasks import Tasks

if TYPE_CHECKING:
    from runtimed_ffi.blobs import Blobs
    from runtimed_ffi.host import Host

log = logging.getLogger(__name__)

LaunchDone = Callable[[Optional[str]], None]
Launch = Callable[[LaunchRequest, LaunchListener], Awaitable[KernelPort]]
"""Resolves the request, makes what it needs and starts the kernel (``launcher.Launcher``)."""


class Room:
    """One notebook.  Everything on the loop's thread.

    It is the listener of its kernel.  At any moment it has a kernel, or a launch that is under way, or neither.
    """

    def __init__(self, notebook_id: str, host: Host, blobs: Blobs, launch: Launch) -> None:
        self.notebook_id = notebook_id
        self.peers: set[int] = set()
        self.kernel: KernelPort | None = None
        self.launching: Launching | None = None
        """What is being started, if anything."""
        self._host = host
        self._launch_kernel = launch
        self._loop = asyncio.get_running_loop()
        self._launch: asyncio.Task[None] | None = None
        self._launch_waiters: list[LaunchDone] = []
        self._launch_cause = 0
        self._starting_sent = False
        self.endings = Tasks()
        """Kernels of this room that are still ending."""
        self.writer = OutputWriter(blobs, self.cells)
        self.comms = Comms()
        self.queue = ExecutionQueue(
            self.publish, self.writer, self.comms, lambda: str(uuid.uuid4()), self._loop.call_later
        )

    # -- facts

    @property
    def status(self) -> str:
        """``not_started``, ``starting``, ``idle`` or ``busy`` (5.12)."""
        if self.kernel is None:
            return "starting" if self.launching is not None else "not_started"
        return "busy" if self.queue.executing is not None else "idle"

    @property
    def working(self) -> bool:
        """Whether something runs, waits or is being started: such a room is never evicted."""
        return self.launching is not None or self.queue.busy

    def kernel_facts(self) -> Json | None:
        """Kernel type, environment source and status, or ``None`` without a kernel."""
        kernel = self.kernel or self.launching
        if kernel is None:
            return None
        return {"kernel_type": kernel.kernel_type, "env_source": kernel.env_source, "status": self.status}

    # -- peers

    def enter(self, peer: int) -> None:
        """A peer has entered: send it the widgets that are open (5.2, step 6)."""
        self.peers.add(peer)
        widgets = self.comms.sync()
        if widgets is None:
            return
        try:
            self._host.send(peer, widgets)
        except Exception as error:
            # The usual reason: the peer has gone again.
            log.debug("room %r: the widgets were not sent: %s", self.notebook_id, error)

    # -- document

    def publish(self, ops: Sequence[Json], broadcasts: Sequence[Json], cause: int = 0) -> None:
        """Change the document and notify the peers; only what cannot be published is left out."""
        try:
            self._host.publish(self.notebook_id, ops, broadcasts, cause)
            return
        except Exception as error:
            log.warning("room %r: a publication of %d changes was refused: %s", self.notebook_id, len(ops), error)
        refused = [op for op in ops if not self._publish_alone(str(op.get("op")), [op], [], cause)]
        self._rebase([op for op in refused if "expect" in op], cause)
        for broadcast in broadcasts:
            self._publish_alone(str(broadcast.get("event")), [], [broadcast], cause)

    def _publish_alone(self, what: str, ops: Sequence[Json], broadcasts: Sequence[Json], cause: int) -> bool:
        try:
            self._host.publish(self.notebook_id, ops, broadcasts, cause)
            return True
        except Exception as error:
            log.error("room %r: %s was refused: %s", self.notebook_id, what, error)
            return False

    def _rebase(self, refused: Sequence[Json], cause: int) -> None:
        """Apply changes of outputs at their new places, after a peer has changed the list."""
        for cell_id in dict.fromkeys(op["cell_id"] for op in refused):
            try:
                for op in refused:
                    rebased = (
                        self.writer.rebase(op, self.cell(cell_id)["outputs"]) if op["cell_id"] == cell_id else None
                    )
                    if rebased is not None:
                        self._publish_alone("the rebased change", [rebased], [], cause)
                self.writer.resync_positions(cell_id, self.cell(cell_id)["outputs"])
            except Exception as error:
                log.error("room %r: the outputs of cell %r cannot be followed: %s", self.notebook_id, cell_id, error)

    def send(self, publication: Publication, cause: int = 0) -> None:
        """Publish what has been collected, if anything."""
        if publication:
            self.publish(publication.ops, publication.broadcasts, cause)

    def cell(self, cell_id: str) -> Json:
        """A cell of the document; raises the host's error if there is none."""
        return self._host.cell(self.notebook_id, cell_id)

    def cells(self) -> list[Json]:
        """All cells of the document, in order."""
        return self._host.cells(self.notebook_id)

    def metadata(self) -> Json | None:
        """The metadata of the notebook as it is in the document, or ``None`` if there is none (7.4)."""
        return requirements.of_document(self._host.metadata(self.notebook_id))

    # -- kernel

    def launch(self, request: LaunchRequest, done: LaunchDone, cause: int = 0) -> None:
        """Start a kernel, or join the launch that is under way.

        ``done`` is called once, with ``None`` if there is a kernel and else with the text of the error, before the
        broadcasts: it sends the response.
        """
        self._launch_waiters.append(done)
        if self._launch is None:
            self.launching = Launching(request.kernel_type, request.env_source)
            self._launch_cause = cause
            self._starting_sent = False
            if request.kernel_type in BUILT_IN_TYPES:
                self._send_starting()
            self._launch = self._loop.create_task(self._run_launch(request))

    def on_progress(self, launching: Launching) -> None:
        """Broadcast the progress of the launch."""
        if self.launching is None:
            return
        self.launching = launching
        self._send_starting()
        if launching.text:
            self.publish([], [_status(launching.text)], self._launch_cause)

    def _send_starting(self) -> None:
        """Broadcast it once per launch; for a kernel type that may not exist, only when it is known to."""
        if not self._starting_sent:
            self._starting_sent = True
            self.publish([], [_status("starting")], self._launch_cause)

    async def _run_launch(self, request: LaunchRequest) -> None:
        # A launch that is stopped is cancelled and forgotten at once; the room may have another one by then.
        try:
            kernel = await self._launch_kernel(request, self)
        except Exception as error:
            text = str(error)
            if not isinstance(error, LaunchError):
                log.exception("room %r: launching a kernel failed", self.notebook_id)
                text = f"Failed to launch kernel: {error}"
            cause = self._end_launch(text)
            publication = Publication()
            if self._starting_sent:
                publication.broadcasts.append(_status(f"error: {text}"))
            self.queue.detach("launch_failed", text, publication)
            self.send(publication, cause)
            return
        self.kernel = kernel
        cause = self._end_launch(None)
        self.publish([], [_status("idle")], cause)
        self.queue.attach(kernel)

    def _end_launch(self, failure: str | None) -> int:
        """Forget the launch, answer the requests that wait for it, and return the token that caused it."""
        waiters, self._launch_waiters = self._launch_waiters, []
        self._launch = self.launching = None
        cause, self._launch_cause = self._launch_cause, 0
        for done in waiters:
            try:
                done(failure)
            except Exception:
                log.exception("room %r: answering a launch failed", self.notebook_id)
        return cause

    def on_messages(self, kernel: KernelPort, batch: Sequence[Message]) -> None:
        """Handle the messages of the room's kernel; those of an earlier one are dropped."""
        if kernel is self.kernel:
            self.queue.on_messages(batch)

    def on_death(self, kernel: KernelPort, reason: str) -> None:
        """End everything that waits for the kernel, with its reason."""
        if kernel is not self.kernel:
            return
        log.warning("room %r: %s", self.notebook_id, reason)
        self.kernel = None
        publication = Publication()
        if self.queue.busy:
            # Makes waiting clients of the reference return with an error (14.2, item 7).  Sent only while executions
            # wait: the clients keep it and would take it for the end of a later execution.
            publication.broadcast("kernel_error", error=reason)
        publication.broadcasts.append(_status(f"error: {reason}"))
        self.queue.detach("kernel_died", reason, publication)
        self.send(publication)

    def interrupt(self) -> None:
        """Interrupt the kernel, if there is one."""
        self.queue.interrupt()

    def stop_kernel(self, reason: str, cause: int = 0) -> asyncio.Future[None] | None:
        """Stop the kernel or the launch.  The peers are notified at once; the future ends when the process is gone.

        ``None`` if there was nothing to stop.
        """
        kernel, launch = self.kernel, self._launch
        if kernel is None and launch is None:
            return None
        self.kernel = None
        self._end_launch(f"Failed to launch kernel: {reason}")
        publication = Publication()
        publication.broadcasts.append(_status("shutdown"))
        self.queue.detach("cancelled", reason, publication)
        self.send(publication, cause)
        ending: asyncio.Future[None]
        if kernel is not None:
            ending = asyncio.ensure_future(kernel.shutdown())
        else:
            assert launch is not None
            launch.cancel()
            ending = asyncio.ensure_future(settled(launch))
        self.endings.hold(ending)
        return ending


async def settled(task: asyncio.Task[object]) -> None:
    """Wait for a task, whatever becomes of it."""
    await asyncio.wait({task})


def _status(status: str) -> Json:
    return {"event": "kernel_status", "status": status, "cell_id": None}
