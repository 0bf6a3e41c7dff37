"""Two to five replicas through the C ABI: deliveries lost, doubled, late and out of order, connections restarted.

A connection in order and without loss converges by itself, however late its messages. Other faults of messages cost
only time: after a new connection, with fresh sync states on both sides, the replicas converge (7.1).
Source: protocol 2, sections 5.5 and 7.
"""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from properties.documented import call
from runtimed_ffi._binding.ffi import bytes_in, ffi, lib, new_buffer
from runtimed_ffi.errors import RuntimedError
from runtimed_ffi.testing import strategies
from runtimed_ffi.testing.profiles import examples, profile
from runtimed_ffi.testing.replicas import Replica, SyncState, announced_heads, announcement, converge, saturate
from runtimed_ffi.testing.wire import Json

SHARED = ("s", "t")
"""Cells that are there from the beginning and are not deleted."""


class Link:
    """One connection of two replicas: a sync state and a line of messages for each direction."""

    def __init__(self, one: int, other: int) -> None:
        self.ends = (one, other)
        self.restart()

    def restart(self) -> None:
        self.states = (SyncState(), SyncState())
        self.lines: tuple[deque[bytes], deque[bytes]] = (deque(), deque())
        self.faulty = False


class Network(RuleBasedStateMachine):
    @initialize(count=st.integers(2, 5), complete=st.booleans())
    def begin(self, count: int, complete: bool) -> None:
        """A row of replicas, or each connected with each: then changes come by one way and their heads by another."""
        room = Replica("n")
        for cell_id in SHARED:
            room.edit({"op": "insert_cell", "cell_id": cell_id, "cell_type": "code", "source": "ab"})
        self.replicas = [room] + [Replica.load(room.save()) for _ in range(count - 1)]
        pairs = [(one, other) for other in range(count) for one in range(other)]
        self.links = [Link(*pair) for pair in pairs if complete or pair[1] == pair[0] + 1]
        self.had = [replica.heads() for replica in self.replicas]
        self.made = 0
        self.texts: dict[str, int] = {}
        """Characters that were inserted and never deleted, and the replica that inserted them."""

    def _pick(self, data: st.DataObject) -> tuple[Link, int]:
        return data.draw(st.sampled_from(self.links)), data.draw(st.integers(0, 1))

    # -- what replicas do

    @rule(data=st.data(), which=st.integers(0, 4))
    def edit(self, data: st.DataObject, which: int) -> None:
        which %= len(self.replicas)
        replica = self.replicas[which]
        ids = [cell["id"] for cell in replica.cells()]
        self.made += 1
        new = st.just(f"cell-{which}-{self.made}")
        op = data.draw(strategies.operation(ids, new))
        # A move is a copy in this schema: concurrent edits go to the old cell, and two moves make two copies.
        if op["op"] == "move_cell" and (which or op["cell_id"] in SHARED):
            return
        if op["op"] == "delete_cell" and op["cell_id"] in SHARED:
            return
        if op["op"] in ("set_source", "splice_source") and op["cell_id"] == "t":
            return
        try:
            replica.edit(op)
        except RuntimedError as refusal:
            assert refusal.code in (lib.RTD_E_ARG, lib.RTD_E_NOT_FOUND)

    @rule(which=st.integers(0, 4), index=st.integers(0, 20))
    def type_a_character(self, which: int, index: int) -> None:
        """A character that is there once, beyond the BMP, which no step deletes."""
        which %= len(self.replicas)
        cell = self.replicas[which].cell("t")
        assert cell is not None
        letter = chr(0x10400 + len(self.texts))
        at = index % (len(cell["source"]) + 1)
        self.replicas[which].edit({"op": "splice_source", "cell_id": "t", "index": at, "delete": 0, "insert": letter})
        self.texts[letter] = which

    # -- what happens to messages

    @rule(data=st.data())
    def say(self, data: st.DataObject) -> None:
        link, end = self._pick(data)
        message = link.states[end].generate(self.replicas[link.ends[end]])
        if message is not None:
            link.lines[end].append(message)

    @rule(data=st.data(), times=st.integers(1, 4))
    def deliver(self, data: st.DataObject, times: int) -> None:
        link, end = self._pick(data)
        for _ in range(times):
            self._deliver(link, end)

    def _deliver(self, link: Link, end: int) -> bool:
        if not link.lines[end]:
            return False
        receiver = link.ends[1 - end]
        self.had[receiver] = self.replicas[receiver].heads()
        link.states[1 - end].receive(self.replicas[receiver], link.lines[end].popleft())
        assert self.replicas[receiver].contains(self.had[receiver]), "a message removed something"
        return True

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        link, end = self._pick(data)
        if link.lines[end]:
            link.lines[end].popleft()
            link.faulty = True

    @rule(data=st.data())
    def double(self, data: st.DataObject) -> None:
        link, end = self._pick(data)
        if link.lines[end]:
            link.lines[end].append(link.lines[end][0])
            link.faulty = True

    @rule(data=st.data())
    def overtake(self, data: st.DataObject) -> None:
        link, end = self._pick(data)
        if len(link.lines[end]) > 1:
            link.lines[end].rotate(1)
            link.faulty = True

    @rule(data=st.data())
    def withhold(self, data: st.DataObject) -> None:
        """The filters of a message are wrong about every change; real ones are wrong about one in a hundred."""
        link, end = self._pick(data)
        if link.lines[end]:
            link.lines[end].append(saturate(link.lines[end].pop()))

    @rule(data=st.data())
    def reconnect(self, data: st.DataObject) -> None:
        link, _ = self._pick(data)
        link.restart()

    # -- and at the end

    def teardown(self) -> None:
        if not hasattr(self, "links"):
            return
        faulty = [link for link in self.links if link.faulty]
        note(f"{len(self.replicas)} replicas, {len(self.links)} connections, {len(faulty)} restarted")
        for link in faulty:
            link.restart()
        self._settle()
        heads, cells = self.replicas[0].heads(), self.replicas[0].cells()
        for replica in self.replicas:
            assert replica.heads() == heads and replica.cells() == cells
            assert Replica.load(replica.save()).cells() == cells
        for link in self.links:
            for end in range(2):
                assert link.states[end].converged(self.replicas[link.ends[end]])
        text = next(cell["source"] for cell in cells if cell["id"] == "t")
        assert sorted(text) == sorted([*"ab", *self.texts]), "text was lost or doubled"

    def _settle(self) -> None:
        for _ in range(200):
            quiet = True
            for link in self.links:
                for end in range(2):
                    message = link.states[end].generate(self.replicas[link.ends[end]])
                    if message is not None:
                        link.lines[end].append(message)
                    while self._deliver(link, end):
                        quiet = False
            if quiet:
                return
        raise AssertionError("the exchange does not end")


