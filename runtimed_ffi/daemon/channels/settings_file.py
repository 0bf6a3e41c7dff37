"""The settings as a JSON file that people edit, and the schema that helps their editors.

Storey: daemon (7).  Source: protocol 2, sections 1.4 and 11.1.  Only contents are compared, never
times, so no change can be missed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
from collections.abc import Mapping
from typing import Any, Callable

from runtimed_ffi.daemon.files import atomic
from runtimed_ffi.daemon.files.paths import set_aside
from runtimed_ffi.daemon.ports import Json

log = logging.getLogger(__name__)

NAME = "settings.json"
SCHEMA_NAME = "settings.schema.json"
SIZE_LIMIT = 1 << 20
"""Bytes; a larger file is no settings file and is reported as a broken one."""

_STRINGS = {"type": "array", "items": {"type": "string"}}
_TOOL = {
    "type": "object",
    "properties": {"default_packages": {**_STRINGS, "description": "Packages of new environments."}},
}
SCHEMA: Json = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "title": "Notebook settings",
    "type": "object",
    "properties": {
        "$schema": {"type": "string"},
        "theme": {"type": "string", "enum": ["system", "light", "dark"], "default": "system"},
        "default_runtime": {"type": "string", "examples": ["python", "deno"], "default": "python"},
        "default_python_env": {"type": "string", "examples": ["uv", "conda"], "default": "uv"},
        "uv": _TOOL,
        "conda": _TOOL,
    },
    "additionalProperties": True,
}
"""JSON schema of the file; members that it does not name are kept."""


class SettingsFile:
    """The file ``settings.json`` in ``directory``.  On the loop's thread, but for ``start_watching``."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, NAME)
        self._directory = directory
        self._seen: bytes | None = None
        self._base: Json = {}
        self._broken = False
        self._observer: Any = None

    def prepare(self) -> None:
        """Make the directory and write the schema.  Raises ``OSError``."""
        os.makedirs(self._directory, 0o700, exist_ok=True)
        _replace(os.path.join(self._directory, SCHEMA_NAME), _dump(SCHEMA))

    def edits(self) -> Json:
        """What people changed in the file since it was last read or written; everything the first time.

        Members that were removed are not reported: they stay as they are.  A file that cannot be read or is broken is
        reported once per content, and yields no edits.
        """
        try:
            data = _read(self.path)
        except FileNotFoundError:
            self._seen, self._broken = None, False
            return {}
        except (OSError, ValueError) as error:
            log.error("%s cannot be read: %s", self.path, error)
            return {}
        if data == self._seen:
            return {}
        self._seen = data
        try:
            content = json.loads(data.decode("utf-8-sig"))
            if not isinstance(content, dict):
                raise ValueError("it is no object")
        except (ValueError, RecursionError) as error:
            self._broken = True
            # An editor that writes in place empties the file first; that is not an error.
            log.log(
                logging.ERROR if data else logging.DEBUG,
                "%s is broken and ignored until it is corrected: %s",
                self.path,
                error,
            )
            return {}
        self._broken = False
        edits = _difference(self._base, content)
        self._base = content
        return edits

    def refused(self) -> None:
        """Something in the file cannot be used: before the file is written, a copy is set aside."""
        self._broken = True

    def write(self, members: Mapping[str, Any]) -> None:
        """Write the settings, unless the file has them already.  A broken file is set aside first.

        The file is replaced at once and as a whole.  An error is reported; the next change tries again.
        """
        content = {**members, "$schema": "./" + SCHEMA_NAME}
        if content == self._base and self._seen is not None and not self._broken:
            return
        data = _dump(content)
        try:
            if self._broken and os.path.exists(self.path):
                log.error("%s was broken; kept as %s", self.path, set_aside(self.path))
            _replace(self.path, data)
        except OSError as error:
            log.error("%s cannot be written: %s", self.path, error)
            return
        self._seen, self._base, self._broken = data, content, False

    # -- watching

    def start_watching(self, loop: asyncio.AbstractEventLoop, on_change: Callable[[], None]) -> None:
        """Call ``on_change`` on the loop when the file may have changed.  Blocks for the start: for a worker thread.

        Raises:
            OSError: The system has no watch left.
        """
        # Imported late: the first client need not wait for it.
        from watchdog.events import FileSystemEvent, FileSystemEventHandler
        from watchdog.observers import Observer

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                # Reading makes events as well; answering them by reading would never end.
                if event.event_type not in ("created", "modified", "moved", "deleted", "closed"):
                    return
                paths = (event.src_path, getattr(event, "dest_path", ""))
                if any(os.path.basename(os.fsdecode(path)) == NAME for path in paths) and not loop.is_closed():
                    loop.call_soon_threadsafe(on_change)

        observer = Observer()
        observer.schedule(Handler(), self._directory)
        observer.start()
        self._observer = observer

    def stop_watching(self) -> None:
        """End the watcher's thread.  Idempotent."""
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            observer.join(2.0)


def _difference(base: Json, content: Json) -> Json:
    """The members of ``content`` that ``base`` has not, or has otherwise; objects member by member."""
    changed: Json = {}
    for key, value in content.items():
        known = base.get(key)
        if isinstance(value, dict) and isinstance(known, dict):
            inner = _difference(known, value)
            if inner:
                changed[key] = inner
        elif key not in base or known != value:
            changed[key] = value
    return changed


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read(SIZE_LIMIT + 1)
    if len(data) > SIZE_LIMIT:
        raise ValueError(f"it is larger than {SIZE_LIMIT} bytes")
    return data


def _dump(content: Json) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def _replace(path: str, data: bytes) -> None:
    """Replace the file behind a path.  A link stays a link, and the mode of the file stays as it was."""
    path = os.path.realpath(path)
    atomic.replace(path, data, stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else 0o600)
