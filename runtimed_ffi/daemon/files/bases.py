"""The base of a notebook file: what file and document were when they were last the same.

Storey: daemon (7).  Kept beside the room's journal, so that a change of the file is recognised after a restart too.
"""

from __future__ import annotations

import json
import logging
from typing import Any, NamedTuple

from runtimed_ffi.daemon.files import atomic, paths
from runtimed_ffi.daemon.ports import Json

log = logging.getLogger(__name__)

_VERSION = 1


class Base(NamedTuple):
    """What file and document were when they were last the same."""

    heads: bytes
    """Heads of the document, 32 bytes each."""
    digest: str
    """SHA-256 of the file, in hex."""
    extras: Json
    """Members of the file that the document has no place for, but for those of cells."""
    cell_extras: dict[str, Json]
    """The same of each cell, by its id."""
    earlier: tuple[bytes, str] | None = None
    """Heads and digest before, while file or document are being changed: after a crash it is the one or the other.
    Empty ones: there was no base before."""

    def settled(self, digest: str, contained: bool) -> Base:
        """The base in view of what the file is and whether the document has its heads.

        After a crash in the middle it may be the earlier one; when that cannot be decided, it is the earlier one: then
        what happened since is merged twice, and nothing is lost.
        """
        if self.earlier is None or (digest == self.digest and contained):
            return self._replace(earlier=None)
        return self._replace(heads=self.earlier[0], digest=self.earlier[1], earlier=None)


class BaseStore:
    """The file that holds the base of one room.  ``path`` is ``None``: it is only remembered.

    Not thread-safe: its notebook file guards it.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._base: Base | None = None

    def load(self) -> Base | None:
        """The base, or ``None`` if there is none.  One that cannot be read is kept aside and reported."""
        if self._base is not None or self._path is None:
            return self._base
        try:
            with open(self._path, "rb") as file:
                self._base = _decoded(json.load(file))
        except FileNotFoundError:
            return None
        except OSError as error:
            log.error("%s cannot be read: %s", self._path, error)
            return None
        except (ValueError, KeyError, TypeError) as error:
            kept = paths.set_aside(self._path)
            log.error("%s is damaged (%s); kept as %s", self._path, error, kept)
            return None
        return self._base

    def remember(self, base: Base) -> None:
        """Remember the settled base; the file on disk means the same and stays as it is."""
        self._base = base

    def save(self, base: Base) -> None:
        """Keep a base, on disk when this returns.  Raises ``OSError``; the old one stays then."""
        if self._path is not None:
            atomic.replace(self._path, json.dumps(_encoded(base)).encode("ascii"))
        self._base = base


def _encoded(base: Base) -> Json:
    value: Json = {
        "version": _VERSION,
        "heads": base.heads.hex(),
        "digest": base.digest,
        "extras": base.extras,
        "cells": base.cell_extras,
    }
    if base.earlier is not None:
        value["earlier"] = {"heads": base.earlier[0].hex(), "digest": base.earlier[1]}
    return value


def _decoded(value: Any) -> Base:
    if value["version"] != _VERSION:
        raise ValueError(f"version {value['version']}")
    earlier = value.get("earlier")
    return Base(
        bytes.fromhex(value["heads"]),
        str(value["digest"]),
        dict(value["extras"]),
        {str(name): dict(extras) for name, extras in value["cells"].items()},
        None if earlier is None else (bytes.fromhex(earlier["heads"]), str(earlier["digest"])),
    )
