"""Rooms: the notebooks that are open, who is in them, and the kernel each of them has.

Storey: daemon (7).  Source: protocol 2, sections 5.11, 5.12, 9 and 10.4.  The documents and the peers' connections
are the host's; a room here adds the kernel, the execution queue and the time of eviction.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import uuid
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any, Callable, Optional

from . import environments
from .environments import LaunchPlan
from .execution import ExecutionQueue
from .outputs import OutputWriter, Publication
from .ports import (
    RTD_E_CORRUPT,
    RTD_E_IO,
    BlobPort,
    HostPort,
    Json,
    KernelListener,
    KernelPort,
    LaunchError,
    Message,
)

log = logging.getLogger(__name__)

EVICTION_DELAY = 3600.0
"""Seconds an empty room keeps its kernel (the reference: 30)."""

_INLINE_LOAD_LIMIT = 1 << 20
"""Journals up to this many bytes are loaded on the loop; larger ones on a thread."""

LaunchDone = Callable[[Optional[str]], None]
StartKernel = Callable[[LaunchPlan, KernelListener], Awaitable[KernelPort]]


class Room:
    """One notebook.  Everything on the loop's thread.

    It is the listener of its kernel.  At any moment it has a kernel, or a launch that is under way, or neither.
    """

    def __init__(self, notebook_id: str, host: HostPort, blobs: BlobPort, start_kernel: StartKernel) -> None:
        self.notebook_id = notebook_id
        self.peers: set[int] = set()
        self.kernel: KernelPort | None = None
        self.launching: LaunchPlan | None = None
        """What is being started, if anything."""
        self._host = host
        self._start_kernel = start_kernel
        self._loop = asyncio.get_running_loop()
        self._launch: asyncio.Task[None] | None = None
        self._launch_waiters: list[LaunchDone] = []
        self._launch_cause = 0
        self._endings: set[asyncio.Future[None]] = set()
        self.writer = OutputWriter(blobs.store_output)
        self.queue = ExecutionQueue(self.publish, self.writer, lambda: str(uuid.uuid4()), self._loop.call_later)

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

    # -- document

    def publish(self, ops: Sequence[Json], broadcasts: Sequence[Json], cause: int = 0) -> None:
        """Change the document and tell the peers; what cannot be published is left out, never the rest with it."""
        try:
            self._host.publish(self.notebook_id, ops, broadcasts, cause)
            return
        except Exception as error:
            log.warning("room %r: a publication of %d changes was refused: %s", self.notebook_id, len(ops), error)
        for op in ops:
            self._publish_alone(str(op.get("op")), [op], [], cause)
        for broadcast in broadcasts:
            self._publish_alone(str(broadcast.get("event")), [], [broadcast], cause)

    def _publish_alone(self, what: str, ops: Sequence[Json], broadcasts: Sequence[Json], cause: int) -> None:
        try:
            self._host.publish(self.notebook_id, ops, broadcasts, cause)
        except Exception as error:
            log.error("room %r: %s was dropped: %s", self.notebook_id, what, error)

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

    # -- kernel

    def launch(self, plan: LaunchPlan, done: LaunchDone, cause: int = 0) -> None:
        """Start a kernel, or join the launch that is under way.

        ``done`` is called once, with ``None`` if there is a kernel and else with the text of the error, before the
        peers are told: it is where the response goes out.
        """
        self._launch_waiters.append(done)
        if self._launch is None:
            self.launching = plan
            self._launch_cause = cause
            self.publish([], [_status("starting")], cause)
            self._launch = self._loop.create_task(self._run_launch(plan))

    async def _run_launch(self, plan: LaunchPlan) -> None:
        # A launch that is stopped is cancelled and forgotten at once; the room may have another one by then.
        try:
            kernel = await self._start_kernel(plan, self)
        except Exception as error:
            text = str(error)
            if not isinstance(error, LaunchError):
                log.exception("room %r: launching a kernel failed", self.notebook_id)
                text = f"Failed to launch kernel: {error}"
            cause = self._end_launch(text)
            publication = Publication()
            publication.broadcasts.append(_status(f"error: {text}"))
            self.queue.detach("launch_failed", text, publication)
            self.send(publication, cause)
            return
        self.kernel = kernel
        cause = self._end_launch(None)
        self.publish([], [_status("idle")], cause)
        self.queue.attach(kernel)

    def _end_launch(self, failure: str | None) -> int:
        """Forget the launch, tell who waits for it, and return the token that caused it."""
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
        if kernel is self.kernel:
            self.queue.on_messages(batch)

    def on_death(self, kernel: KernelPort, reason: str) -> None:
        if kernel is not self.kernel:
            return
        log.warning("room %r: %s", self.notebook_id, reason)
        self.kernel = None
        publication = Publication()
        if self.queue.busy:
            # Makes waiting clients of the reference return with an error (14.2, item 7).  Sent only when somebody
            # waits: they keep it and would take it for the end of a later execution.
            publication.broadcast("kernel_error", error=reason)
        publication.broadcasts.append(_status(f"error: {reason}"))
        self.queue.detach("kernel_died", reason, publication)
        self.send(publication)

    def interrupt(self) -> None:
        """Interrupt the kernel, if there is one."""
        self.queue.interrupt()

    def stop_kernel(self, reason: str, cause: int = 0) -> asyncio.Future[None] | None:
        """Stop the kernel or the launch.  The peers are told at once; the future ends when the process is gone.

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
            ending = asyncio.ensure_future(_settled(launch))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        return ending

    def endings(self) -> list[asyncio.Future[None]]:
        """Kernels of this room that are still ending."""
        return list(self._endings)


