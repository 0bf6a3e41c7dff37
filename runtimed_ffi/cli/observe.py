"""What can be known about a daemon from outside: its lock, its socket, its process, its own words.

Storey 8 (command line). None of the sources is trusted alone: ``daemon.json`` may be missing or left by a dead
process, the socket file too, and a daemon may hold its lock without answering. The lock decides whether one runs.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from typing import Any, NamedTuple

import psutil

from runtimed_ffi._client.wire import Deadline, WireConnection, accepts
from runtimed_ffi.errors import RuntimedError
from runtimed_ffi.places import Layout, is_locked, read_info

# PyPy has no name for it; this is its number on Linux.
_PEER_CREDENTIALS = getattr(socket, "SO_PEERCRED", 17)

ANSWER_SECONDS = 5.0
"""Seconds a daemon may take for its report."""

_PROGRAMS = ("runtimed", "runtimed-ffi")


class Observation(NamedTuple):
    """A daemon as seen from outside."""

    locked: bool
    """A process holds the lock."""
    accepts: bool
    """A process accepts connections at the socket."""
    report: dict[str, Any] | None
    """The daemon's report (`daemon.report`); `None` without an answer, empty from a daemon that is not ours."""
    stats: dict[str, Any]
    """The statistics of its pools (protocol 2, section 4.2)."""
    pid: int | None
    """The process, as far as it is known and lives."""

    @property
    def running(self) -> bool:
        """Whether a daemon runs, as far as can be seen."""
        return self.locked or self.accepts


def observe(paths: Layout) -> Observation:
    """Look at a daemon.  Takes at most :data:`ANSWER_SECONDS`; changes nothing."""
    locked, listening = is_locked(paths.lock), accepts(paths.socket) is None
    report, stats = _ask(paths.socket) if listening else (None, {})
    pid = (report or {}).get("pid")
    if pid is None and listening:
        pid = _listener(paths.socket)
    if pid is None and locked:
        pid = read_info(paths.info).get("pid")
    return Observation(locked, listening, report, stats, pid if _lives(pid) else None)


def is_ours(pid: int) -> bool:
    """Whether a process is a daemon of this package, so that killing it kills what was meant."""
    try:
        process = psutil.Process(pid)
        words = process.cmdline()
        mine = process.uids().real == os.getuid()
    except psutil.Error:
        return False
    return mine and any(word == "runtimed_ffi" or os.path.basename(word) in _PROGRAMS for word in words)


def holders(path: str) -> list[int]:
    """Processes of this user that have a file open, for instance a lock."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(file.path == path for file in process.open_files()):
                found.append(process.pid)
        except psutil.Error:
            continue  # Another user's, or gone.
    return found


def _ask(path: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    try:
        with WireConnection(path, {"channel": "pool"}) as wire:
            deadline = Deadline(ANSWER_SECONDS)
            wire.send({"type": "status", "details": True}, deadline)
            answer = json.loads(wire.receive(deadline))
    except (OSError, EOFError, ValueError, RuntimedError):
        return None, {}
    if not isinstance(answer, dict) or not isinstance(answer.get("stats"), dict):
        return None, {}
    report = answer.get("daemon", {})
    return (report if isinstance(report, dict) else {}), answer["stats"]


def _listener(path: str) -> int | None:
    """The process that listens on a socket, as the system knows it (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(ANSWER_SECONDS)
        try:
            probe.connect(path)
            pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, _PEER_CREDENTIALS, 12))
        except OSError:
            return None
    return int(pid) or None


def _lives(pid: object) -> bool:
    """Whether it is the number of a process; to `os.kill` others mean a group of processes, or all of them."""
    return isinstance(pid, int) and 0 < pid < 2**31 and psutil.pid_exists(pid)
