"""The state of the state machine of rooms: its peers and the edits they made."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections import Counter
from typing import Any, ClassVar

from hypothesis.stateful import RuleBasedStateMachine

from runtimed_ffi.testing import peers as raw
from runtimed_ffi.testing.replicas import Replica
from runtimed_ffi.testing.wire import Json
from stress import model
from stress.daemon_process import DaemonProcess

BLOCKED, DEAF = "\N{BULLET}blocked", "\N{BULLET}deaf"
"""What a script shows before it blocks or goes deaf, so that `calm` knows what it needs."""


class Cell:
    """One cell according to the edits."""

    def __init__(self, cell_id: str, code: bool, owner: Member) -> None:
        self.cell_id = cell_id
        self.code = code
        self.owner = owner
        """The peer that may set the source of a code cell."""
        self.tokens: set[str] = set()
        self.sources: list[str] = [""]
        self.gone = False
        self.doubted = False
        """A peer left while an edit of it was on its way."""
        self.mover: Member | None = None
        self.editors: set[Member] = set()
        """Since the last calm. A move is a copy: concurrent edits go to the old cell (as in the reference)."""


class Member:
    """A peer, and what it has sent that is not confirmed yet."""

    def __init__(self, peer: raw.Peer) -> None:
        self.peer = peer
        self.unconfirmed: list[tuple[str, Cell, str]] = []
        self.requests: dict[int, tuple[str, str, str]] = {}
        """Action, cell and source (as this peer had it) by request number."""


class RoomState(RuleBasedStateMachine):
    """The state, without rules."""

    daemon: ClassVar[DaemonProcess]
    tally: ClassVar[Counter[str]] = Counter()
    """What has happened in all examples, so that rules without effect are noticed."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.room = f"machine/{uuid.uuid4()}"
        self.members: list[Member] = []
        self.left: list[Member] = []
        self.documents: list[tuple[Replica, Member]] = []
        self.cells: dict[str, Cell] = {}
        self.strangers: list[socket.socket] = []
        self.serial = 0
        self.interrupts = self.shutdowns = self.kills = 0
        self.cleared_by_request: set[str] = set()
        self.log_at = os.path.getsize(self.daemon.log)
        self.blobs = model.Blobs(self.daemon.base / "blobs")
        self.screen = model.Screen(self.blobs)
        self.fifo_path = str(self.daemon.base.parent / f"fifo-{uuid.uuid4().hex[:8]}")
        os.mkfifo(self.fifo_path)
        self.fifo = os.open(self.fifo_path, os.O_RDWR | os.O_NONBLOCK)

    # -- helpers

    def text(self, prefix: str = "t") -> str:
        self.serial += 1
        return f"{prefix}{self.serial}"

    def member(self, peer_index: int) -> Member:
        return self.members[peer_index % len(self.members)]

    def pick(self, member: Member, which: int, code: bool | None = None) -> Cell | None:
        """A cell that this peer sees."""
        seen = [self.cells[cell["id"]] for cell in member.peer.document.cells()]
        cells = [cell for cell in seen if code is None or cell.code == code]
        return cells[which % len(cells)] if cells else None

    def source(self, member: Member, cell: Cell) -> str:
        found = member.peer.document.cell(cell.cell_id)
        assert found is not None
        return str(found["source"])

    def edit(self, member: Member, kind: str, cell: Cell, detail: str, *ops: Json) -> None:
        cell.editors.add(member)
        member.unconfirmed.append((kind, cell, detail))
        member.peer.edit(*ops)

    def may_edit(self, member: Member, cell: Cell) -> bool:
        return cell.mover in (None, member)

    def post(self, member: Member, action: str, cell: Cell | None = None, **members: Any) -> None:
        if cell is not None:
            members["cell_id"] = cell.cell_id
        source = self.source(member, cell) if cell is not None else ""
        number = member.peer.post(action, **members)
        member.requests[number] = (action, "" if cell is None else cell.cell_id, source)

    def all_peers(self) -> list[raw.Peer]:
        return [self.witness, self.bystander, *(member.peer for member in self.members)]

    def witness_kernel(self) -> bool:
        return raw.ask(self.witness, "get_kernel_info", others=self.all_peers())["status"] != "not_started"
