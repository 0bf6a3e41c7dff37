"""One execution of a cell.

Storey: daemon (7).  Source: protocol 2, sections 5.9 to 5.12.
"""

from __future__ import annotations

from runtimed_ffi.daemon.ports import Json
from runtimed_ffi.daemon.rooms.writer import OutputTarget

_REASON_LIMIT = 1000
"""Characters of the reason of a failure."""


class Run:
    """One execution of a cell, from the request to its ``execution_done``."""

    __slots__ = (
        "code",
        "fence_id",
        "fence_idle",
        "fence_reply",
        "idle",
        "interrupt_at_start",
        "interrupted",
        "interrupted_before",
        "msg_id",
        "peer",
        "reply",
        "started",
        "target",
    )

    def __init__(self, target: OutputTarget, code: str, peer: int) -> None:
        self.target = target
        self.code = code
        self.peer = peer
        self.msg_id = ""
        self.started = False
        self.idle = False
        self.reply: Json | None = None
        self.interrupted = False
        self.interrupted_before: Run | None = None
        """The interrupted execution that was at the kernel when this one was requested."""
        self.interrupt_at_start = False
        self.fence_id = ""
        self.fence_reply = False
        self.fence_idle = False

    @property
    def cell_id(self) -> str:
        """The cell."""
        return self.target.cell_id

    @property
    def execution_id(self) -> str:
        """What peers know the execution by."""
        return self.target.execution_id

    def outcome(self) -> tuple[str, str]:
        """Status and reason of the execution, once it has ended at the kernel."""
        reply = self.reply
        if reply is None:
            status = "interrupted" if self.interrupted else "error"
            return status, "the kernel went idle without a reply"
        if reply.get("status") == "ok":
            return "ok", ""
        if reply.get("status") == "error":
            name, value = str(reply.get("ename") or "error"), str(reply.get("evalue") or "")
            reason = f"{name}: {value}"[:_REASON_LIMIT] if value else name
            return ("interrupted" if self.interrupted and name == "KeyboardInterrupt" else "error"), reason
        return ("interrupted" if self.interrupted else "cancelled"), "the kernel aborted the execution"
