"""The checks of the state machine of rooms: everything comes to its end, then the room is compared with the model."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from typing import Any

from hypothesis import note
from hypothesis.stateful import rule

from runtimed_ffi.testing import peers as raw
from runtimed_ffi.testing.replicas import Replica
from runtimed_ffi.testing.wire import Json
from stress import model, script
from stress.room_state import BLOCKED, DEAF, Cell, Member, RoomState


class Checks(RoomState):
    """`calm` and what it compares."""

    @rule()
    def read_on(self) -> None:
        for member in self.members:
            member.peer.slow = False

    # -- calm

    @rule()
    def calm(self) -> None:
        """Everything comes to its end, then the room is compared with the model."""
        self.tally["calm"] += 1
        self.read_on()
        self.finish_runs()
        raw.settle(self.all_peers())
        self.daemon.check_alive()
        self.screen.feed(self.witness.broadcasts)
        assert (self.screen.executing, self.screen.queued) == (None, [])
        queue = raw.ask(self.witness, "get_queue_state", others=self.all_peers())
        assert (queue["executing"], queue["queued"]) == (None, [])
        self.check_cells()
        self.check_replicas()
        found = model.executions(self.witness.broadcasts)
        self.check_executions(found)
        self.check_answers(found)
        self.check_outputs()
        for member in self.members:
            received = member.peer.broadcasts
            assert model.ends_with(received, self.witness.broadcasts), "broadcasts were lost, doubled or reordered"
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
        """Until nothing runs or waits: waiting scripts are released, blocking ones interrupted, deaf ones stopped."""
        os.write(self.fifo, b"x" * 1000)
        handled: set[str] = set()
        while True:
            # Requests first: their broadcasts follow.
            requests = [(member.peer, number) for member in self.members for number in member.requests]
            seen = self.progress()
            number = self.witness.post("get_queue_state")
            raw.pump(self.all_peers(), lambda n=number: n in self.witness.responses, what="the queue")
            state = self.witness.responses[number]
            answered = all(peer.ended or number in peer.responses for peer, number in requests)
            if answered and state["executing"] is None and not state["queued"]:
                break
            self.help_along(handled)
            raw.pump(self.all_peers(), lambda s=seen: self.progress() != s, what="the end of what runs")
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fifo, 4096):
                pass

    def progress(self) -> tuple[int, int]:
        return len(self.witness.broadcasts), sum(len(member.peer.responses) for member in self.members)

    def help_along(self, handled: set[str]) -> None:
        shown: dict[str, str] = {}
        for broadcast in self.witness.broadcasts:
            if broadcast["event"] == "output" and broadcast["execution_id"] not in handled:
                text = model.item(self.blobs.output(broadcast["output_json"]))[1]
                if text in (BLOCKED, DEAF):
                    shown[broadcast["execution_id"]] = text
        done = {broadcast["execution_id"] for broadcast in self.witness.of("execution_done")}
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
        """Of the last messages of a peer that left, the first ones have arrived."""
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
        counts = [broadcast["execution_count"] for broadcast in self.witness.of("execution_started")]
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
            assert run.code in cell.sources, "the executed source is not the written one"
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
        shown_updates = Counter((t["display_id"], t["data"]["text/plain"]) for t in self.display_updates())
        assert not updates - shown_updates, "a display update was lost"
        assert not shown_updates - possible, "a display update was not sent, or came twice"

    def display_updates(self) -> list[Json]:
        return [broadcast for broadcast in self.witness.of("display_update") if "text/plain" in broadcast["data"]]

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
                    # A launch or a reply that is pending fails when the kernel ends meanwhile.
                    assert self.shutdowns or self.kernel_deaths(), answer
                    continue
                assert result in results[action], f"{action}: {answer}"
                if result == "cell_queued":
                    owners.setdefault(answer["execution_id"], []).append((cell_id, source))
                for name in answer.get("execution_ids", []):
                    owners.setdefault(name, []).append(("", ""))
        for name, askers in owners.items():
            assert name in found, f"queued and never received of again: {name}"
            ((cell_id, source), *others) = askers
            started = found[name].started
            if cell_id and not others and started is not None and not self.left and self.cells[cell_id].sources:
                assert found[name].done["cell_id"] == cell_id
                cell = self.cells[cell_id]
                count = started["execution_count"]
                if cell.sources[-1] == source and len(cell.sources) <= 2:
                    assert self.daemon.runs(count)[count][0][1] == source

    def kernel_deaths(self) -> bool:
        return any(broadcast["status"].startswith("error") for broadcast in self.witness.of("kernel_status"))

    def check_outputs(self) -> None:
        for cell in self.witness.document.cells():
            shown = model.merged(model.item(self.blobs.output(element)) for element in cell["outputs"])
            assert shown == self.screen.shows(cell["id"]), f"{cell['id']} shows something else than the broadcasts said"
            started = self.witness.of("execution_started", cell_id=cell["id"])
            counts = {None} | ({started[-1]["execution_count"]} if started else set())
            assert cell["execution_count"] in counts
