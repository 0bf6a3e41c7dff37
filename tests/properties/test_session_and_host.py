"""Sessions and a host in one process, with their calls in any order.

Invariants: the numbers of events have no gap, each token ends exactly once, a queue holds no more than its bound and
the events that must not be dropped, and in the end all copies of the document are equal. The test plays the program
behind the host: it answers now, later or never, and runs cells without a kernel.

Drawn values depend on the rules alone and never on what has arrived so far, which differs from run to run.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections import Counter
from typing import Any, ClassVar

import pytest
from hypothesis import event as observed
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from properties.handles import LIMIT, Session, wait
from runtimed_ffi._binding.events import Event
from runtimed_ffi._binding.ffi import lib
from runtimed_ffi.errors import NotFoundError, RuntimedError
from runtimed_ffi.host import Host
from runtimed_ffi.testing import strategies
from runtimed_ffi.testing.profiles import profile
from runtimed_ffi.testing.wire import Json

ROOMS = ("n", "zwei 😀")
SMALL = 3000
"""Bytes of a queue that overflows."""
SLACK = 20_000
"""Bytes of the events that are never dropped: ends, changes, one resync; a generous bound for this machine."""

COMM: Json = {"event": "comm", "msg_type": "comm_msg", "content": {"data": "x" * 100}}
_ends = st.sampled_from(["ok", "ok", "error", "interrupted", "cancelled", "kernel_died", "launch_failed"])


class SessionsAndHost(RuleBasedStateMachine):
    seen: ClassVar[Counter[str]] = Counter()
    """The ends of all tokens and the other events, in all examples."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="rtd-")
        self.host = Host(os.path.join(self.directory.name, "s"))
        self.tokens = itertools.count(1)
        self.names = itertools.count(1)
        self.sessions: list[tuple[Session, str]] = []
        self.all_sessions: list[Session] = []
        self.asked: list[Event] = []
        self.running: list[tuple[str, Json]] = []
        self.peers: dict[int, str] = {}
        self.seq = 0

    @initialize(room=st.sampled_from(ROOMS))
    def first(self, room: str) -> None:
        for each in ROOMS:
            self.host.open_room(each)
            for name in range(2):
                self.publish(
                    each, [{"op": "insert_cell", "cell_id": f"{name}", "cell_type": "code", "source": "1"}], []
                )
        self.enter(room, False)
        self.enter(room, True)
        self.calm()
        # More than the small queue holds, at once.
        self.publish(room, [], [COMM] * 300)

    def pick(self, which: int) -> tuple[Session, str]:
        return self.sessions[which % len(self.sessions)]

    # -- the program behind the host

    def drain(self, limit: int) -> list[Event]:
        events = self.host.drain(limit)
        for event in events:
            self.seq += 1
            assert event.seq == self.seq
            if event.kind == lib.RTD_EV_ROOM_WANTED:
                self.host.open_room(event.id)
            elif event.kind == lib.RTD_EV_PEER_JOINED:
                self.peers[event.peer] = event.id
            elif event.kind == lib.RTD_EV_PEER_LEFT:
                self.peers.pop(event.peer, None)
                self.asked = [asked for asked in self.asked if asked.peer != event.peer]
            elif event.kind == lib.RTD_EV_REQUEST:
                self.asked.append(event)
        return events

    @rule(limit=st.integers(1, 20))
    def program_looks(self, limit: int) -> None:
        self.drain(limit)

    @rule()
    def program_catches_up(self) -> None:
        """Wait until all edits of the sessions have arrived, by a barrier of one of them."""
        session, _ = self.sessions[0]
        token = next(self.tokens)
        deadline = time.monotonic() + LIMIT
        if session.sync(token):
            while token in session.open:
                self.drain(10_000)
                session.take()
                if token in session.open:
                    wait([session, self.host], deadline)
        while self.asked:
            self.program_answers(0, 1)

    @rule(which=st.integers(0, 9), refuse=st.integers(0, 5))
    def program_answers(self, which: int, refuse: int) -> None:
        if not self.asked:
            return
        asked = self.asked.pop(which % len(self.asked))
        request, room = asked.json(), asked.id
        answer: Json = {"result": "ok"}
        if request["action"] == "execute_cell":
            cell_id = request["cell_id"]
            known = [cell["id"] for cell in request["at_request"]]
            if not known or refuse == 0:
                answer = {"result": "error", "error": f"Cell not found in document: {cell_id}"}
            else:
                run = {"cell_id": cell_id, "execution_id": f"e{next(self.names)}"}
                answer = {"result": "cell_queued", **run}
                self.running.append((room, run))
        try:
            self.host.respond(asked.token, answer)
        except NotFoundError:
            observed("answered a peer that had gone")

    @rule(which=st.integers(0, 9), started=st.booleans(), outputs=st.lists(strategies.text(), max_size=4), end=_ends)
    def program_runs(self, which: int, started: bool, outputs: list[str], end: str) -> None:
        """One run from the start to its end, or cancelled before."""
        if not self.running:
            return
        room, run = self.running.pop(which % len(self.running))
        status = {"event": "kernel_status", "cell_id": run["cell_id"]}
        elements = ['{"output_type":"stream","name":"stdout","text":"x"}'] * len(outputs)
        there = {"cell_id": run["cell_id"], "if_present": True}
        if started:
            begun = {"event": "execution_started", "execution_count": 1, **run}
            self.publish(room, [{"op": "clear_outputs", **there}], [{**status, "status": "busy"}, begun])
            for element in elements:
                broadcast = {"event": "output", "output_type": "stream", "output_json": element, **run}
                self.publish(room, [{"op": "append_outputs", "outputs": [element], **there}], [broadcast])
        done = {"event": "execution_done", "status": end if started else "cancelled", **run}
        idle = {"event": "queue_changed", "executing": None, "queued": []}
        self.publish(room, [], [{**status, "status": "idle"}, done, idle])

    def publish(self, room: str, ops: list[Json], broadcasts: list[Json]) -> None:
        try:
            self.host.publish(room, ops, broadcasts)
        except NotFoundError:
            observed("published to a closed room")

    @rule(
        room=st.sampled_from(ROOMS),
        broadcasts=st.lists(strategies.message("broadcast", "comm"), min_size=1, max_size=30),
    )
    def program_tells(self, room: str, broadcasts: list[Json]) -> None:
        self.publish(room, [], broadcasts)

    @rule(room=st.sampled_from(ROOMS), source=strategies.text())
    def program_edits(self, room: str, source: str) -> None:
        name = f"host-{next(self.names)}"
        self.publish(room, [{"op": "insert_cell", "cell_id": name, "cell_type": "code", "source": source}], [])

    @rule(which=st.integers(0, 9), rare=st.integers(0, 3))
    def program_disconnects(self, which: int, rare: int) -> None:
        if rare == 0 and self.peers:
            try:
                self.host.disconnect(sorted(self.peers)[which % len(self.peers)])
            except NotFoundError:
                observed("disconnected a peer that had gone")

    # -- the sessions

    @precondition(lambda self: len(self.sessions) < 5)
    @rule(room=st.sampled_from(ROOMS), small=st.booleans())
    def enter(self, room: str, small: bool) -> None:
        session = Session(self.host.socket_path, room, SMALL if small else None)
        self.sessions.append((session, room))
        self.all_sessions.append(session)

    @rule(which=st.integers(0, 9), count=st.integers(1, 50))
    def take(self, which: int, count: int) -> None:
        self.pick(which)[0].take(count)

    @rule(which=st.integers(0, 9), source=strategies.text(), kind=st.sampled_from(["code", "code", "raw"]))
    def create(self, which: int, source: str, kind: str) -> None:
        op = {"op": "insert_cell", "cell_id": f"c{next(self.names)}", "cell_type": kind, "source": source}
        self.pick(which)[0].edit(op)

    @rule(which=st.integers(0, 9), op=strategies.operation("0123", st.just("new")))
    def edit(self, which: int, op: Json) -> None:
        session, _ = self.pick(which)
        ids = [cell["id"] for cell in session.cells() or []] or ["none"]
        if op["op"] == "insert_cell":
            op = {**op, "cell_id": f"c{next(self.names)}"}
        elif op["op"] != "set_metadata":
            op = {**op, "cell_id": ids[int(op["cell_id"]) % len(ids)]}
        if op["op"] != "move_cell":
            session.edit(op)

    @rule(which=st.integers(0, 9), message=strategies.message("request"), timeout=st.sampled_from([-1, -1, 0, 5]))
    def request(self, which: int, message: Json, timeout: int) -> None:
        if message["action"] != "execute_cell":
            self.pick(which)[0].request(next(self.tokens), message, timeout)

    @rule(which=st.integers(0, 9), cell=st.integers(0, 9), timeout=st.sampled_from([-1, -1, -1, 0, 5]))
    def execute(self, which: int, cell: int, timeout: int) -> None:
        session, _ = self.pick(which)
        ids = [cell["id"] for cell in session.cells() or []] or ["none"]
        session.execute(next(self.tokens), ids[cell % len(ids)], timeout)

    @rule(which=st.integers(0, 9))
    def sync(self, which: int) -> None:
        self.pick(which)[0].sync(next(self.tokens))

    @precondition(lambda self: len(self.sessions) > 1)
    @rule(which=st.integers(0, 9), how=st.sampled_from(["close", "free", "close and take"]))
    def leave(self, which: int, how: str) -> None:
        session, _ = self.pick(which)
        if how != "free":
            session.close()
        if how == "free":
            session.free()
            self.sessions = [entry for entry in self.sessions if entry[0] is not session]
        if how == "close and take":
            self.until_closed(session)
            self.sessions = [entry for entry in self.sessions if entry[0] is not session]
            session.free()

    def until_closed(self, session: Session) -> None:
        deadline = time.monotonic() + LIMIT
        while not session.closed:
            session.take()
            self.drain(256)
            if not session.closed:
                wait([session, self.host], deadline)

    @invariant()
    def queues_are_bounded(self) -> None:
        for session, _ in self.sessions:
            assert session.info()["queue_bytes"] <= session.queue_limit + SLACK

    # -- and at the end

    def calm(self) -> None:
        """Every run has ended, every request is answered, every session that is left has what the room has."""
        deadline = time.monotonic() + LIMIT
        for session, _ in self.sessions:
            session.take()
        barriers = {}
        while True:
            self.drain(10_000)
            while self.asked:
                self.program_answers(0, 1)
            while self.running:
                self.program_runs(0, True, ["x"], "ok")
            for session, _ in self.sessions:
                session.take()
                if session.ready and not session.closed and session not in barriers:
                    token = next(self.tokens)
                    if session.sync(token):
                        barriers[session] = token
            if all(session.closed or (session in barriers and not session.open) for session, _ in self.sessions):
                break
            wait([self.host, *[session for session, _ in self.sessions if not session.closed]], deadline)
        for session, room in self.sessions:
            if session in barriers and session.ends[barriers[session]].code == lib.RTD_OK:
                assert session.cells() == self.host.cells(room)

    def teardown(self) -> None:
        try:
            # Twice: the first ends what is under way, and the second brings the changes of that to all copies.
            self.calm()
            self.calm()
            for session, _ in self.sessions:
                session.close()
                self.until_closed(session)
            self.host.stop()
            deadline = time.monotonic() + LIMIT
            last: Any = None
            while not self.host.ended:
                for event in self.drain(256):
                    last = event
                if not self.host.ended:
                    wait([self.host], deadline)
            assert last is None or last.kind == lib.RTD_EV_CLOSED
        finally:
            for session, _ in self.sessions:
                session.free()
            for session in self.all_sessions:
                for event in session.events:
                    ended = f" {event.code}" if event.token in session.ends else ""
                    self.seen[f"{event.kind}{ended}"] += 1
            self.host.close()
            self.directory.cleanup()


