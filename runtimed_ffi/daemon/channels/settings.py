"""The settings: the document that peers share, the JSON file that mirrors it, and what the daemon itself uses.

Storey: daemon (7).  Source: protocol 2, section 11.1.  The document is the library's; the file is in
``settings_file``.  Everything on the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Callable, NamedTuple

from runtimed_ffi.daemon.channels.settings_file import SettingsFile
from runtimed_ffi.daemon.files.paths import set_aside
from runtimed_ffi.daemon.ports import RTD_E_IO, Json
from runtimed_ffi.host import ArgumentError, CorruptError

if TYPE_CHECKING:
    from runtimed_ffi.host import Host

log = logging.getLogger(__name__)


class Values(NamedTuple):
    """The settings that are defined, with their defaults."""

    theme: str = "system"
    """``system``, ``light`` or ``dark``; for user interfaces."""
    default_runtime: str = "python"
    """``python``, ``deno`` or another kernel: for a notebook that does not name one."""
    default_python_env: str = "uv"
    """``uv``, ``conda`` or another tool: where a Python kernel comes from when nothing else is said."""
    uv_packages: tuple[str, ...] = ()
    """Packages of every new ``uv`` environment, as requirements."""
    conda_packages: tuple[str, ...] = ()
    """Packages of every new conda environment."""

    @classmethod
    def of(cls, members: Json) -> Values:
        """From the form of ``Host.settings``, which has every member with its type."""
        return cls(
            members["theme"],
            members["default_runtime"],
            members["default_python_env"],
            tuple(members["uv"]["default_packages"]),
            tuple(members["conda"]["default_packages"]),
        )


class Settings:
    """The settings of this daemon.

    Args:
        document: The file of the document (``settings.automerge``).
        directory: Where ``settings.json`` and its schema are.
    """

    def __init__(self, host: Host, document: str, directory: str) -> None:
        self._host = host
        self._document = document
        self._file = SettingsFile(directory)
        self._values = Values()
        self._listeners: list[Callable[[Values], None]] = []
        self._starting: asyncio.Future[None] | None = None

    @property
    def values(self) -> Values:
        """The settings at this moment.  Read-only: they change through the document and the file."""
        return self._values

    @property
    def default_runtime(self) -> str:
        """See :class:`Values`, as the next three."""
        return self._values.default_runtime

    @property
    def default_python_env(self) -> str:
        """``uv``, ``conda`` or another tool."""
        return self._values.default_python_env

    @property
    def uv_packages(self) -> tuple[str, ...]:
        """Packages of every pooled uv environment."""
        return self._values.uv_packages

    @property
    def conda_packages(self) -> tuple[str, ...]:
        """Packages of every pooled conda environment."""
        return self._values.conda_packages

    def on_change(self, listener: Callable[[Values], None]) -> None:
        """Call ``listener`` with the new values after each change of them.  Its exceptions are logged."""
        self._listeners.append(listener)

    def open(self) -> None:
        """Open the document and take over what people wrote into the file meanwhile.

        An unreadable document is set aside and reported; the file then restores the settings.  Where no
        document can be written they are in memory only, which is reported: cells can still run.
        """
        try:
            self._open_document()
        except Exception as error:
            log.error("the settings cannot be saved in %s: %s", self._document, error)
            self._host.open_settings(None)
        try:
            self._file.prepare()
        except OSError as error:
            log.error("the settings file cannot be prepared: %s", error)
        self.read_file()

    def _open_document(self) -> None:
        try:
            self._host.open_settings(self._document)
        except CorruptError as error:
            kept = set_aside(self._document)
            log.error("the settings in %s cannot be read (%s); kept as %s", self._document, error, kept)
            self._host.open_settings(self._document)

    def changed(self) -> None:
        """Peers have changed the document: write the file and call the listeners."""
        # An edit of the file that we have not seen yet must not be overwritten.
        self._take_edits()
        self._file.write(self._refresh())

    def read_file(self) -> None:
        """The file may have changed: take over what people wrote.  The file itself is left as it is."""
        self._take_edits()
        self._refresh()

    def failed(self, code: int, reason: str) -> None:
        """Something is wrong with the document (``SETTINGS_FAILED``)."""
        if code == RTD_E_IO:
            log.error("the settings cannot be saved at present, free some space: %s", reason)
            return
        log.error("the settings failed and are served again: %s", reason)
        self.open()

    def watch(self) -> None:
        """Watch the file from now on.  Without a watch, which is reported, it is read at the next change only."""
        loop = asyncio.get_running_loop()
        self._starting = loop.run_in_executor(None, self._file.start_watching, loop, self.read_file)
        self._starting.add_done_callback(self._watching)

    def _watching(self, starting: asyncio.Future[None]) -> None:
        if starting.cancelled():
            return
        if starting.exception() is not None:
            log.warning("%s is not watched: %s", self._file.path, starting.exception())
        # Changes between the first read and the start of the watch.
        self.read_file()

    async def close(self) -> None:
        """Stop watching."""
        if self._starting is not None:
            await asyncio.wait({self._starting})
        self._file.stop_watching()

    def _take_edits(self) -> None:
        edits = self._file.edits()
        if not edits:
            return
        try:
            self._host.change_settings(edits)
            return
        except ArgumentError:
            pass
        except Exception:
            log.exception("the edits of %s cannot be used", self._file.path)
            return
        # A member that cannot be used must not cost the others.
        self._file.refused()
        for key, value in edits.items():
            try:
                self._host.change_settings({key: value})
            except Exception as error:
                log.error("%s: %s", self._file.path, error)

    def _refresh(self) -> Json:
        members = self._host.settings()
        values = Values.of(members)
        if values != self._values:
            self._values = values
            for listener in self._listeners:
                try:
                    listener(values)
                except Exception:
                    log.exception("a listener of the settings failed")
        return members
