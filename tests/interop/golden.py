"""The recordings of the reference, made comparable: ids mapped, and what the specification leaves open removed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from runtimed_ffi.testing.wire import Json

DIRECTORY = Path(__file__).resolve().parent.parent / "golden" / "v2"

Event = tuple[Any, ...]


def scenario(name: str) -> Json:
    return dict(json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8")))


def results(name: str) -> dict[str, Any]:
    return {label if isinstance(label, str) else json.dumps(label): value for label, value in scenario(name)["results"]}


def frames(name: str, kind: str, connection: int = 0) -> list[Json]:
    """The JSON of all frames of a kind, on one notebook connection."""
    notebooks = [each for each in scenario(name)["connections"] if each["channel"] == "notebook_sync"]
    return [frame["json"] for frame in notebooks[connection]["frames"] if frame["kind"] == kind]


def normal(broadcasts: list[Json]) -> list[Event]:
    """The broadcasts of one connection in a canonical order, the same for all legal orders.

    Left out: the kernel's status of no cell (10.4: any order), and all but one `execution_done` of an execution. The
    queue's clearing by an error stands before the idle, the remaining `execution_done` behind it (5.10). Consecutive
    pieces of a stream count once.
    """
    events = _done_once([event for event in map(_Brief(), broadcasts) if event is not None])
    for place in range(len(events) - 2):
        idle, done, queue = events[place : place + 3]
        if idle[:2] == ("status", "idle") and done[0] == "done" and queue[:3] == ("queue", idle[2], ()):
            events[place : place + 3] = [queue, idle, done]
    return [event for place, event in enumerate(events) if not (_is_stream(event) and event == events[place - 1])]


def _is_stream(event: Event) -> bool:
    return event[0] == "output" and event[2] == "stream"


def _done_once(events: list[Event]) -> list[Event]:
    kept: list[Event] = []
    for event in events:
        if event[0] == "done":
            continue
        kept.append(event)
        if event[:2] == ("status", "idle"):
            kept.append(("done", event[2]))
    return kept


class _Brief:
    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    def _id(self, cell_id: str | None) -> str | None:
        if cell_id is None:
            return None
        return self._ids.setdefault(cell_id, f"cell {len(self._ids)}")

    def __call__(self, broadcast: Json) -> Event | None:
        event, cell = broadcast["event"], self._id(broadcast.get("cell_id"))
        if event == "queue_changed":
            # In the order of execution, so that ids are given out in the same order whatever came first.
            executing = self._id(broadcast["executing"])
            return ("queue", executing, tuple(self._id(each) for each in broadcast["queued"]))
        if event == "kernel_status":
            if cell is None and broadcast["status"] != "shutdown":
                return None
            return ("status", broadcast["status"], cell)
        if event == "execution_started":
            return ("started", cell, broadcast["execution_count"])
        if event == "output":
            return ("output", cell, broadcast["output_type"])
        return ("done" if event == "execution_done" else event, cell)


class Ids:
    """Pairs the ids of two worlds; the same one always has the same partner."""

    def __init__(self) -> None:
        self._there: dict[str, str] = {}
        self._back: dict[str, str] = {}

    def same(self, golden: str, ours: str) -> bool:
        return self._there.setdefault(golden, ours) == ours and self._back.setdefault(ours, golden) == golden

    def check_cells(self, golden: list[Json], ours: list[Json]) -> None:
        """Equal but for the execution count, which the reference never writes (7.3)."""
        assert len(golden) == len(ours)
        for one, other in zip(golden, ours):
            assert self.same(one["id"], other["id"]), (golden, ours)
            assert (one["cell_type"], one["source"]) == (other["cell_type"], other["source"])
            assert one["execution_count"] in (None, other["execution_count"])


def check_result(golden: Json, ours: Json) -> None:
    """The same result, apart from the cuts of streams and texts that differ between interpreters."""
    for name in ("success", "execution_count", "stdout", "stderr"):
        assert golden[name] == ours[name], (name, golden, ours)
    assert _outputs(golden["outputs"]) == _outputs(ours["outputs"])


def _outputs(outputs: list[Json]) -> list[Json]:
    joined: list[Json] = []
    for output in outputs:
        output = dict(output)
        last = joined[-1] if joined else None
        if last is not None and output["output_type"] == "stream" and output["name"] == last["name"]:
            last["text"] += output["text"]
            continue
        if output["output_type"] == "error":
            output["evalue"] = re.sub(r"[0-9]+", "#", output["evalue"])
            if output["ename"] == "SyntaxError":
                assert output["evalue"]
                output["evalue"] = None
            assert output["traceback"]
            output["traceback"] = None
        joined.append(output)
    return joined


def check_order(stream: list[tuple[str, str, Any]]) -> None:
    """Rules for a daemon's stream: 5.5 (1 and 4), 5.9, and one `execution_done` per execution (14.2, item 6)."""
    waiting: list[Json] = []
    known: set[str | None] = set()
    running: dict[str, list[str]] = {}
    finished: set[str] = set()
    for sender, kind, content in stream:
        if sender == "client" and kind == "Request":
            waiting.append(dict(content, fresh=content.get("cell_id") not in known))
            known.add(content.get("cell_id"))
        elif kind == "response":
            assert waiting, f"a response without request: {content}"
            _check_answer(waiting.pop(0), content)
        elif kind == "broadcast":
            event, cell = content["event"], content.get("cell_id")
            if event == "queue_changed":
                queue = {content["executing"], *content["queued"]}
                known |= queue
                for request in waiting:
                    named = request["action"] == "execute_cell" and request["cell_id"] in queue
                    assert not (named and request["fresh"]), "a broadcast before the response to its cause"
            elif event == "kernel_status" and cell is None:
                for request in waiting:
                    request.setdefault("statuses", []).append(content["status"])
            elif event == "execution_started":
                assert cell not in running, f"started twice: {content}"
                running[cell] = []
                finished.discard(cell)
            elif event == "output":
                assert cell in running, f"an output outside an execution: {content}"
                assert "idle" not in running[cell], f"an output after the idle: {content}"
            elif event == "kernel_status" and cell in running and content["status"] == "idle":
                running[cell].append("idle")
            elif event == "execution_done":
                assert cell not in finished, f"a second execution_done: {content}"
                finished.add(cell)
                assert content["status"] in ("cancelled", "kernel_died") or running[cell] == ["idle"], content
                running.pop(cell, None)
    assert not running, f"without execution_done: {running}"


_ANSWERS = {
    "launch_kernel": {"kernel_launched", "kernel_already_running"},
    "queue_cell": {"cell_queued", "no_kernel"},
    "execute_cell": {"cell_queued", "no_kernel"},
    "clear_outputs": {"outputs_cleared"},
    "interrupt_execution": {"interrupt_sent", "no_kernel"},
    "shutdown_kernel": {"kernel_shutting_down", "no_kernel"},
    "get_kernel_info": {"kernel_info"},
    "get_queue_state": {"queue_state"},
    "run_all_cells": {"all_cells_queued", "no_kernel"},
    "send_comm": {"ok", "no_kernel"},
    "get_history": {"history_result", "no_kernel"},
    "complete": {"completion_result", "no_kernel"},
    "save_notebook": {"notebook_saved"},
}


def _check_answer(request: Json, response: Json) -> None:
    assert response["result"] in _ANSWERS[request["action"]] | {"error"}, (request, response)
    caused = {"kernel_launched": "starting", "kernel_shutting_down": "shutdown"}.get(response["result"])
    assert caused not in request.get("statuses", ()), "a broadcast before the response to its cause"
    if "cell_id" in response:
        assert response["cell_id"] == request["cell_id"]