@pytest.mark.timeout(900)
def test_sessions_and_a_host_in_any_order() -> None:
    run_state_machine_as_test(SessionsAndHost, settings=profile())


def test_each_rule_has_an_effect() -> None:
    """One example by hand: a state machine whose rules do nothing would pass the test above as well."""
    SessionsAndHost.seen.clear()
    machine = SessionsAndHost()
    try:
        machine.first(ROOMS[0])
        (session, room), (small, _) = machine.sessions
        # A run to its end, and a request with its answer.
        machine.execute(0, 0, -1)
        machine.request(0, {"action": "get_queue_state"}, -1)
        machine.program_catches_up()
        machine.program_runs(0, True, ["x"], "ok")
        machine.calm()
        # The same, without an answer in time.
        machine.execute(0, 0, 0)
        machine.request(0, {"action": "get_queue_state"}, 0)
        deadline = time.monotonic() + LIMIT
        while session.open:
            session.take()
            if session.open:
                wait([session], deadline)
        machine.calm()
        # More than the small queue holds.
        while not any(event.kind == lib.RTD_EV_RESYNC for event in small.events):
            assert time.monotonic() < deadline
            machine.program_tells(room, [COMM] * 300)
            machine.calm()
        # A run that outlives its session.
        machine.execute(0, 0, -1)
        machine.leave(0, "close and take")
    finally:
        machine.teardown()
    done, answered = f"{lib.RTD_EV_DONE} ", f"{lib.RTD_EV_RESPONSE} "
    wanted = {done + str(code) for code in (lib.RTD_DONE_OK, lib.RTD_DONE_TIMED_OUT, lib.RTD_DONE_DISCONNECTED)}
    wanted |= {answered + str(code) for code in (lib.RTD_OK, lib.RTD_E_TIMEOUT)}
    wanted |= {f"{lib.RTD_EV_OUTPUT} 0", f"{lib.RTD_EV_RESYNC}", f"{lib.RTD_EV_SYNCED} {lib.RTD_OK}"}
    assert wanted <= set(SessionsAndHost.seen), SessionsAndHost.seen


def test_a_host_refuses_what_it_cannot_do() -> None:
    with tempfile.TemporaryDirectory(prefix="rtd-") as directory, Host(os.path.join(directory, "s")) as host:
        for refused in (
            lambda: host.respond(1, {}),
            lambda: host.publish("absent", [], [{"event": "x"}]),
            lambda: host.disconnect(1),
            lambda: host.close_room("absent"),
            lambda: host.refuse_room("absent"),
            lambda: host.admit("absent"),
            lambda: host.cells("absent"),
        ):
            try:
                refused()
            except RuntimedError as error:
                assert error.code == lib.RTD_E_NOT_FOUND
            else:
                raise AssertionError("it was not refused")
