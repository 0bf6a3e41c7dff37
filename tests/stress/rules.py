"""The rules of the state machine of rooms: peers that edit, run, interrupt and send garbage. They only send."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from runtimed_ffi.testing import peers as raw
from runtimed_ffi.testing.wire import Json, encode, frame
from stress import script
from stress.checks import Checks
from stress.daemon_process import KERNEL
from stress.room_state import BLOCKED, DEAF, Cell, Member

_BODY = st.sampled_from(
    (
        *("out", "out", "err", "show", "show", "result", "update", "update", "clear", "wait", "many", "lines", "comm"),
        *("page", "garbage", "blob", "order-idle"),
    )
)
_ENDS = st.sampled_from(((),) * 8 + (("fail",),) * 3 + (("block",),) * 2 + (("lose-reply",), ("lose-idle",)))
_RARE = st.sampled_from((("exit",), ("die",), ("deaf",)))
SCRIPTS = st.builds(
    # Steps that end a kernel are rare, so that other runs reach their end.
    lambda body, end, rare, choice: [*body, *(rare if choice == 0 else end)],
    st.lists(_BODY, max_size=6),
    _ENDS,
    _RARE,
    st.integers(0, 11),
)
INDEX = st.integers(0, 63)
GARBAGE = st.sampled_from(
    (
        *("noise", "huge", "text", "channel", "type", "empty", "sync", "request", "action", "half", "announce", "odd"),
        *("pool", "pool-text", "mute"),
    )
)
ENDS = {"huge", "text", "channel", "type", "empty", "sync", "request", "action", "pool-text"}
"""Garbage after which the connection must end; the other garbage may be the beginning of a valid message."""


PEERS = 4


class DaemonMachine(Checks):
    """A room of a daemon, its peers and strangers."""

    @initialize(scripts=st.lists(SCRIPTS, max_size=3), peers=st.integers(1, 2))
    def begin(self, scripts: list[list[str]], peers: int) -> None:
        self.witness = raw.join(self.daemon.socket, self.room)
        self.bystander = raw.join(self.daemon.socket, "bystander")
        for _ in range(peers):
            self.join(False)
        for verbs in scripts:
            self.add(self.members[0], "code", 9, verbs)

    def teardown(self) -> None:
        try:
            # After a failure there is nothing left to compare.
            if hasattr(self, "bystander") and sys.exc_info()[0] is None:
                self.calm()
                if self.witness_kernel():
                    raw.ask(self.witness, "shutdown_kernel")
        finally:
            for member in self.members:
                member.peer.close()
            for stranger in self.strangers:
                stranger.close()
            for name in ("witness", "bystander"):
                if hasattr(self, name):
                    getattr(self, name).close()
            os.close(self.fifo)
            os.unlink(self.fifo_path)

    # -- peers

    @precondition(lambda self: len(self.members) < PEERS)
    @rule(again=st.booleans())
    def join(self, again: bool) -> None:
        document, owner = self.documents.pop() if again and self.documents else (None, None)
        peer = raw.Peer(self.daemon.socket, self.room, document)
        raw.pump([peer, *self.all_peers()], lambda: peer.converged() or peer.ended, what="joining")
        assert not peer.ended, peer.ended
        member = Member(peer)
        if owner is not None:
            # What it had sent last may be lost with its connection; its replica brings it again.
            member.unconfirmed = owner.unconfirmed
            self.left.remove(owner)
            for cell in self.cells.values():
                if cell.owner is owner:
                    cell.owner = member
                if owner in cell.editors:
                    cell.editors.add(member)
                if cell.mover is owner:
                    cell.mover = member
        self.members.append(member)

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX, keep=st.booleans())
    def leave(self, peer_index: int, keep: bool) -> None:
        member = self.members.pop(peer_index % len(self.members))
        self.part(member)
        if keep:
            self.documents.append((member.peer.document, member))

    def part(self, member: Member) -> None:
        """The connection ends; what it received until then must be a piece of the room's broadcasts."""
        member.peer.close()
        self.left.append(member)
        for _, cell, _ in member.unconfirmed:
            cell.doubted = True

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX)
    def read_slowly(self, peer_index: int) -> None:
        self.member(peer_index).peer.slow = True

    @rule()
    def read(self) -> None:
        """All peers read what is there, up to a barrier of the witness."""
        number = self.witness.post_barrier()
        raw.pump(self.all_peers(), lambda: number in self.witness.responses, what="the barrier of the witness")

    # -- edits

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX, index=st.integers(0, 9))
    def add_note(self, peer_index: int, index: int) -> None:
        self.add(self.member(peer_index), "markdown", index, [])

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX, index=st.integers(0, 9), verbs=SCRIPTS)
    def add_script(self, peer_index: int, index: int, verbs: list[str]) -> None:
        self.add(self.member(peer_index), "code", index, verbs)

    def add(self, member: Member, kind: str, index: int, verbs: list[str]) -> None:
        name = self.text("cell-")
        cell = self.cells[name] = Cell(name, kind == "code", member)
        op: Json = {"op": "insert_cell", "cell_id": name, "cell_type": kind, "source": "", "index": index}
        self.edit(member, "add", cell, name, op)
        if verbs:
            self.write(member, cell, verbs)

    def write(self, member: Member, cell: Cell, verbs: list[str]) -> None:
        source = script.write(*(step for verb in verbs for step in self.steps(verb)))
        cell.sources.append(source)
        self.edit(member, "source", cell, source, {"op": "set_source", "cell_id": cell.cell_id, "source": source})

    def steps(self, verb: str) -> Iterator[tuple[Any, ...]]:
        text = self.text()
        display = f"d{self.serial % 3}"
        if verb in ("out", "err", "result", "page"):
            yield verb, text
        elif verb == "blob":
            yield "out", text * 4000
        elif verb == "show":
            yield (verb, text, display) if self.serial % 2 else (verb, text)
        elif verb == "update":
            yield verb, display, text
        elif verb == "clear":
            yield verb, bool(self.serial % 2)
        elif verb == "wait":
            yield verb, self.fifo_path
        elif verb in ("many", "lines"):
            yield verb, 700 if self.serial % 3 else 20, text + "-"
        elif verb == "comm":
            yield from ((verb, kind, text) for kind in ("comm_open", "comm_msg", "comm_close"))
        elif verb == "fail":
            yield verb, "Failure", text
        elif verb in ("block", "deaf"):
            yield "show", BLOCKED if verb == "block" else DEAF
            yield (verb,)
        elif verb == "order-idle":
            yield "order", "idle"
        elif verb.startswith("lose-"):
            yield "lose", verb[5:]
        elif verb == "exit":
            yield verb, 3
        elif verb == "die":
            yield verb, int(signal.SIGKILL)
        else:
            yield (verb,)

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX, which=INDEX, verbs=SCRIPTS)
    def rewrite(self, peer_index: int, which: int, verbs: list[str]) -> None:
        member = self.member(peer_index)
        cell = self.pick(member, which, code=True)
        if cell is not None and cell.owner is member and self.may_edit(member, cell):
            self.write(member, cell, verbs)

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX, which=INDEX, at=INDEX)
    def type_words(self, peer_index: int, which: int, at: int) -> None:
        """A word with a space behind it, at the beginning of another one or at the end."""
        member = self.member(peer_index)
        cell = self.pick(member, which, code=False)
        if cell is None or not self.may_edit(member, cell):
            return
        source, word = self.source(member, cell), self.text("wörd\N{GRINNING FACE}")
        places = [0, *(index + 1 for index, char in enumerate(source) if char == " ")]
        cell.tokens.add(word)
        op = {"op": "splice_source", "cell_id": cell.cell_id, "index": places[at % len(places)], "delete": 0}
        self.edit(member, "type", cell, word, {**op, "insert": word + " "})

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX, which=INDEX, at=INDEX)
    def erase(self, peer_index: int, which: int, at: int) -> None:
        member = self.member(peer_index)
        cell = self.pick(member, which, code=False)
        if cell is None or not self.may_edit(member, cell):
            return
        source = self.source(member, cell)
        words = source.split()
        if words:
            word = words[at % len(words)]
            cell.tokens.discard(word)
            index = source.index(word + " ")
            op = {"op": "splice_source", "cell_id": cell.cell_id, "index": index, "delete": len(word) + 1}
            self.edit(member, "erase", cell, word, {**op, "insert": ""})

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX, which=INDEX)
    def delete(self, peer_index: int, which: int) -> None:
        member = self.member(peer_index)
        cell = self.pick(member, which)
        if cell is not None and self.may_edit(member, cell):
            cell.gone = True
            self.edit(member, "delete", cell, "", {"op": "delete_cell", "cell_id": cell.cell_id})

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX, which=INDEX, index=st.integers(0, 9))
    def move(self, peer_index: int, which: int, index: int) -> None:
        member = self.member(peer_index)
        cell = self.pick(member, which, code=False)
        if cell is not None and cell.editors <= {member}:
            cell.mover = member
            op = {"op": "move_cell", "cell_id": cell.cell_id, "index": index}
            self.edit(member, "move", cell, "", op)

    # -- kernel

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX)
    def launch(self, peer_index: int) -> None:
        self.post(self.member(peer_index), "launch_kernel", kernel_type=KERNEL, env_source="auto", notebook_path=None)

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX, which=INDEX, launch=st.booleans())
    def execute(self, peer_index: int, which: int, launch: bool) -> None:
        member = self.member(peer_index)
        if launch:
            self.launch(peer_index)
        cell = self.pick(member, which, code=True)
        if cell is not None:
            self.post(member, "execute_cell", cell)

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX, verbs=SCRIPTS)
    def write_and_run(self, peer_index: int, verbs: list[str]) -> None:
        """What notebooks are for."""
        self.launch(peer_index)
        member = self.member(peer_index)
        self.add(member, "code", 9, verbs)
        self.post(member, "execute_cell", list(self.cells.values())[-1])

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX, how=st.sampled_from(["exit", "die"]), rarely=st.integers(0, 3))
    def end_the_kernel(self, peer_index: int, how: str, rarely: int) -> None:
        """In a cell of its own: as a step of other scripts it would be too rare."""
        if rarely == 0:
            self.launch(peer_index)
            member = self.member(peer_index)
            self.add(member, "code", 9, ["out", how])
            self.post(member, "execute_cell", list(self.cells.values())[-1])

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX, launch=st.booleans())
    def run_all(self, peer_index: int, launch: bool) -> None:
        if launch:
            self.launch(peer_index)
        self.post(self.member(peer_index), "run_all_cells")

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX, which=INDEX)
    def clear_outputs(self, peer_index: int, which: int) -> None:
        member = self.member(peer_index)
        cell = self.pick(member, which)
        if cell is not None:
            self.cleared_by_request.add(cell.cell_id)
            self.post(member, "clear_outputs", cell)

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX)
    def interrupt(self, peer_index: int) -> None:
        self.interrupts += 1
        self.post(self.member(peer_index), "interrupt_execution")

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX, rarely=st.integers(0, 3))
    def shut_down(self, peer_index: int, rarely: int) -> None:
        if rarely:
            return
        self.shutdowns += 1
        self.post(self.member(peer_index), "shutdown_kernel")

    @precondition(lambda self: self.members)
    @rule(peer_index=INDEX, what=st.sampled_from(["get_kernel_info", "get_queue_state", "get_history", "send_comm"]))
    def ask_something(self, peer_index: int, what: str) -> None:
        members: Json = {}
        if what == "get_history":
            members = {"pattern": None, "n": 3, "unique": False}
        elif what == "send_comm":
            header = dict.fromkeys(("msg_id", "username", "session", "version"), "x")
            members = {"message": {"header": {**header, "msg_type": "comm_msg"}, "content": {"comm_id": "none"}}}
        self.post(self.member(peer_index), what, **members)

    @rule()
    def release(self) -> None:
        """One script that waits goes on."""
        os.write(self.fifo, b"x")

    @rule()
    def kernel_is_killed(self) -> None:
        self.screen.feed(self.witness.broadcasts)
        started = self.witness.of("execution_started")
        if not started or self.screen.executing is None:
            return
        count = started[-1]["execution_count"]
        pid = self.daemon.runs(count)[script.RUNS * (count // script.RUNS)][0][1]
        if pid in self.daemon.kernels():
            self.kills += 1
            os.kill(pid, signal.SIGKILL)

    # -- strangers

    @rule(kind=GARBAGE, data=st.binary(max_size=40), stay=st.booleans())
    def talk_nonsense(self, kind: str, data: bytes, stay: bool) -> None:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(raw.LIMIT)
        connection.connect(self.daemon.socket)
        hello = frame(encode({"channel": "notebook_sync", "notebook_id": self.room, "protocol": "v2"}))
        connection.sendall(nonsense(kind, data, hello))
        if kind in ENDS:
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(1 << 16):
                    pass
        if stay and kind not in ENDS:
            self.strangers.append(connection)
        else:
            connection.close()

    @rule(what=st.sampled_from(["ping", "status", "list_rooms", "inspect_notebook"]))
    def ask_the_pool(self, what: str) -> None:
        request = {"type": what, **({"notebook_id": self.room} if what == "inspect_notebook" else {})}
        answer = raw.pool(self.daemon.socket, request)
        wanted = {"ping": "pong", "status": "stats", "list_rooms": "rooms_list", "inspect_notebook": "notebook_state"}
        assert answer["type"] == wanted[what], answer
        if what == "list_rooms":
            assert any(room["notebook_id"] == self.room and room["active_peers"] for room in answer["rooms"])


def nonsense(kind: str, data: bytes, hello: bytes) -> bytes:
    """What a stranger sends."""
    return {
        "noise": data,
        "huge": b"\xff\xff\xff\xff" + data,
        "text": frame(b"}" + data),
        "channel": frame(encode({"channel": "nonsense"})),
        "type": hello + frame(b"\x07" + data),
        "empty": hello + frame(b""),
        "sync": hello + frame(b"\x00\x44" + data),
        "request": hello + frame(b"\x01}" + data),
        "action": hello + frame(b"\x01" + encode({"action": "nonsense"})),
        "half": hello + frame(b"\x01" + data + b"." * 50)[:20],
        "announce": hello + struct.pack(">I", 100_000_000) + data,
        "odd": hello + frame(b"\x02{}") + frame(b"\x03" + data),
        "pool": frame(encode({"channel": "pool"})) + b"\0\0",
        "pool-text": frame(encode({"channel": "pool"})) + frame(b"}" + data),
        "mute": b"",
    }[kind]
