"""The start and the end of a daemon.

Storey 8 (command line). ``start`` returns when clients can connect, ``stop`` when the lock is free again: then the
daemon has saved, stopped its kernels and removed its files.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
from collections.abc import Sequence

from runtimed_ffi._client.autostart import ensure_running
from runtimed_ffi._system.filelock import acquire
from runtimed_ffi._system.permissions import Unsafe, make_base
from runtimed_ffi.cli.observe import Observation, holders, is_ours, observe
from runtimed_ffi.cli.parser import parse, run_options
from runtimed_ffi.errors import ConnectError
from runtimed_ffi.places import Layout, daemon_command, is_locked

KILL_SECONDS = 5.0
"""How long a killed process may take to be gone."""


def start(paths: Layout, arguments: argparse.Namespace) -> int:
    """Start a daemon in the background unless one runs."""
    return _start(paths, run_options(arguments))


def _start(paths: Layout, options: Sequence[str]) -> int:
    try:
        make_base(paths)
        started = ensure_running(paths.socket, daemon_command(*options), paths.log)
    except (ConnectError, Unsafe, OSError) as error:
        return _failed(f"{error}{_obstacle(paths)}")
    pid = observe(paths).pid
    print(f"{'started' if started else 'already running'} (pid {pid or 'unknown'})")
    print(f"socket: {paths.socket}\nlog: {paths.log}")
    return 0


def stop(paths: Layout, *, limit: float, force: bool) -> int:
    """End the daemon that runs, if any.

    ``limit`` is in seconds.  After it the daemon is left alone, or with ``force`` killed: no document suffers, as each
    change is saved when it is made, but kernels and files may stay until the next start.
    """
    seen = observe(paths)
    if not seen.running:
        print("not running")
        return 0
    if seen.pid is None:
        return _failed(f"something holds {paths.lock}, but which process is the daemon is unknown{_obstacle(paths)}")
    try:
        os.kill(seen.pid, signal.SIGTERM)
    except ProcessLookupError:
        pass  # It ended by itself.
    except PermissionError:
        return _failed(f"the daemon (pid {seen.pid}) belongs to another user")
    if _freed(paths.lock, limit):
        print("stopped")
        return 0
    if not force:
        return _failed(f"the daemon (pid {seen.pid}) did not end within {limit:g} s; --force kills it")
    return _kill(paths, seen)


def restart(paths: Layout, arguments: argparse.Namespace) -> int:
    """Stop the daemon that runs, and start one with its options; those of this command line win."""
    before = (observe(paths).report or {}).get("arguments", [])
    stopped = stop(paths, limit=arguments.timeout, force=arguments.force)
    if stopped != 0:
        return stopped
    options = run_options(parse(["run", *map(str, before), *run_options(arguments)]))
    return _start(paths, options)


def _kill(paths: Layout, seen: Observation) -> int:
    assert seen.pid is not None
    if not is_ours(seen.pid):
        return _failed(f"process {seen.pid} does not look like a daemon; it is not killed")
    os.kill(seen.pid, signal.SIGKILL)
    if not _freed(paths.lock, KILL_SECONDS):
        return _failed(f"the daemon (pid {seen.pid}) was killed, but its lock is still held{_obstacle(paths)}")
    print("killed")
    return 0


def _freed(path: str, seconds: float) -> bool:
    """Wait until a lock is free, at most some seconds, and return whether it is."""
    if not os.path.exists(path):
        return True
    with open(path) as lock:
        # Shared: it does not disturb a daemon that starts at this moment.
        return acquire(lock.fileno(), fcntl.LOCK_SH, seconds)


def _obstacle(paths: Layout) -> str:
    """The processes that hold the lock of a daemon that is not there, in words."""
    if not is_locked(paths.lock):
        return ""
    found = holders(paths.lock)
    if not found:
        return f"\n{paths.lock} is held by a process of another user"
    return f"\n{paths.lock} is held by process {', '.join(map(str, found))}; end it first"


def _failed(text: str) -> int:
    print(f"runtimed-ffi: {text}", file=sys.stderr)
    return 1
