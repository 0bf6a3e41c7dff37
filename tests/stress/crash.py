"""The driver of the crash test: edits and runs on a daemon, and what the daemon confirmed.

One peer per room. Confirmed when the daemon dies: every edit whose change the daemon has announced as its own, every
output and count that has arrived; of the later edits the first ones, in the order they were sent.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from runtimed_ffi.testing import peers as raw
from runtimed_ffi.testing.wire import Json
from stress import model, script
from stress.daemon_process import KERNEL, DaemonProcess

Cells = dict[str, Json]


class Gone(Exception):
    """The daemon has died."""


class Room:
    """A peer of one room and what the daemon confirmed to it."""

    def __init__(self, daemon: DaemonProcess, notebook_id: str) -> None:
        self.daemon = daemon
        self.notebook_id = notebook_id
        self.blobs = model.Blobs(daemon.base / "blobs")
        self.confirmed: Cells = {}
        """The cells as the daemon has confirmed them."""
        self.order: list[str] = []
        self.sent: list[tuple[str, str, str]] = []
        """Edits not confirmed yet: kind, cell, detail."""
        self.asked: set[str] = set()
        """Cells that may have been run, or emptied for it, since their outputs came last."""
        self.shown: dict[str, Json] = {}
        """Outputs and counts that have come."""
        self.serial = 0
        self.peer: raw.Peer | None = None

    # -- life

    def enter(self) -> None:
        """Join, and compare the document with what was confirmed."""
        peer = raw.Peer(self.daemon.socket, self.notebook_id)
        self.peer = peer
        raw.pump([peer], lambda: peer.converged() or peer.ended, what="joining")
        if peer.ended:
            raise Gone
        self.compare()
        self.confirm()
        self.asked.clear()

    def leave(self) -> None:
        """The connection has ended, or ends now; what has come stays confirmed."""
        if self.peer is not None:
            for cell in self.peer.document.cells():
                self.shown[cell["id"]] = cell
            self.peer.close()
            self.peer = None

    def confirm(self) -> None:
        """The daemon has all that the peer has."""
        assert self.peer is not None
        cells = self.peer.document.cells()
        self.confirmed = {cell["id"]: cell for cell in cells}
        self.order = [cell["id"] for cell in cells]
        self.shown = dict(self.confirmed)
        self.sent.clear()

    def step(self) -> None:
        """Take what has come."""
        assert self.peer is not None
        self.peer.flush()
        self.peer.read()
        if self.peer.ended:
            raise Gone
        if self.peer.converged():
            self.confirm()

    def await_promise(self) -> None:
        """Until everything sent so far is confirmed."""
        peer = self.peer
        assert peer is not None
        raw.pump([peer], lambda: peer.converged() or peer.ended, what="the confirmation of edits")
        if peer.ended:
            raise Gone
        self.confirm()

    def rest(self) -> None:
        """Until nothing runs and everything is confirmed, all outputs too."""
        peer = self.peer
        assert peer is not None
        while True:
            # Before the question: the end may arrive together with the answer, and nothing after it.
            seen = len(peer.broadcasts)
            number = peer.post("get_queue_state")
            raw.pump([peer], lambda n=number: n in peer.responses or peer.ended, what="the queue")
            if peer.ended:
                raise Gone
            state = peer.responses[number]
            if state["executing"] is None and not state["queued"]:
                break
            raw.pump([peer], lambda s=seen: len(peer.broadcasts) > s or peer.ended, what="the end of what runs")
        number = peer.post_barrier()
        raw.pump([peer], lambda: number in peer.responses or peer.ended, what="the barrier")
        self.await_promise()
        self.asked.clear()

    # -- what it does

    def text(self) -> str:
        self.serial += 1
        return f"{self.notebook_id}-{self.serial}"

    def edit(self, kind: str, cell_id: str, detail: str, op: Json) -> None:
        assert self.peer is not None
        self.sent.append((kind, cell_id, detail))
        self.peer.edit({"op": op.pop("op"), "cell_id": cell_id, **op})

    def act(self, chance: random.Random) -> None:
        """One edit or request."""
        peer = self.peer
        assert peer is not None
        cells = peer.document.cells()
        notes = [cell for cell in cells if cell["cell_type"] == "markdown"]
        codes = [cell for cell in cells if cell["cell_type"] == "code"]
        what = chance.choice(["add", "type", "type", "type", "erase", "delete", "run", "run", "clear", "long"])
        if what == "add" or not notes:
            kind = chance.choice(["markdown", "markdown", "code"])
            place = chance.randrange(len(cells) + 1)
            op = {"op": "insert_cell", "cell_type": kind, "source": "", "index": place}
            self.edit("add", self.text(), "", op)
        elif what in ("type", "long"):
            word = self.text() + ("x" * 2_000 if what == "long" else "")
            self.edit("type", chance.choice(notes)["id"], word, {**_SPLICE, "insert": word + " "})
        elif what == "erase":
            cell = chance.choice(notes)
            words = cell["source"].split()
            if words:
                word = chance.choice(words)
                op = {**_SPLICE, "index": cell["source"].index(word + " "), "delete": len(word) + 1}
                self.edit("erase", cell["id"], word, op)
        elif what == "delete" and len(cells) > 8:
            self.edit("delete", chance.choice(cells)["id"], "", {"op": "delete_cell"})
        elif what == "run" and codes:
            cell = chance.choice(codes)
            display = self.text()
            steps: list[tuple[Any, ...]] = [("out", self.text()), ("show", self.text(), display)]
            steps.append(chance.choice([("many", 60, self.text()), ("lines", 50, self.text()), ("err", "e" * 20_000)]))
            steps.append(chance.choice([("update", display, self.text()), ("fail", "E", ""), ("result", "r")]))
            source = script.write(*steps)
            self.asked.add(cell["id"])
            self.edit("source", cell["id"], source, {"op": "set_source", "source": source})
            peer.post("execute_cell", cell_id=cell["id"])
        elif what == "clear" and codes:
            cell = chance.choice(codes)
            self.asked.add(cell["id"])
            peer.post("clear_outputs", cell_id=cell["id"])

    def launch(self) -> None:
        assert self.peer is not None
        self.peer.post("launch_kernel", kernel_type=KERNEL, env_source="auto", notebook_path=None)

    # -- what must be there

    def compare(self) -> None:
        assert self.peer is not None
        cells = self.peer.document.cells()
        now = {cell["id"]: cell for cell in cells}
        assert len(now) == len(cells), "a cell is there twice"
        arrived = self.arrived(now)
        unsure = self.sent
        deleted = {cell_id for kind, cell_id, _ in unsure if kind == "delete"}
        for cell_id, cell in self.confirmed.items():
            if cell_id not in now:
                assert cell_id in deleted, f"the confirmed cell {cell_id} is lost"
                continue
            erased = {detail for kind, name, detail in unsure if kind == "erase" and name == cell_id}
            words, there = set(cell["source"].split()), set(now[cell_id]["source"].split())
            if cell["cell_type"] == "markdown":
                assert words - there <= erased, f"confirmed text is lost: {words - there - erased}"
            else:
                sources = [detail for kind, name, detail in unsure if kind == "source" and name == cell_id]
                assert now[cell_id]["source"] in [cell["source"], *sources]
        typed = {detail for kind, _, detail in unsure if kind == "type"}
        for cell_id, cell in now.items():
            known = cell_id in self.confirmed
            assert known or ("add", cell_id, "") in unsure, f"{cell_id} came from nowhere"
            if cell["cell_type"] == "markdown":
                words = set(self.confirmed[cell_id]["source"].split()) if known else set()
                assert set(cell["source"].split()) - words <= typed, "there is text that was never typed"
            self.compare_outputs(cell)
        kept = [cell_id for cell_id in self.order if cell_id in now]
        assert [cell["id"] for cell in cells if cell["id"] in self.confirmed] == kept, "cells changed their order"
        assert arrived == sorted(arrived, reverse=True), f"an edit arrived without the one before it: {unsure}"

    def arrived(self, now: Cells) -> list[bool]:
        """Of the unconfirmed edits: which have arrived, as far as later ones do not hide it."""
        deleted = {cell_id for kind, cell_id, _ in self.sent if kind == "delete"}
        erased = {detail for kind, _, detail in self.sent if kind == "erase"}
        flags = []
        for kind, cell_id, detail in self.sent:
            if kind == "add" and cell_id not in deleted:
                flags.append(cell_id in now)
            elif kind == "type" and cell_id not in deleted and detail not in erased:
                flags.append(cell_id in now and detail in now[cell_id]["source"].split())
            elif kind == "delete" and ("add", cell_id, "") not in self.sent:
                flags.append(cell_id not in now)
        return flags

    def compare_outputs(self, cell: Json) -> None:
        """What came is there; what is there is whole, and begins as the kernel's notes do."""
        outputs = [self.blobs.output(element) for element in cell["outputs"]]
        before = self.shown.get(cell["id"])
        if before is not None and cell["id"] not in self.asked:
            assert cell["outputs"] == before["outputs"], f"outputs of {cell['id']} are lost: {outputs}"
            assert cell["execution_count"] == before["execution_count"]
        count = cell["execution_count"]
        if cell["id"] not in self.asked or count is None:
            return
        shown = model.merged(model.item(output) for output in outputs)
        run = model.Run(count, self.daemon.runs(count)[count])
        if run.updates():
            assert before is None or count != before["execution_count"] or len(outputs) >= len(before["outputs"])
            return
        assert model.begins(shown, run.items()), f"{shown} is no beginning of {run.items()}"
        if before is not None and count == before["execution_count"]:
            earlier = model.merged(model.item(self.blobs.output(element)) for element in before["outputs"])
            assert model.begins(earlier, shown), f"of {earlier} only {shown} is left"


_SPLICE: Json = {"op": "splice_source", "index": 0, "delete": 0, "insert": ""}


def burst(rooms: Iterable[Room], chance: random.Random, acts: int) -> None:
    """Edits and requests without reading anything in between."""
    for _ in range(acts):
        for room in rooms:
            room.act(chance)
