"""Notices when another program changes a file.

Storey: daemon (7).  A thin use of ``watchdog``, which knows how each system reports changes.  Where a system cannot
(no more inotify watches, a network file system), nothing is lost: a file is checked before it is replaced.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Callable, NamedTuple

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver, ObservedWatch

log = logging.getLogger(__name__)

_CHANGES = frozenset(("created", "modified", "moved", "deleted", "closed"))
"""The events that a change makes; opening and reading are none, and our own reading must not look like a change."""


class _Watched(NamedTuple):
    directory: str
    name: str
    path: str


class Watcher:
    """Watches files by their directories.

    ``changed`` is called with the path that was given to ``watch``, on a thread of the watcher, which must not be
    blocked.  The other methods may be called from any thread but that one, and may wait for it.
    """

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        # Held while the observer is called. It calls us with a lock of its own held, so `_on_event` never
        # takes this one: it reads `_watched`, which is replaced and never changed.
        self._lock = threading.Lock()
        self._observer: BaseObserver | None = None
        self._directories: dict[str, ObservedWatch] = {}
        self._watched: dict[object, _Watched] = {}
        self._closed = False

    def watch(self, owner: object, path: str) -> None:
        """Watch for when the file at ``path`` changes, appears or goes; a link's target is meant.  Never raises."""
        directory, name = os.path.split(os.path.realpath(path))
        with self._lock:
            if self._closed:
                return
            try:
                if directory not in self._directories:
                    self._directories[directory] = self._schedule(directory)
            except OSError as error:
                log.warning("%s is not watched, its changes are noticed when it is saved: %s", path, error)
                return
            self._watched = {**self._watched, owner: _Watched(directory, name, path)}

    def forget(self, owner: object) -> None:
        """Stop reporting changes of the owner's file.  Idempotent."""
        with self._lock:
            rest = dict(self._watched)
            gone = rest.pop(owner, None)
            self._watched = rest
            if gone is None or any(watched.directory == gone.directory for watched in rest.values()):
                return
            watch = self._directories.pop(gone.directory)
            if self._observer is not None:
                self._observer.unschedule(watch)

    def close(self) -> None:
        """End the watcher's threads; waits for them.  Idempotent."""
        with self._lock:
            self._closed = True
            observer, self._observer = self._observer, None
            self._directories.clear()
            self._watched = {}
            if observer is not None:
                observer.stop()
                observer.join()

    def _schedule(self, directory: str) -> ObservedWatch:
        # Imported late: most daemons never watch anything.
        from watchdog.events import FileSystemEventHandler
        from watchdog.observers import Observer

        if self._observer is None:
            self._observer = Observer()
            self._observer.daemon = True
            self._observer.start()
        handler = FileSystemEventHandler()
        handler.on_any_event = self._on_event  # type: ignore[method-assign]
        return self._observer.schedule(handler, directory, recursive=False)

    def _on_event(self, event: FileSystemEvent) -> None:
        if event.event_type not in _CHANGES:
            return
        places = {os.path.split(os.fsdecode(path)) for path in (event.src_path, event.dest_path)}
        for path in {watched.path for watched in self._watched.values() if watched[:2] in places}:
            self._changed(path)
