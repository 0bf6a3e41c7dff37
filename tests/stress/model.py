"""What must be true of a room, by the notes of its kernels and the broadcasts that a peer received.

Plain Python on JSON values; no sockets, no Automerge.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stress import script

Json = dict[str, Any]
Item = tuple[str, ...]
"""An output as a test writes it: its kind and its texts."""

_HASH = re.compile(r"[0-9a-f]{64}\Z")


class Blobs:
    """The blob store of a daemon, read from disk and checked on the way."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def read(self, name: str) -> bytes:
        """A blob; it must be there and be what its name says."""
        data = (self.directory / name[:2] / name[2:]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == name, f"blob {name} is damaged"
        return data

    def _text(self, reference: Json) -> str:
        return str(reference["inline"]) if "inline" in reference else self.read(reference["blob"]).decode()

    def output(self, element: str) -> Json:
        """An element of the document as an nbformat output: itself, or what its manifest says (8.2)."""
        if not _HASH.match(element):
            output: Json = json.loads(element)
            return output
        manifest: Json = json.loads(self.read(element))
        for name in ("text", "traceback"):
            if name in manifest:
                manifest[name] = self._text(manifest[name])
        if "data" in manifest:
            manifest["data"] = {kind: self._text(value) for kind, value in manifest["data"].items()}
        return manifest


def item(output: Json) -> Item:
    """An output in short."""
    kind = output["output_type"]
    if kind == "stream":
        return (kind, output["name"], output["text"])
    if kind == "error":
        return (kind, output["ename"], output["evalue"])
    transient = output.get("transient") or {}
    return (kind, output["data"].get("text/plain", ""), transient.get("display_id", ""))


def merged(items: Iterable[Item]) -> list[Item]:
    """Neighbouring pieces of one stream are one output, however they were cut."""
    whole: list[Item] = []
    for one in items:
        if whole and one[0] == "stream" and whole[-1][:2] == one[:2]:
            whole[-1] = (*one[:2], whole[-1][2] + one[2])
        else:
            whole.append(one)
    return [one for one in whole if one[0] != "stream" or one[2]]


def begins(items: Sequence[Item], whole: Sequence[Item]) -> bool:
    """Whether `items` are the beginning of `whole`; the last one may be a part of a stream."""
    if not items:
        return True
    *front, last = items
    if len(items) > len(whole) or front != list(whole[: len(front)]):
        return False
    other = whole[len(front)]
    return last == other or (last[0] == "stream" == other[0] and last[1] == other[1] and other[2].startswith(last[2]))


class Run:
    """What a kernel did in one execution, from its notes."""

    def __init__(self, count: int, notes: Sequence[Sequence[Any]]) -> None:
        self.count = count
        self.code = str(notes[0][1])
        self.steps = [note for note in notes[1:] if note[0] in script.WORDS]
        ends = [note[1] for note in notes[1:] if note[0] == "end"]
        self.end: str | None = ends[0] if ends else None
        """``ok`` or ``error`` when it came to its end."""
        self.lost = next((step[1] for step in self.steps if step[0] == "lose"), None)

    @property
    def interrupted(self) -> bool:
        return ["fail", "KeyboardInterrupt", ""] in self.steps

    @property
    def flushed(self) -> bool:
        """Whether everything it printed left the process."""
        return self.end is not None or any(step[0] == "exit" for step in self.steps)

    def items(self) -> list[Item]:
        """The outputs it gives, in order; those that clear_output removes as well."""
        found: list[Item] = []
        for step in self.steps:
            for kind, content in script.messages(step, self.count):
                if kind in ("stream", "display_data", "execute_result", "error"):
                    found.append(item({"output_type": kind, **content}))
        pages = [("display_data", step[1], "") for step in self.steps if step[0] == "page"]
        return merged(found + (pages if self.lost != "reply" and self.end is not None else []))

    def updates(self) -> list[tuple[str, str]]:
        """The display updates it gives: id and text."""
        return [(step[1], step[2]) for step in self.steps if step[0] == "update"]


class Execution(NamedTuple):
    """The broadcasts of one execution at a peer that read everything."""

    execution_id: str
    started: Json | None
    outputs: list[str]
    done: Json


def executions(broadcasts: Sequence[Json]) -> dict[str, Execution]:
    """All executions, each with exactly one end, behind everything else that belongs to it."""
    started: dict[str, Json] = {}
    outputs: dict[str, list[str]] = {}
    done: dict[str, Json] = {}
    for broadcast in broadcasts:
        event, name = broadcast["event"], broadcast.get("execution_id")
        if event == "execution_started":
            assert name not in started, f"started twice: {broadcast}"
            assert name not in done, f"started after its end: {broadcast}"
            started[name] = broadcast
        elif event == "output":
            assert name in started, f"an output before the start: {broadcast}"
            assert name not in done, f"an output after the end: {broadcast}"
            outputs.setdefault(name, []).append(broadcast["output_json"])
        elif event == "execution_done":
            assert name not in done, f"ended twice: {done[name]} and {broadcast}"
            done[name] = broadcast
    assert set(started) <= set(done), f"never ended: {[started[name] for name in set(started) - set(done)]}"
    return {name: Execution(name, started.get(name), outputs.get(name, []), done[name]) for name in done}


class Screen:
    """What the cells of a room show, by its broadcasts alone."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.executing: str | None = None
        self.queued: list[str] = []
        self.outputs: dict[str, list[Json]] = {}
        self._seen = 0

    def feed(self, broadcasts: Sequence[Json]) -> None:
        """Take the broadcasts that are new since the last call."""
        for broadcast in broadcasts[self._seen :]:
            self._take(broadcast)
        self._seen = len(broadcasts)

    def _take(self, broadcast: Json) -> None:
        event = broadcast["event"]
        if event == "queue_changed":
            if broadcast["executing"] is not None and broadcast["executing"] != self.executing:
                self.outputs[broadcast["executing"]] = []
            self.executing, self.queued = broadcast["executing"], broadcast["queued"]
        elif event == "output":
            self.outputs.setdefault(broadcast["cell_id"], []).append(self._blobs.output(broadcast["output_json"]))
        elif event == "outputs_cleared":
            self.outputs[broadcast["cell_id"]] = []
        elif event == "display_update":
            for outputs in self.outputs.values():
                for output in outputs:
                    if (output.get("transient") or {}).get("display_id") == broadcast["display_id"]:
                        output["data"] = broadcast["data"]

    def shows(self, cell_id: str) -> list[Item]:
        """The outputs of a cell."""
        return merged(item(output) for output in self.outputs.get(cell_id, ()))


def is_slice(part: Sequence[Json], whole: Sequence[Json]) -> bool:
    """Whether `part` is in `whole` in one piece: nothing lost, doubled or out of order in between."""
    if not part:
        return True
    last = len(whole) - len(part)
    return any(whole[at] == part[0] and list(whole[at : at + len(part)]) == list(part) for at in range(last + 1))


def ends_with(part: Sequence[Json], whole: Sequence[Json]) -> bool:
    """Whether `whole` ends with `part`."""
    return not part or list(whole[len(whole) - len(part) :]) == list(part)