class Rooms:
    """All rooms.

    Parameters
    ----------
    directory:
        Where the journals are (``notebook-docs``), or ``None`` to keep everything in memory.
    start_kernel:
        Starts a kernel from a plan and reports to the listener.
    eviction_delay:
        Seconds an empty room with a kernel that does not work stays, or ``None`` for ever.
    """

    def __init__(
        self,
        host: HostPort,
        blobs: BlobPort,
        start_kernel: StartKernel,
        directory: str | None = None,
        eviction_delay: float | None = EVICTION_DELAY,
    ) -> None:
        self._host = host
        self._blobs = blobs
        self._start_kernel = start_kernel
        self._directory = directory
        self._eviction_delay = eviction_delay
        self._rooms: dict[str, Room] = {}
        self._evictions: dict[str, asyncio.TimerHandle] = {}
        self._endings: set[asyncio.Future[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, notebook_id: str) -> Room | None:
        """The open room with this id, if any."""
        return self._rooms.get(notebook_id)

    @property
    def active(self) -> bool:
        """Whether somebody is in a room or a kernel works."""
        return any(room.peers or room.working for room in self._rooms.values())

    def journal(self, notebook_id: str) -> str | None:
        """The file that holds the document of a room (9.2)."""
        if self._directory is None:
            return None
        name = hashlib.sha256(notebook_id.encode("utf-8", "surrogatepass")).hexdigest()
        return os.path.join(self._directory, name + ".automerge")

    # -- events of the host

    def wanted(self, notebook_id: str) -> None:
        """Somebody asks for a room that is not open: open it, from its journal if there is one."""
        journal = self.journal(notebook_id)
        size = os.path.getsize(journal) if journal is not None and os.path.exists(journal) else 0
        if size <= _INLINE_LOAD_LIMIT:
            self._open(notebook_id, journal)
        else:
            self._spawn(self._open_slowly(notebook_id, journal))

    async def _open_slowly(self, notebook_id: str, journal: str | None) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._open, notebook_id, journal)

    def _open(self, notebook_id: str, journal: str | None) -> None:
        """Open the room at the host.  May run on a worker thread: the host is made for that."""
        try:
            try:
                self._host.open_room(notebook_id, journal)
            except Exception as error:
                if journal is None or getattr(error, "code", None) != RTD_E_CORRUPT:
                    raise
                kept = set_aside(journal)
                log.error("room %r: %s cannot be read (%s); kept as %s", notebook_id, journal, error, kept)
                self._host.open_room(notebook_id, journal)
        except Exception as error:
            log.error("room %r cannot be opened: %s", notebook_id, error)
            try:
                self._host.refuse_room(notebook_id)
            except Exception as second:
                log.warning("room %r cannot be refused either: %s", notebook_id, second)

    def joined(self, notebook_id: str, peer: int, count: int) -> None:
        """A peer has entered; the first one of a room may bring a kernel with him (9.5)."""
        timer = self._evictions.pop(notebook_id, None)
        if timer is not None:
            timer.cancel()
        room = self._rooms.get(notebook_id)
        if room is None:
            room = self._rooms[notebook_id] = Room(notebook_id, self._host, self._blobs, self._start_kernel)
        room.peers.add(peer)
        if count == 1 and room.kernel is None and room.launching is None:
            self._spawn(self._launch_automatically(room))

    async def _launch_automatically(self, room: Room) -> None:
        plan = await asyncio.get_running_loop().run_in_executor(None, environments.automatic, room.notebook_id)
        if plan is not None and room.peers and room.kernel is None and self._rooms.get(room.notebook_id) is room:
            room.launch(plan, lambda failure: None)

    def left(self, notebook_id: str, peer: int) -> None:
        """A peer has gone; an empty room is evicted after a while."""
        room = self._rooms.get(notebook_id)
        if room is None:
            return
        room.peers.discard(peer)
        if not room.peers:
            self._evict_later(notebook_id)

    def failed(self, notebook_id: str, code: int, reason: str) -> None:
        """Something is wrong with a room.

        With ``RTD_E_IO`` its journal cannot be written at present: the room goes on, and the host tries again with
        every change.  With any other code the host has closed it: its kernel goes too, the other rooms stay.
        """
        if code == RTD_E_IO:
            log.error("room %r cannot be saved at present, free some space: %s", notebook_id, reason)
            return
        log.error("room %r failed: %s", notebook_id, reason)
        self._remove(notebook_id, "the room failed: " + reason)

    # -- life

    def _evict_later(self, notebook_id: str) -> None:
        if self._eviction_delay is None or notebook_id in self._evictions:
            return
        loop = asyncio.get_running_loop()
        self._evictions[notebook_id] = loop.call_later(self._eviction_delay, self._evict, notebook_id)

    def _evict(self, notebook_id: str) -> None:
        self._evictions.pop(notebook_id, None)
        room = self._rooms.get(notebook_id)
        if room is None or room.peers:
            return
        if room.working or self._entered(notebook_id):
            self._evict_later(notebook_id)
            return
        log.info("room %r is evicted", notebook_id)
        self._remove(notebook_id, "the room was closed")
        try:
            self._host.close_room(notebook_id)
        except Exception as error:
            log.warning("room %r cannot be closed: %s", notebook_id, error)

    def _entered(self, notebook_id: str) -> bool:
        """Whether a peer is in the room whose event has not reached us yet."""
        return any(entry["notebook_id"] == notebook_id and entry["peers"] for entry in self._host.rooms())

    def _remove(self, notebook_id: str, reason: str) -> None:
        timer = self._evictions.pop(notebook_id, None)
        if timer is not None:
            timer.cancel()
        room = self._rooms.pop(notebook_id, None)
        if room is None:
            return
        room.stop_kernel(reason)
        for ending in room.endings():
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)

    async def close(self, reason: str, timeout: float) -> None:
        """Stop every kernel; those that do not end within ``timeout`` seconds are left to their own death watch."""
        for notebook_id in list(self._rooms):
            self._remove(notebook_id, reason)
        for task in list(self._tasks):
            task.cancel()
        pending = self._endings | {asyncio.ensure_future(_settled(task)) for task in self._tasks}
        if pending:
            await asyncio.wait(pending, timeout=timeout)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task of the rooms failed", exc_info=task.exception())


def set_aside(path: str) -> str:
    """Rename an unreadable file to ``<path>.corrupt`` (with a number if that exists) and return the new name."""
    name, number = path + ".corrupt", 1
    while os.path.exists(name):
        number += 1
        name = f"{path}.corrupt.{number}"
    os.replace(path, name)
    return name


async def _settled(task: asyncio.Task[object]) -> None:
    """Wait for a task, whatever becomes of it."""
    await asyncio.wait({task})


def _status(status: str) -> Json:
    return {"event": "kernel_status", "status": status, "cell_id": None}