@pytest.mark.timeout(900)
def test_replicas_converge_whatever_happens_to_their_messages() -> None:
    run_state_machine_as_test(Network, settings=profile())


_splice = st.tuples(st.integers(0, 30), st.integers(0, 3), st.integers(0, 3), st.booleans())


@examples(2)
@given(st.integers(0, 12), st.lists(st.lists(_splice, max_size=5), min_size=2, max_size=5))
def test_concurrent_edits_of_a_text_merge_by_character(
    length: int, writers: list[list[tuple[int, int, int, bool]]]
) -> None:
    """Each character is there once, so that the merged text can be judged: what any replica deleted is gone, everything
    else is there once, and in the order in which each writer saw it."""
    letters = iter(map(chr, (*range(0x1F600, 0x1F640), *range(0x300, 0x340), *range(0x10400, 0x10500))))
    base = "".join(next(letters) for _ in range(length))
    room = Replica("n")
    room.edit({"op": "insert_cell", "cell_id": "c", "cell_type": "code", "source": base})
    replicas, deleted, seen = [room], set(), [base]
    for splices in writers:
        replica, text = Replica.load(room.save()), base
        for place, delete, insert, whole in splices:
            index = place % (len(text) + 1)
            new = "".join(next(letters) for _ in range(insert))
            delete = min(delete, len(text) - index)
            deleted |= set(text[index : index + delete])
            text = text[:index] + new + text[index + delete :]
            splice = {"op": "splice_source", "cell_id": "c", "index": index, "delete": delete, "insert": new}
            replica.edit({"op": "set_source", "cell_id": "c", "source": text} if whole else splice)
        replicas.append(replica)
        seen.append(text)
    converge(replicas)
    merged = {replica.cells()[0]["source"] for replica in replicas}
    assert len(merged) == 1
    (text,) = merged
    assert len(set(text)) == len(text)
    assert set(text) == set("".join(seen)) - deleted
    for one in seen:
        survivors = [letter for letter in one if letter in text]
        assert survivors == [letter for letter in text if letter in survivors]


