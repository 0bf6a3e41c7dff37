"""What a ``status`` request can ask about the daemon: memory, descriptors, rooms, kernels.

Storey: daemon (7).  It travels as the member ``daemon`` of the answer to a ``status`` request that has the member
``"details": true``; clients that do not know the members ignore them (protocol 2, section 14.4).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from runtimed_ffi.daemon.limits import Limits
from runtimed_ffi.daemon.ports import Json
from runtimed_ffi.daemon.rooms.rooms import Rooms

if TYPE_CHECKING:
    from runtimed_ffi.host import Host


class Report:
    """Collects the facts.  On the loop's thread; what asks the system runs on another.

    Args:
        facts: What does not change while the daemon runs: the members of ``daemon.json``, paths, version.
    """

    def __init__(self, host: Host, rooms: Rooms, limits: Limits, facts: Json) -> None:
        self._host = host
        self._rooms = rooms
        self._limits = limits
        self._facts = facts
        self._started = time.monotonic()

    async def collect(self) -> Json:
        """All facts: sizes in bytes, times in seconds."""
        rooms = [self._room(entry) for entry in self._host.rooms()]
        kernels = [room["kernel"] for room in rooms if room["kernel"] is not None]
        pids = [kernel["pid"] for kernel in kernels if kernel["pid"] is not None]
        loop = asyncio.get_running_loop()
        memory, descriptors = await loop.run_in_executor(None, _measure, [os.getpid(), *pids])
        for kernel in kernels:
            kernel["memory_bytes"] = memory.get(kernel["pid"])
        return {
            **self._facts,
            "python": "{} {}.{}.{}".format(sys.implementation.name, *sys.version_info[:3]),
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "memory_bytes": memory.get(os.getpid()),
            "descriptors": {"open": descriptors, "limit": self._limits.descriptors},
            "peers": {"in_rooms": sum(room["peers"] for room in rooms), "limit": self._limits.peers},
            "rooms": rooms,
        }

    def _room(self, entry: Json) -> Json:
        room = self._rooms.get(entry["notebook_id"])
        facts = room.kernel_facts() if room is not None else None
        if room is not None and facts is not None:
            facts = {**facts, "pid": None if room.kernel is None else room.kernel.process_id, "memory_bytes": None}
        return {"notebook_id": entry["notebook_id"], "peers": entry["peers"], "kernel": facts}


def _measure(pids: Sequence[int]) -> tuple[dict[int, int], int | None]:
    """Resident memory of processes, as far as they are there, and the open descriptors of the first, this one."""
    # Imported late: most daemons never need it.
    import psutil

    memory = {}
    for pid in pids:
        try:
            memory[pid] = int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            continue  # It has ended meanwhile.
    try:
        return memory, int(psutil.Process().num_fds())
    except psutil.Error:
        return memory, None
