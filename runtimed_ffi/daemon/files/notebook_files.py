"""The notebook files of all open rooms, seen from the loop: worker threads do what may take as long as the disk does.

Storey: daemon (7).  Which ids name files is said in ``paths``; what happens with one file in ``notebook_file``.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Callable

from runtimed_ffi.daemon.files import paths
from runtimed_ffi.daemon.files.paths import FileError
from runtimed_ffi.daemon.files.watching import Watcher

if TYPE_CHECKING:
    from runtimed_ffi.blobs import Blobs
    from runtimed_ffi.daemon.files.notebook_file import NotebookFile
    from runtimed_ffi.host import Host

log = logging.getLogger(__name__)

WORKERS = 4
"""Threads for opening and saving.  A disk that hangs holds up the rooms behind it, and nothing else."""


class NotebookFiles:
    """The files.  Methods are for the loop's thread but for ``attach``.

    Args:
        new_mode: Mode of a notebook file that a save creates.
    """

    def __init__(self, host: Host, blobs: Blobs, new_mode: int = 0o600) -> None:
        self._host = host
        self._blobs = blobs
        self._new_mode = new_mode
        self._loop = asyncio.get_running_loop()
        self._workers = ThreadPoolExecutor(WORKERS, "notebook-files")
        self._watcher = Watcher(self._on_change)
        self._files: dict[str, NotebookFile] = {}
        self._refreshing: dict[str, bool] = {}
        """Rooms whose file is being read; true: it has changed again meanwhile."""

    def run(self, work: Callable[..., Any], *arguments: object) -> asyncio.Future[Any]:
        """Do something on a worker thread."""
        return self._loop.run_in_executor(self._workers, work, *arguments)

    def attach(self, notebook_id: str, base: str | None) -> NotebookFile | None:
        """The file of a room that is being opened, ``None`` if the id names none.  On a worker thread.

        ``base`` is the file that remembers what was loaded and saved (``bases``).
        """
        path = paths.path_of(notebook_id)
        if path is None:
            return None
        # Imported late: nbformat takes longer than everything else before the first client can connect.
        from runtimed_ffi.daemon.files.notebook_file import FileLocation, NotebookFile

        file = NotebookFile(FileLocation(notebook_id, path, base, self._new_mode), self._host, self._blobs)
        self._files[notebook_id] = file
        self._watcher.watch(file, path)
        return file

    def detach(self, notebook_id: str) -> None:
        """The room is closed."""
        file = self._files.pop(notebook_id, None)
        if file is not None:
            file.close()
            self.run(self._watcher.forget, file)

    def problem(self, notebook_id: str) -> str | None:
        """Why the file of an open room cannot be read at present."""
        file = self._files.get(notebook_id)
        return file.problem if file is not None else None

    async def save(self, notebook_id: str) -> None:
        """Write an open room into its file.  Raises ``FileError``."""
        file = self._files.get(notebook_id)
        if file is None:
            raise FileError(f"the room has no file: {notebook_id} is no normalised absolute path that ends in .ipynb")
        await self.run(file.save)

    async def close(self, timeout: float) -> None:
        """End all work on files, at most ``timeout`` seconds for what is being done now."""
        for notebook_id in list(self._files):
            self.detach(notebook_id)
        end = self._loop.run_in_executor(None, self._end)
        await asyncio.wait({end}, timeout=timeout)

    def _end(self) -> None:
        self._watcher.close()
        self._workers.shutdown(wait=True)

    # -- changes by others

    def _on_change(self, path: str) -> None:
        """On the watcher's thread."""
        try:
            self._loop.call_soon_threadsafe(self._look, path)
        except RuntimeError:
            log.debug("the loop has ended; a change of %s is looked at when its room opens again", path)

    def _look(self, notebook_id: str) -> None:
        # The id of a room with a file is its path.
        file = self._files.get(notebook_id)
        if file is None:
            return
        if notebook_id in self._refreshing:
            self._refreshing[notebook_id] = True
            return
        self._refreshing[notebook_id] = False
        self.run(_refresh, file).add_done_callback(lambda done: self._looked(notebook_id, done))

    def _looked(self, notebook_id: str, done: asyncio.Future[Any]) -> None:
        again = self._refreshing.pop(notebook_id, False)
        if not done.cancelled() and done.exception() is not None:
            log.error("room %r: its file could not be merged", notebook_id, exc_info=done.exception())
        if again:
            self._look(notebook_id)


def _refresh(file: NotebookFile) -> None:
    before = file.problem
    try:
        file.refresh()
    except FileError as error:
        if file.problem != before:
            log.warning("%s; the room goes on, the file is not touched", error)
