"""The log: where it goes, its two forms, and which room and peer a record is about.

Storey: daemon (7).  A record gets the room and the peer from the event that is being handled, and what that event
started (tasks, timers, watched descriptors) inherits them, so that no call has to name them.
"""

from __future__ import annotations

import contextvars
import datetime
import json
import logging
import logging.handlers
import os
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

FIELDS = ("room", "peer", "kernel")
"""Members of a record in the JSON form, beside time, level, logger and message; absent when they do not apply.
``kernel`` is the process id."""

_FILE_BYTES = 5 * 1024 * 1024
"""The log file is renamed to ``runtimed.log.1`` at this size."""

_LEVELS = {"trace": "DEBUG", "debug": "DEBUG", "info": "INFO", "warn": "WARNING", "error": "ERROR"}

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_subject: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar("subject", default=_NOTHING)


def about(**fields: Any) -> dict[str, Any]:
    """Let the records made from here on, in this context, carry these fields instead of those before.

    Returns the mapping: what is put into it later is carried as well, also by what has started meanwhile.
    """
    _subject.set(fields)
    return fields


def subject() -> Mapping[str, Any]:
    """The fields of this context."""
    return _subject.get()


class _AddSubject(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in _subject.get().items():
            if name in FIELDS and name not in record.__dict__:
                setattr(record, name, value)
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one JSON object."""
        moment = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        members: dict[str, Any] = {
            "time": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        members.update((name, record.__dict__[name]) for name in FIELDS if name in record.__dict__)
        if record.exc_info:
            members["exception"] = self.formatException(record.exc_info)
        return json.dumps(members, ensure_ascii=False, default=str)


def open_log(path: str, level: str | None, form: str = "text") -> None:
    """Send the package's records to a file (mode 0600), and to standard error unless that is the same file.

    ``level`` is one of trace, debug, info, warn, error; ``None`` asks ``RUST_LOG``, as the reference does, then info.
    """
    chosen = _LEVELS.get((level or os.environ.get("RUST_LOG", "")).lower(), "INFO")
    mask = os.umask(0o077)
    try:
        to_file = logging.handlers.RotatingFileHandler(path, maxBytes=_FILE_BYTES, backupCount=1, encoding="utf-8")
    finally:
        os.umask(mask)
    handlers: list[logging.Handler] = [to_file]
    # A daemon in the background has the log as its standard error: each line belongs there once.
    if not os.path.samestat(os.stat(path), os.fstat(2)):
        handlers.append(logging.StreamHandler(sys.stderr))
    formatter: logging.Formatter = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    if form == "json":
        formatter = JsonFormatter()
    logger = logging.getLogger("runtimed_ffi")
    logger.setLevel(chosen)
    for handler in handlers:
        handler.setFormatter(formatter)
        handler.addFilter(_AddSubject())
        logger.addHandler(handler)
