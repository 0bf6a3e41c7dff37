"""A whole daemon, driven by several raw peers against a plain model; kernels are scripted.

Rules only send; what they cause happens while later rules send more. `calm` (also at the end of every example) lets
everything come to its end, established by barriers and never by waiting, and compares the room with the model:

* every peer has the same document; its cells and texts are those of the edits, the journal on disk has all of it;
* each execution was told to start at most once and to end exactly once, with an end that what happened allows;
* its outputs are what the kernel noted before sending, none lost, doubled or out of order; execution counts increase;
* the document shows what the broadcasts say; each peer that reads got the room's broadcasts in one piece;
* every request was answered once; who sends garbage loses its own connection and nobody else anything;
* the daemon lives, has logged no error, and serves other rooms.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import struct
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from runtimed_ffi.testing import peers as raw
from runtimed_ffi.testing.profiles import profile
from runtimed_ffi.testing.replicas import Replica
from runtimed_ffi.testing.wire import Json, encode, frame
from stress import model, script
from stress.daemon_process import KERNEL, DaemonProcess

pytestmark = [pytest.mark.slow, pytest.mark.stress, pytest.mark.timeout(1800)]

PEERS = 4
BLOCKED, DEAF = "\N{BULLET}blocked", "\N{BULLET}deaf"
"""What a script shows before it blocks or goes deaf, so that `calm` knows what it needs."""

_BODY = st.sampled_from(
    (
        *("out", "out", "err", "show", "show", "result", "update", "update", "clear", "wait", "many", "lines", "comm"),
        *("page", "garbage", "blob", "order-idle"),
    )
)
_ENDS = st.sampled_from(((),) * 8 + (("fail",),) * 3 + (("block",),) * 2 + (("lose-reply",), ("lose-idle",)))
_RARE = st.sampled_from((("exit",), ("die",), ("deaf",)))
SCRIPTS = st.builds(
    # What ends a kernel is rare, or nothing else would ever come to its end.
    lambda body, end, rare, choice: [*body, *(rare if choice == 0 else end)],
    st.lists(_BODY, max_size=6),
    _ENDS,
    _RARE,
    st.integers(0, 11),
)
WHO = st.integers(0, 63)
GARBAGE = st.sampled_from(
    (
        *("noise", "huge", "text", "channel", "type", "empty", "sync", "request", "action", "half", "announce", "odd"),
        *("pool", "pool-text", "mute"),
    )
)
ENDS = {"huge", "text", "channel", "type", "empty", "sync", "request", "action", "pool-text"}
"""Garbage after which the connection must end; what the others send may yet become something."""


class Cell:
    """What the edits say of one cell."""

    def __init__(self, cell_id: str, code: bool, owner: Member) -> None:
        self.cell_id = cell_id
        self.code = code
        self.owner = owner
        """Who may set the source of a code cell."""
        self.tokens: set[str] = set()
        self.sources: list[str] = [""]
        self.gone = False
        self.doubted = False
        """Somebody left while an edit of it was on its way."""
        self.mover: Member | None = None
        self.editors: set[Member] = set()
        """Since the last calm. A move is a copy: edits made beside it go to the cell that was (as in the reference)."""


class Member:
    """A peer, and what it has sent that nobody has confirmed."""

    def __init__(self, peer: raw.Peer) -> None:
        self.peer = peer
        self.unconfirmed: list[tuple[str, Cell, str]] = []
        self.requests: dict[int, tuple[str, str, str]] = {}
        """Action, cell and source (as this peer had it) by request number."""


class DaemonMachine(RuleBasedStateMachine):
    daemon: ClassVar[DaemonProcess]
    tally: ClassVar[Counter[str]] = Counter()
    """What has happened in all examples, so that a machine that does nothing is noticed."""

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
            # After a failure there is nothing to compare any more.
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

    # -- helpers

    def text(self, prefix: str = "t") -> str:
        self.serial += 1
        return f"{prefix}{self.serial}"

    def member(self, who: int) -> Member:
        return self.members[who % len(self.members)]

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

    def everybody(self) -> list[raw.Peer]:
        return [self.witness, self.bystander, *(member.peer for member in self.members)]

    def witness_kernel(self) -> bool:
        return raw.ask(self.witness, "get_kernel_info", others=self.everybody())["status"] != "not_started"

    # -- peers

    @precondition(lambda self: len(self.members) < PEERS)
    @rule(again=st.booleans())
    def join(self, again: bool) -> None:
        document, owner = self.documents.pop() if again and self.documents else (None, None)
        peer = raw.Peer(self.daemon.socket, self.room, document)
        raw.pump([peer, *self.everybody()], lambda: peer.converged() or peer.ended, what="joining")
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
    @rule(who=WHO, keep=st.booleans())
    def leave(self, who: int, keep: bool) -> None:
        member = self.members.pop(who % len(self.members))
        self.part(member)
        if keep:
            self.documents.append((member.peer.document, member))

    def part(self, member: Member) -> None:
        """The connection is gone; what it got until then must be a piece of what the room was told."""
        member.peer.close()
        self.left.append(member)
        for _, cell, _ in member.unconfirmed:
            cell.doubted = True

    @precondition(lambda self: self.members)
    @rule(who=WHO)
    def read_slowly(self, who: int) -> None:
        self.member(who).peer.slow = True

    @rule()
    def read_on(self) -> None:
        for member in self.members:
            member.peer.slow = False

    @rule()
    def read(self) -> None:
        """Everybody takes what is there, up to a barrier of the witness."""
        number = self.witness.post_barrier()
        raw.pump(self.everybody(), lambda: number in self.witness.responses, what="the barrier of the witness")

    # -- edits

    @precondition(lambda self: self.members)
    @rule(who=WHO, index=st.integers(0, 9))
    def add_note(self, who: int, index: int) -> None:
        self.add(self.member(who), "markdown", index, [])

    @precondition(lambda self: self.members)
    @rule(who=WHO, index=st.integers(0, 9), verbs=SCRIPTS)
    def add_script(self, who: int, index: int, verbs: list[str]) -> None:
        self.add(self.member(who), "code", index, verbs)

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
    @rule(who=WHO, which=WHO, verbs=SCRIPTS)
    def rewrite(self, who: int, which: int, verbs: list[str]) -> None:
        member = self.member(who)
        cell = self.pick(member, which, code=True)
        if cell is not None and cell.owner is member and self.may_edit(member, cell):
            self.write(member, cell, verbs)

    @precondition(lambda self: self.members)
    @rule(who=WHO, which=WHO, at=WHO)
    def type_words(self, who: int, which: int, at: int) -> None:
        """A word with a space behind it, at the beginning of another one or at the end."""
        member = self.member(who)
        cell = self.pick(member, which, code=False)
        if cell is None or not self.may_edit(member, cell):
            return
        source, word = self.source(member, cell), self.text("wörd\N{GRINNING FACE}")
        places = [0, *(index + 1 for index, char in enumerate(source) if char == " ")]
        cell.tokens.add(word)
        op = {"op": "splice_source", "cell_id": cell.cell_id, "index": places[at % len(places)], "delete": 0}
        self.edit(member, "type", cell, word, {**op, "insert": word + " "})

    @precondition(lambda self: self.members)
    @rule(who=WHO, which=WHO, at=WHO)
    def erase(self, who: int, which: int, at: int) -> None:
        member = self.member(who)
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
    @rule(who=WHO, which=WHO)
    def delete(self, who: int, which: int) -> None:
        member = self.member(who)
        cell = self.pick(member, which)
        if cell is not None and self.may_edit(member, cell):
            cell.gone = True
            self.edit(member, "delete", cell, "", {"op": "delete_cell", "cell_id": cell.cell_id})

    @precondition(lambda self: self.members)
    @rule(who=WHO, which=WHO, index=st.integers(0, 9))
    def move(self, who: int, which: int, index: int) -> None:
        member = self.member(who)
        cell = self.pick(member, which, code=False)
        if cell is not None and cell.editors <= {member}:
            cell.mover = member
            op = {"op": "move_cell", "cell_id": cell.cell_id, "index": index}
            self.edit(member, "move", cell, "", op)

    # -- kernel

    @precondition(lambda self: self.members)
    @rule(who=WHO)
    def launch(self, who: int) -> None:
        self.post(self.member(who), "launch_kernel", kernel_type=KERNEL, env_source="auto", notebook_path=None)

    @precondition(lambda self: self.members)
    @rule(who=WHO, which=WHO, launch=st.booleans())
    def execute(self, who: int, which: int, launch: bool) -> None:
        member = self.member(who)
        if launch:
            self.launch(who)
        cell = self.pick(member, which, code=True)
        if cell is not None:
            self.post(member, "execute_cell", cell)

    @precondition(lambda self: self.members)
    @rule(who=WHO, verbs=SCRIPTS)
    def write_and_run(self, who: int, verbs: list[str]) -> None:
        """What notebooks are for."""
        self.launch(who)
        member = self.member(who)
        self.add(member, "code", 9, verbs)
        self.post(member, "execute_cell", list(self.cells.values())[-1])

    @precondition(lambda self: self.members)
    @rule(who=WHO, how=st.sampled_from(["exit", "die"]), rarely=st.integers(0, 3))
    def end_the_kernel(self, who: int, how: str, rarely: int) -> None:
        """By a cell of its own: in the scripts of others it would be too rare."""
        if rarely == 0:
            self.launch(who)
            member = self.member(who)
            self.add(member, "code", 9, ["out", how])
            self.post(member, "execute_cell", list(self.cells.values())[-1])

    @precondition(lambda self: self.members)
    @rule(who=WHO, launch=st.booleans())
    def run_all(self, who: int, launch: bool) -> None:
        if launch:
            self.launch(who)
        self.post(self.member(who), "run_all_cells")

    @precondition(lambda self: self.members)
    @rule(who=WHO, which=WHO)
    def clear_outputs(self, who: int, which: int) -> None:
        member = self.member(who)
        cell = self.pick(member, which)
        if cell is not None:
            self.cleared_by_request.add(cell.cell_id)
            self.post(member, "clear_outputs", cell)

    @precondition(lambda self: self.members)
    @rule(who=WHO)
    def interrupt(self, who: int) -> None:
        self.interrupts += 1
        self.post(self.member(who), "interrupt_execution")

    @precondition(lambda self: self.members)
    @rule(who=WHO, rarely=st.integers(0, 3))
    def shut_down(self, who: int, rarely: int) -> None:
        if rarely:
            return
        self.shutdowns += 1
        self.post(self.member(who), "shutdown_kernel")

    @precondition(lambda self: self.members)
    @rule(who=WHO, what=st.sampled_from(["get_kernel_info", "get_queue_state", "get_history", "send_comm"]))
    def ask_something(self, who: int, what: str) -> None:
        members: Json = {}
        if what == "get_history":
            members = {"pattern": None, "n": 3, "unique": False}
        elif what == "send_comm":
            header = dict.fromkeys(("msg_id", "username", "session", "version"), "x")
            members = {"message": {"header": {**header, "msg_type": "comm_msg"}, "content": {"comm_id": "none"}}}
        self.post(self.member(who), what, **members)

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

    # -- calm

    @rule()
    def calm(self) -> None:
        """Everything comes to its end, then the room is compared with the model."""
        self.tally["calm"] += 1
        self.read_on()
        self.finish_runs()
        raw.settle(self.everybody())
        self.daemon.check_alive()
        self.screen.feed(self.witness.broadcasts)
        assert (self.screen.executing, self.screen.queued) == (None, [])
        queue = raw.ask(self.witness, "get_queue_state", others=self.everybody())
        assert (queue["executing"], queue["queued"]) == (None, [])
        self.check_cells()
        self.check_replicas()
        found = model.executions(self.witness.broadcasts)
        self.check_executions(found)
        self.check_answers(found)
        self.check_outputs()
        for member in self.members:
            heard = member.peer.broadcasts
            assert model.ends_with(heard, self.witness.broadcasts), "broadcasts were lost, doubled or reordered"
        for member in self.left:
            assert model.is_slice(member.peer.broadcasts, self.witness.broadcasts)
        self.left = [owner for _, owner in self.documents]
        for member in [*self.members, *self.left]:
            if member in self.members:
                member.unconfirmed.clear()
                member.requests.clear()
        raw.ask(self.bystander, "get_kernel_info")
        with open(self.daemon.log, encoding="utf-8", errors="replace") as log:
            log.seek(self.log_at)
            news = log.read()
        assert " ERROR " not in news and "Traceback" not in news, news

    def finish_runs(self) -> None:
        """Until nothing runs or waits: what waits is released, what blocks is interrupted, what is deaf is stopped."""
        os.write(self.fifo, b"x" * 1000)
        handled: set[str] = set()
        while True:
            # Requests first: what they start is told in the broadcasts that follow.
            requests = [(member.peer, number) for member in self.members for number in member.requests]
            seen = self.progress()
            number = self.witness.post("get_queue_state")
            raw.pump(self.everybody(), lambda n=number: n in self.witness.responses, what="the queue")
            state = self.witness.responses[number]
            answered = all(peer.ended or number in peer.responses for peer, number in requests)
            if answered and state["executing"] is None and not state["queued"]:
                break
            self.help_along(handled)
            raw.pump(self.everybody(), lambda s=seen: self.progress() != s, what="the end of what runs")
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fifo, 4096):
                pass

    def progress(self) -> tuple[int, int]:
        return len(self.witness.broadcasts), sum(len(member.peer.responses) for member in self.members)

    def help_along(self, handled: set[str]) -> None:
        shown: dict[str, str] = {}
        for told in self.witness.broadcasts:
            if told["event"] == "output" and told["execution_id"] not in handled:
                text = model.item(self.blobs.output(told["output_json"]))[1]
                if text in (BLOCKED, DEAF):
                    shown[told["execution_id"]] = text
        done = {told["execution_id"] for told in self.witness.of("execution_done")}
        for name, text in shown.items():
            handled.add(name)
            if name in done:
                continue
            if text == BLOCKED:
                self.interrupts += 1
                self.witness.post("interrupt_execution")
            else:
                self.shutdowns += 1
                self.witness.post("shutdown_kernel")

    def check_cells(self) -> None:
        cells = {cell["id"]: cell for cell in self.witness.document.cells()}
        assert len(cells) == len(self.witness.document.cells()), "a cell is there twice"
        for member in self.left:
            self.resolve(member, cells)
        for cell in self.cells.values():
            if cell.doubted:
                self.look(cell, cells)
            there = cells.get(cell.cell_id)
            assert (there is None) == cell.gone, f"{cell.cell_id}: {there}"
            if there is None:
                continue
            if cell.code:
                assert there["source"] == cell.sources[-1]
            else:
                assert Counter(there["source"].split()) == Counter(cell.tokens)
            cell.editors.clear()
            cell.mover, cell.doubted = None, False
        assert set(cells) <= set(self.cells)

    def resolve(self, member: Member, cells: dict[str, Json]) -> None:
        """Of what a peer sent last before it left, a beginning has arrived."""
        if member in [owner for _, owner in self.documents]:
            return  # It may come back and bring the rest.
        arrived = []
        for kind, cell, detail in member.unconfirmed:
            there = cells.get(cell.cell_id)
            if kind == "add" and not cell.gone:
                arrived.append(there is not None)
            elif kind == "type" and not cell.gone and detail in cell.tokens:
                arrived.append(there is not None and detail in there["source"].split())
        assert arrived == sorted(arrived, reverse=True), "an edit arrived without the one before it"

    def look(self, cell: Cell, cells: dict[str, Json]) -> None:
        """An edit was on its way when its peer left; the document says whether it arrived."""
        there = cells.get(cell.cell_id)
        sent = [entry for member in self.left for entry in member.unconfirmed if entry[1] is cell]
        if there is None:
            assert cell.gone or any(kind == "add" for kind, _, _ in sent), f"{cell.cell_id} is lost"
            cell.gone = True
            return
        assert not cell.gone or any(kind == "delete" for kind, _, _ in sent), f"{cell.cell_id} is back"
        cell.gone = False
        words = set(there["source"].split())
        if cell.code:
            assert there["source"] in cell.sources
            cell.sources.append(there["source"])
            return
        typed = {detail for kind, _, detail in sent if kind == "type"}
        erased = {detail for kind, _, detail in sent if kind == "erase"}
        assert cell.tokens - words <= typed, "a word is lost"
        assert words - cell.tokens <= erased, "a word is back"
        cell.tokens = words

    def check_replicas(self) -> None:
        heads = self.witness.document.heads()
        for member in self.members:
            assert member.peer.document.heads() == heads
            assert member.peer.document.cells() == self.witness.document.cells()
        name = hashlib.sha256(self.room.encode()).hexdigest() + ".automerge"
        assert Replica.load((self.daemon.base / "notebook-docs" / name).read_bytes()).heads() == heads, (
            "the journal is behind"
        )

    def check_executions(self, found: dict[str, model.Execution]) -> None:
        updates: Counter[Any] = Counter()
        possible: Counter[Any] = Counter()
        failed_cells = {e.done["cell_id"] for e in found.values() if e.done["status"] != "ok"}
        counts = [told["execution_count"] for told in self.witness.of("execution_started")]
        for before, after in zip(counts, counts[1:]):
            if before // script.RUNS == after // script.RUNS:
                assert after == before + 1, "execution counts do not increase by one"
            else:
                assert after % script.RUNS == 1
        for execution in found.values():
            self.tally[execution.done["status"]] += 1
            status, reason = execution.done["status"], execution.done.get("reason", "")
            outside = {"cancelled"} if self.shutdowns else set()
            if execution.started is None:
                assert status in {"cancelled", "kernel_died"}, execution.done
                if status == "cancelled" and not self.shutdowns:
                    assert any(reason == f"cell {cell} failed before it" for cell in failed_cells), execution.done
                assert execution.outputs == []
                continue
            count = execution.started["execution_count"]
            run = model.Run(count, self.daemon.runs(count)[count])
            seen = model.merged(model.item(self.blobs.output(element)) for element in execution.outputs)
            cell = self.cells[execution.done["cell_id"]]
            assert run.code in cell.sources, "what ran is not what was written"
            note(f"{execution.done} {run.steps} {seen}")
            if self.kills:
                outside.add("kernel_died")
            allowed = self.allowed(run) | outside
            assert status in allowed, f"{execution.done}, but {allowed} after {run.steps} with end {run.end}"
            whole = run.items()
            if run.flushed and status not in outside:
                assert seen == whole, f"outputs differ: {seen} and {whole}"
                updates.update(run.updates())
            assert model.begins(seen, whole), f"outputs are not the first of the kernel's: {seen} and {whole}"
            possible.update(run.updates())
            if status == "kernel_died" and run.steps and run.steps[-1][0] == "exit":
                assert reason == "Kernel died: exit code 3\nscript: exit", reason
        told = Counter((t["display_id"], t["data"]["text/plain"]) for t in self.told_updates())
        assert not updates - told, "a display update was lost"
        assert not told - possible, "a display update came from nowhere, or twice"

    def told_updates(self) -> list[Json]:
        return [told for told in self.witness.of("display_update") if "text/plain" in told["data"]]

    def allowed(self, run: model.Run) -> set[str]:
        """The ends that a run may have, by what its kernel did."""
        if run.end is None:
            last = run.steps[-1][0] if run.steps else ""
            return {"kernel_died"} if last in ("exit", "die") else set()
        if run.lost == "reply":
            return {"error", "interrupted"} if self.interrupts else {"error"}
        if run.end == "ok":
            return {"ok"}
        return {"interrupted", "error"} if run.interrupted and self.interrupts else {"error"}

    def check_answers(self, found: dict[str, model.Execution]) -> None:
        results = {
            "launch_kernel": {"kernel_launched", "kernel_already_running"},
            "execute_cell": {"cell_queued", "no_kernel"},
            "run_all_cells": {"all_cells_queued", "no_kernel"},
            "clear_outputs": {"outputs_cleared"},
            "interrupt_execution": {"interrupt_sent", "no_kernel"},
            "shutdown_kernel": {"kernel_shutting_down", "no_kernel"},
            "get_kernel_info": {"kernel_info"},
            "get_queue_state": {"queue_state"},
            "get_history": {"history_result", "no_kernel"},
            "send_comm": {"ok", "no_kernel"},
        }
        owners: dict[str, list[tuple[str, str]]] = {}
        for member in self.members:
            for number, (action, cell_id, source) in member.requests.items():
                answer = member.peer.responses[number]
                result = answer["result"]
                if result == "error" and action == "execute_cell":
                    assert answer["error"].startswith("Cell not found in document"), answer
                    assert self.cells[cell_id].gone, answer
                    continue
                if result == "error" and action in ("launch_kernel", "get_history"):
                    # Whoever waits for a launch or a reply is told when the kernel goes meanwhile.
                    assert self.shutdowns or self.kernel_deaths(), answer
                    continue
                assert result in results[action], f"{action}: {answer}"
                if result == "cell_queued":
                    owners.setdefault(answer["execution_id"], []).append((cell_id, source))
                for name in answer.get("execution_ids", []):
                    owners.setdefault(name, []).append(("", ""))
        for name, askers in owners.items():
            assert name in found, f"queued and never heard of again: {name}"
            ((cell_id, source), *others) = askers
            started = found[name].started
            if cell_id and not others and started is not None and not self.left and self.cells[cell_id].sources:
                assert found[name].done["cell_id"] == cell_id
                cell = self.cells[cell_id]
                count = started["execution_count"]
                if cell.sources[-1] == source and len(cell.sources) <= 2:
                    assert self.daemon.runs(count)[count][0][1] == source

    def kernel_deaths(self) -> bool:
        return any(told["status"].startswith("error") for told in self.witness.of("kernel_status"))

    def check_outputs(self) -> None:
        for cell in self.witness.document.cells():
            shown = model.merged(model.item(self.blobs.output(element)) for element in cell["outputs"])
            assert shown == self.screen.shows(cell["id"]), f"{cell['id']} shows something else than was told"
            started = self.witness.of("execution_started", cell_id=cell["id"])
            counts = {None} | ({started[-1]["execution_count"]} if started else set())
            assert cell["execution_count"] in counts


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


def test_the_daemon_against_the_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    daemon = DaemonProcess(tmp_path_factory.mktemp("m"))

    class Machine(DaemonMachine):
        def __init__(self) -> None:
            if daemon.process is None or daemon.process.poll() is not None:
                daemon.close()
                daemon.start()
            super().__init__()

    Machine.daemon = daemon
    try:
        run_state_machine_as_test(Machine, settings=profile())
        daemon.stop()
        print(Machine.tally)
        assert set(Machine.tally) >= {"ok", "error", "interrupted", "cancelled", "kernel_died"}, Machine.tally
    finally:
        daemon.close()