@examples()
@given(strategies.text(), strategies.text(), strategies.text())
def test_whole_texts_of_any_characters_merge_without_harm(base: str, one: str, other: str) -> None:
    """Combining characters, CRLF, joined emoji: each side reads what it wrote, and both end with the same text."""
    left = Replica("n")
    left.edit({"op": "insert_cell", "cell_id": "c", "cell_type": "code", "source": base})
    right = Replica.load(left.save())
    for replica, text in ((left, one), (right, other)):
        replica.edit({"op": "set_source", "cell_id": "c", "source": text})
        assert replica.cells()[0]["source"] == text
    converge([left, right])
    assert left.cells() == right.cells()
    if base == other:
        assert right.cells()[0]["source"] == one


@examples(2)
@given(st.data(), st.binary(max_size=30), st.lists(strategies.edits(), max_size=3))
def test_what_is_no_sync_message_changes_nothing(data: st.DataObject, noise: bytes, edits: list[list[Json]]) -> None:
    """Noise, and real messages with bytes changed or missing."""
    sender, receiver = Replica("n"), Replica()
    for ops in edits:
        try:
            sender.edit(*ops)
        except RuntimedError:
            continue
    of_sender, of_receiver = SyncState(), SyncState()
    messages = [noise]
    for _ in range(2):
        message = of_receiver.generate(sender)
        assert message is not None or noise
        if message is not None:
            of_sender.receive(receiver, message)
            damaged = bytearray(message)
            for place in data.draw(st.lists(st.integers(0, len(message) - 1), min_size=1, max_size=2)):
                damaged[place] ^= data.draw(st.integers(1, 255))
            messages += [bytes(damaged), message[: data.draw(st.integers(0, len(message) - 1))]]
        answer = of_sender.generate(receiver)
        if answer is not None:
            of_receiver.receive(sender, answer)
    target = data.draw(st.sampled_from([Replica(), Replica.load(sender.save())]))
    state = SyncState()
    for message in messages:
        heads = target.heads()
        code = call("rtd_sync_receive", state.handle, target.handle, *bytes_in(message))
        if code == lib.RTD_E_PROTOCOL:
            assert target.heads() == heads
        assert target.contains(heads)
        state.generate(target)
    fresh = Replica.load(target.save())
    assert fresh.cells() == target.cells()
    converge([sender, receiver])
    assert sender.heads() == receiver.heads()


@examples()
@given(st.lists(strategies.edits(), max_size=4))
def test_an_announcement_has_the_heads_and_only_a_replica_that_differs_answers(edits: list[list[Json]]) -> None:
    """The barrier of section 5.5, written by hand, between documents of the library."""
    room = Replica("n")
    client = Replica.load(room.save())
    at_room, at_client = SyncState(), SyncState()
    for _ in range(3):
        for state, document, other, receiver in (
            (at_room, room, at_client, client),
            (at_client, client, at_room, room),
        ):
            message = state.generate(document)
            if message is not None:
                other.receive(receiver, message)
    barrier = announcement(client)
    assert announced_heads(barrier) == {client.heads()[at : at + 32] for at in range(0, len(client.heads()), 32)}
    at_room.receive(room, barrier)
    assert at_room.generate(room) is None
    before = room.heads()
    for ops in edits:
        try:
            room.edit(*ops)
        except RuntimedError:
            continue
    at_room.receive(room, barrier)
    assert (at_room.generate(room) is not None) == (room.heads() != before)


def test_every_function_of_sync_refuses_null() -> None:
    state, replica, out, flag = SyncState(), Replica("n"), new_buffer(), ffi.new("int32_t *")
    assert call("rtd_sync_new", ffi.NULL) == lib.RTD_E_NULL
    for arguments in (
        (ffi.NULL, replica.handle, out),
        (state.handle, ffi.NULL, out),
        (state.handle, replica.handle, ffi.NULL),
    ):
        assert call("rtd_sync_generate", *arguments) == lib.RTD_E_NULL
    for first, second in ((ffi.NULL, replica.handle), (state.handle, ffi.NULL)):
        assert call("rtd_sync_receive", first, second, ffi.NULL, 0) == lib.RTD_E_NULL
        assert call("rtd_sync_converged", first, second, flag) == lib.RTD_E_NULL
    assert call("rtd_sync_receive", state.handle, replica.handle, ffi.NULL, 1) == lib.RTD_E_NULL
    assert call("rtd_sync_converged", state.handle, replica.handle, ffi.NULL) == lib.RTD_E_NULL
