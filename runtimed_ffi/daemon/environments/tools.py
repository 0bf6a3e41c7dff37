"""External programs that make environments: run with a deadline, ended as a group, their last words kept.

Storey: daemon (7).  Nothing here knows which program it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

from runtimed_ffi.daemon.processes import StderrTail, describe_exit, watch_process

_BACKGROUND_NICENESS = 10
"""Work that no launch waits for must not slow down work that one does."""

FINDING = threading.Lock()
"""Held while a wheel is asked where its program is: it asks ``sysconfig``, whose first use is not safe in threads."""

_REAP_LIMIT = 5.0
"""Seconds a killed process may take to be gone; one that hangs in the kernel is left to its watcher."""


class ToolMissing(Exception):
    """A program is not installed.  The text says what to install."""


class ToolError(Exception):
    """A program failed.

    ``reason`` is how it ended (``exit code 1``, ``not finished after 60 s``), ``output`` the end of what it printed.
    """

    def __init__(self, program: str, reason: str, output: str) -> None:
        self.program = program
        self.reason = reason
        self.output = output
        super().__init__(f"{program}: {reason}" + (f"\n{output}" if output else ""))


async def run(
    command: Sequence[str],
    limit: float,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    background: bool = False,
) -> str:
    """Run a program to its end and return the last 4 KiB of what it wrote to stdout and stderr.

    It gets no standard input and its own process group, which is killed when it has not ended after ``limit`` seconds,
    when the caller is cancelled, and when it ends and leaves children behind.  ``background`` lowers its priority.
    ``env`` replaces the environment.

    Raises:
        ToolError: It cannot be started, fails or takes too long.
    """
    name = os.path.basename(command[0])
    loop = asyncio.get_running_loop()
    tail = StderrTail(loop)
    write = tail.open()
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=write,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        tail.close()
        raise ToolError(name, error.strerror or str(error), "") from error
    finally:
        os.close(write)
    exited: asyncio.Future[int | None] = loop.create_future()
    watch_process(process, lambda code: None if exited.done() else exited.set_result(code))
    if background:
        _step_back(process.pid)
    try:
        await asyncio.wait({exited}, timeout=limit)
        if not exited.done():
            raise ToolError(name, f"not finished after {limit:g} s", tail.text())
        code, output = exited.result(), tail.text()
    finally:
        if not exited.done():
            with contextlib.suppress(OSError):  # It ends at this moment.
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.wait({exited}, timeout=_REAP_LIMIT)
        tail.close()
    if code != 0:
        raise ToolError(name, describe_exit(code), output)
    return output


def _step_back(leader: int) -> None:
    """Let a session run when others do not want to, if it has not ended already."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PGRP, leader, _BACKGROUND_NICENESS)
    # Linux divides the time among sessions before it looks at the niceness of processes (sched(7), "autogroup").
    with contextlib.suppress(OSError), open(f"/proc/{leader}/autogroup", "w") as group:
        group.write(str(_BACKGROUND_NICENESS))
