"""Rooms: the notebooks that are open, from their files to their eviction.

Storey: daemon (7).  Source: protocol 2, section 9.  What one room does while it is open is in ``room``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from typing import TYPE_CHECKING, Callable, Optional

from runtimed_ffi.daemon.environments.plans import LaunchRequest
from runtimed_ffi.daemon.files import paths
from runtimed_ffi.daemon.files.notebook_files import NotebookFiles
from runtimed_ffi.daemon.ports import RTD_E_IO
from runtimed_ffi.daemon.rooms.room import Launch, Room
from runtimed_ffi.daemon.tasks import Tasks
from runtimed_ffi.host import CorruptError

if TYPE_CHECKING:
    from runtimed_ffi.blobs import Blobs
    from runtimed_ffi.host import Host

log = logging.getLogger(__name__)

Automatic = Callable[[str], Optional[LaunchRequest]]
"""The launch for a room that its first peer has entered, if there is one (9.5).  Runs on a thread."""

EMPTY_LIMIT = 256
"""Empty rooms without a kernel that stay open until their time is over.  Each has a descriptor; what is in them is in
their journals, so the only cost is that the next peer waits until they are loaded again."""

_CLOSED = "the room was closed"

_INLINE_LOAD_LIMIT = 1 << 20
"""Journals up to this many bytes are loaded on the loop; larger ones on a thread."""


class Rooms:
    """All rooms.

    Args:
        directory: Where the journals are (``notebook-docs``), or ``None`` to keep everything in memory.
        launch: Starts a kernel and reports to the listener.
        automatic: Which kernel a room gets by itself.
        eviction_delay: Seconds an empty room with a kernel that does not work stays, or ``None`` for ever.
        new_mode: Mode of a notebook file that a save creates.
    """

    def __init__(
        self,
        host: Host,
        blobs: Blobs,
        launch: Launch,
        directory: str | None = None,
        eviction_delay: float | None = None,
        automatic: Automatic = lambda notebook_id: None,
        new_mode: int = 0o600,
    ) -> None:
        self._host = host
        self._blobs = blobs
        self._launch = launch
        self._automatic = automatic
        self._directory = directory
        self._eviction_delay = eviction_delay
        self._rooms: dict[str, Room] = {}
        self._evictions: dict[str, asyncio.TimerHandle] = {}
        self._endings = Tasks()
        """Kernels of removed rooms that are still ending."""
        self._tasks = Tasks()
        self._files = NotebookFiles(host, blobs, new_mode)
        self._opening: dict[str, bool] = {}
        """Rooms that a worker opens; true: another peer has requested the room meanwhile."""
        self._kept: dict[str, str] = {}
        """Journals that could not be read: what was done about it, by room."""

    def get(self, notebook_id: str) -> Room | None:
        """The open room with this id, if any."""
        return self._rooms.get(notebook_id)

    @property
    def active(self) -> bool:
        """Whether a room has peers or a kernel works."""
        return any(room.peers or room.working for room in self._rooms.values())

    def journal(self, notebook_id: str) -> str | None:
        """The file that holds the document of a room (9.2)."""
        if self._directory is None:
            return None
        name = hashlib.sha256(notebook_id.encode("utf-8", "surrogatepass")).hexdigest()
        return os.path.join(self._directory, name + ".automerge")

    def notes(self, notebook_id: str) -> list[str]:
        """Problems with the files of a room, as texts for people."""
        notes = (self._kept.get(notebook_id), self._files.problem(notebook_id))
        return [note for note in notes if note is not None]

    async def save(self, notebook_id: str) -> None:
        """Write an open room into its notebook file.  Raises ``FileError``."""
        await self._files.save(notebook_id)

    # -- events of the host

    def wanted(self, notebook_id: str) -> None:
        """A peer asks for a room that is not open: open it, from its journal and its notebook file if it has them."""
        if notebook_id in self._opening:
            self._opening[notebook_id] = True
            return
        journal = self.journal(notebook_id)
        size = os.path.getsize(journal) if journal is not None and os.path.exists(journal) else 0
        if size <= _INLINE_LOAD_LIMIT and paths.path_of(notebook_id) is None:
            if self._open(notebook_id, journal):
                self._opened(notebook_id)
        else:
            self._opening[notebook_id] = False
            self._tasks.spawn(self._open_slowly(notebook_id, journal))

    async def _open_slowly(self, notebook_id: str, journal: str | None) -> None:
        try:
            opened = await self._files.run(self._open, notebook_id, journal)
        finally:
            again = self._opening.pop(notebook_id)
        if opened:
            self._opened(notebook_id)
        if again and not any(entry["notebook_id"] == notebook_id for entry in self._host.rooms()):
            # The first peers were refused before the later ones asked.
            self.wanted(notebook_id)

    def _opened(self, notebook_id: str) -> None:
        """The peer may have disconnected without entering: the room is evicted like one that its last peer left."""
        if notebook_id not in self._rooms:
            self._add(notebook_id)
            self._emptied(notebook_id)

    def _add(self, notebook_id: str) -> Room:
        room = self._rooms[notebook_id] = Room(notebook_id, self._host, self._blobs, self._launch)
        return room

    def _open(self, notebook_id: str, journal: str | None) -> bool:
        """Open the room at the host; whether it is.  May run on a worker thread: the host is made for that."""
        prepared = False
        try:
            self._prepare(notebook_id, journal)
            prepared = True
            # Before the first peer sees the document: a client of the reference fills an empty one by itself (7.3).
            file = self._files.attach(notebook_id, None if journal is None else journal + ".base")
            if file is not None:
                file.fill()
            self._host.admit(notebook_id)
            return True
        except Exception as error:
            log.error("room %r cannot be opened: %s", notebook_id, error)
            for undo in (self._host.close_room, self._host.refuse_room) if prepared else (self._host.refuse_room,):
                try:
                    undo(notebook_id)
                except Exception as second:
                    log.warning("room %r: nor can that be undone: %s", notebook_id, second)
        return False

    def _prepare(self, notebook_id: str, journal: str | None) -> None:
        try:
            self._host.prepare_room(notebook_id, journal)
        except CorruptError as error:
            if journal is None:
                raise
            note = f"{journal} could not be read ({error}); kept as {paths.set_aside(journal)}"
            self._kept[notebook_id] = note
            log.error("room %r: %s", notebook_id, note)
            self._host.prepare_room(notebook_id, journal)

    def joined(self, notebook_id: str, peer: int, count: int) -> None:
        """A peer has entered; for the first one of a room a kernel may start by itself (9.5)."""
        timer = self._evictions.pop(notebook_id, None)
        if timer is not None:
            timer.cancel()
        room = self._rooms.get(notebook_id) or self._add(notebook_id)
        room.enter(peer)
        if count == 1 and room.kernel is None and room.launching is None:
            self._tasks.spawn(self._launch_automatically(room))

    async def _launch_automatically(self, room: Room) -> None:
        request = await asyncio.get_running_loop().run_in_executor(None, self._automatic, room.notebook_id)
        if request is not None and room.peers and room.kernel is None and self._rooms.get(room.notebook_id) is room:
            room.launch(request, lambda failure: None)

    def left(self, notebook_id: str, peer: int) -> None:
        """A peer has gone; an empty room is evicted after a while."""
        room = self._rooms.get(notebook_id)
        if room is None:
            return
        room.peers.discard(peer)
        if not room.peers:
            self._emptied(notebook_id)

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

    def _emptied(self, notebook_id: str) -> None:
        self._evict_later(notebook_id)
        if self._directory is None:
            return  # What is in such rooms is nowhere else.
        # The longest empty first.
        idle = [name for name in self._evictions if not (self._rooms[name].kernel or self._rooms[name].working)]
        for name in idle[: max(0, len(idle) - EMPTY_LIMIT)]:
            self._evictions[name].cancel()
            self._evict(name)

    def _evict_later(self, notebook_id: str) -> None:
        if self._eviction_delay is None or notebook_id in self._evictions:
            return
        loop = asyncio.get_running_loop()
        self._evictions[notebook_id] = loop.call_later(self._eviction_delay, self._evict, notebook_id)

    def _evict(self, notebook_id: str) -> None:
        # The room is there and empty: entering or removing it cancels the timer.
        del self._evictions[notebook_id]
        room = self._rooms[notebook_id]
        if room.working or self._entered(notebook_id):
            self._evict_later(notebook_id)
            return
        # Its kernel first: what that has printed last is still to be written.
        room.stop_kernel(_CLOSED)
        try:
            evicted = self._host.evict_room(notebook_id)
        except Exception as error:
            log.warning("room %r cannot be closed: %s", notebook_id, error)
            evicted = True
        if not evicted:
            # A peer has entered at this moment; it was notified that the kernel is gone.
            self._evict_later(notebook_id)
            return
        log.info("room %r is evicted", notebook_id)
        self._remove(notebook_id, _CLOSED)

    def _entered(self, notebook_id: str) -> bool:
        """Whether the host has a peer in the room whose event is still queued."""
        return any(entry["notebook_id"] == notebook_id and entry["peers"] for entry in self._host.rooms())

    def _remove(self, notebook_id: str, reason: str) -> None:
        timer = self._evictions.pop(notebook_id, None)
        if timer is not None:
            timer.cancel()
        self._files.detach(notebook_id)
        room = self._rooms.pop(notebook_id, None)
        if room is None:
            return
        room.stop_kernel(reason)
        for ending in room.endings:
            self._endings.hold(ending)

    async def close(self, reason: str, timeout: float) -> None:
        """Stop every kernel; those that do not end within ``timeout`` seconds are left to their own death watch."""
        for notebook_id in list(self._rooms):
            self._remove(notebook_id, reason)
        self._tasks.cancel()
        # Nothing may touch the host any more when this returns.
        await self._files.close(timeout)
        await asyncio.gather(self._endings.settle(timeout), self._tasks.settle(timeout))
