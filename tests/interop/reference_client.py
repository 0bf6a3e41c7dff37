"""The reference's client, emulated from its description: its time limits, its strict parsing and its way of writing.

Source: protocol 2, sections 5.2, 5.4 and 12. Where our daemon relies on more than these sections
allow, the tests with this client fail. What is emulated:

* header and payload of a frame in two separate writes;
* the start: capabilities, one sync frame, then whatever comes until 100 ms of silence;
* an edit waits up to 500 ms for one frame and throws it away if it is no sync frame;
* between calls, and while it waits for broadcasts, one frame per tick of 50 ms, with the credit of idle time;
* responses are matched by order; 30 s for each;
* an unknown variant, or wrong members, end the connection; unknown members do not;
* outputs are those of the broadcasts, resolved as JSON text, then from the `blobs` directory that was beside the socket
  at connect time, and nothing else; 50 ms without a broadcast after `execution_done` end the collection.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections import deque
from typing import Any, Callable

from interop.reference_peer import Broken, Failure, Peer
from runtimed_ffi.testing.wire import (
    BROADCAST,
    NAMES,
    REQUEST,
    RESPONSE,
    SYNC,
    Json,
    encode,
)

SILENCE = 0.1
EDIT_SECONDS = 0.5
RESPONSE_SECONDS = 30.0
TICK = 0.05
FRAME_SECONDS = 0.1
DRAIN = 0.05
ATTEMPT = 0.1
QUEUE = 64
_HASH = re.compile(r"[0-9a-fA-F]{64}\Z")


class ReferenceClient(Peer):
    """`runtimed.Session` of the reference: its calls, its results, its texts."""

    def __init__(self, path: str, notebook_id: str) -> None:
        self.notebook_id = notebook_id
        self.kernel_started = False
        self.env_source: str | None = None
        self.thrown_away: list[Json] = []
        self._queue: deque[Json] = deque()
        self._next_tick = time.monotonic()
        super().__init__(path, notebook_id)
        payload = self._read(None)
        assert payload is not None
        if json.loads(payload).get("protocol") != "v2":
            raise Broken(f"capabilities: {payload!r}")
        first = self.read(None)
        assert first is not None
        if first[0] != SYNC:
            raise Failure(f"Sync protocol error: expected AutomergeSync frame, got {NAMES[first[0]]}")
        self.apply(first[1])
        self.answer()
        while True:
            got = self.read(SILENCE)
            if got is None:
                break
            self._handle(*got)
        beside = os.path.join(os.path.dirname(path), "blobs")
        self._blobs = beside if os.path.isdir(beside) else None
        self._next_tick = time.monotonic()

    def __repr__(self) -> str:
        return f"Session(id={self.notebook_id}, status={'kernel_running' if self.kernel_started else 'connected'})"

    # -- the connection task

    def _handle(self, kind: int, content: Any) -> None:
        if kind == SYNC:
            self.apply(content)
            self.answer()
        elif kind == BROADCAST:
            self._queue.append(content)
            # The reference would block here for ever, because nothing reads the queue in between.
            assert len(self._queue) <= QUEUE, "64 unread broadcasts: the reference hangs"

    def _tick(self, deadline: float) -> None:
        now = time.monotonic()
        if self._next_tick > now:
            time.sleep(max(0.0, min(self._next_tick, deadline) - now))
            if deadline < self._next_tick:
                return
        self._next_tick += TICK
        got = self.read(max(0.0, min(FRAME_SECONDS, deadline - time.monotonic())))
        if got is not None:
            self._handle(*got)

    def sleep(self, seconds: float) -> None:
        """`time.sleep` of the reference; its task goes on reading meanwhile."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._tick(deadline)

    def sleep_until(self, condition: Callable[[], Any], seconds: float = 30.0) -> None:
        """As `sleep`, until the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition did not become true"
            self.sleep(0.05)

    def _edit(self, *ops: Json) -> None:
        self.document.edit(*ops)
        message = self.sync.generate(self.document)
        if message is None:
            return
        self.send(SYNC, message)
        got = self.read(EDIT_SECONDS)
        if got is not None and got[0] == SYNC:
            self.apply(got[1])
        elif got is not None:
            self.thrown_away.append(got[1])

    def request(self, action: str, **members: Any) -> Json:
        self.send(REQUEST, encode({"action": action, **members}))
        deadline = time.monotonic() + RESPONSE_SECONDS
        while True:
            got = self.read(max(0.0, deadline - time.monotonic()))
            if got is None:
                raise Failure("Connection timeout")
            kind, content = got
            if kind == RESPONSE:
                response: Json = content
                return response
            if kind == SYNC:
                self.apply(content)
            else:
                self._queue.append(content)

    # -- the calls

    def start_kernel(self, kernel_type: str = "python", env_source: str = "uv:prewarmed") -> None:
        response = self.request("launch_kernel", kernel_type=kernel_type, env_source=env_source, notebook_path=None)
        if response["result"] not in ("kernel_launched", "kernel_already_running"):
            raise _unexpected(response)
        self.kernel_started = True
        self.env_source = response["env_source"]

    def create_cell(self, source: str = "", cell_type: str = "code", index: int | None = None) -> str:
        cell_id = f"cell-{uuid.uuid4()}"
        op: Json = {"op": "insert_cell", "cell_id": cell_id, "cell_type": cell_type, "source": ""}
        self._edit(op if index is None else {**op, "index": index})
        if source:
            self.set_source(cell_id, source)
        return cell_id

    def set_source(self, cell_id: str, source: str) -> None:
        self.get_cell(cell_id)
        self._edit({"op": "set_source", "cell_id": cell_id, "source": source})

    def delete_cell(self, cell_id: str) -> None:
        self.get_cell(cell_id)
        self._edit({"op": "delete_cell", "cell_id": cell_id})

    def get_cells(self) -> list[Json]:
        return [_cell(cell) for cell in self.document.cells()]

    def get_cell(self, cell_id: str) -> Json:
        cell = self.document.cell(cell_id)
        if cell is None:
            raise Failure(f"Cell not found: {cell_id}")
        return _cell(cell)

    def run(self, code: str, timeout_secs: float = 60.0) -> Json:
        return self.execute_cell(self.create_cell(code), timeout_secs)

    def execute_cell(self, cell_id: str, timeout_secs: float = 60.0) -> Json:
        if not self.kernel_started:
            raise Failure("Kernel not started. Call start_kernel() first.")
        response = self.request("execute_cell", cell_id=cell_id)
        if response["result"] != "cell_queued":
            raise _unexpected(response)
        return self._collect(cell_id, timeout_secs)

    def interrupt(self) -> None:
        response = self.request("interrupt_execution")
        if response["result"] == "no_kernel":
            raise Failure("No kernel running")
        if response["result"] != "interrupt_sent":
            raise _unexpected(response)

    def shutdown_kernel(self) -> None:
        response = self.request("shutdown_kernel")
        if response["result"] not in ("kernel_shutting_down", "no_kernel"):
            raise _unexpected(response)
        self.kernel_started = False
        self.env_source = None

    # -- outputs (12.3, 12.4)

    def _next_broadcast(self, seconds: float) -> Json | None:
        deadline = time.monotonic() + seconds
        while not self._queue:
            if time.monotonic() >= deadline:
                return None
            self._tick(deadline)
        return self._queue.popleft()

    def _collect(self, cell_id: str, timeout_secs: float) -> Json:
        deadline = time.monotonic() + timeout_secs
        outputs: list[Json] = []
        success, count, drain = True, None, False
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failure(f"Execution timed out after {timeout_secs:g} seconds")
            event = self._next_broadcast(min(left, DRAIN if drain else ATTEMPT))
            if event is None:
                if drain:
                    break
                continue
            if event["event"] == "kernel_error":
                success, drain = False, True
                outputs.append(_output("error", ename="KernelError", evalue=event["error"], traceback=[]))
            if event.get("cell_id") != cell_id:
                continue
            if event["event"] == "execution_started":
                count = event["execution_count"]
            elif event["event"] == "output":
                output = self.resolve(event["output_type"], event["output_json"])
                if output is not None:
                    outputs.append(output)
                if event["output_type"] == "error":
                    success = False
            elif event["event"] == "execution_done":
                drain = True
        texts = {
            name: "".join(output["text"] for output in outputs if output["name"] == name)
            for name in ("stdout", "stderr")
        }
        return {"success": success, "execution_count": count, **texts, "outputs": outputs}

    def resolve(self, output_type: str, element: str) -> Json | None:
        """The output, `None` for one that the reference drops without a trace."""
        try:
            return _from_nbformat(json.loads(element))
        except ValueError:
            pass
        if _HASH.match(element) and self._blobs is not None:
            try:
                manifest = json.loads(self._blob(element))
                return self._from_manifest(output_type, manifest)
            except OSError:
                pass
        if output_type == "error":
            evalue = f"Failed to parse error output: {element}"
            return _output("error", ename="OutputParseError", evalue=evalue, traceback=[])
        return _output("stream", name="stderr", text=f"Failed to parse output: {element}")

    def _blob(self, name: str) -> str:
        assert self._blobs is not None
        with open(os.path.join(self._blobs, name[:2], name[2:]), "rb") as file:
            return file.read().decode("utf-8")

    def _content(self, reference: Json) -> str:
        return str(reference["inline"]) if "inline" in reference else self._blob(reference["blob"])

    def _from_manifest(self, output_type: str, manifest: Json) -> Json | None:
        try:
            if output_type == "stream":
                return _output("stream", name=manifest["name"], text=self._content(manifest["text"]))
            if output_type in ("display_data", "execute_result"):
                data = {kind: self._content(value) for kind, value in manifest["data"].items()}
                count = manifest["execution_count"] if output_type == "execute_result" else None
                if output_type == "execute_result" and not isinstance(count, int):
                    return None
                return _output(output_type, data=data, execution_count=count)
            traceback = manifest["traceback"]
            lines = traceback if isinstance(traceback, list) else json.loads(self._content(traceback))
            return _output("error", ename=manifest["ename"], evalue=manifest["evalue"], traceback=lines)
        except (KeyError, TypeError):
            return None


def _from_nbformat(value: Any) -> Json | None:
    """An output as JSON text; the shapes that do not fit are lost (12.4)."""
    if not isinstance(value, dict):
        return None
    kind = value.get("output_type")
    if kind == "stream" and isinstance(value.get("text"), str):
        return _output("stream", name=value.get("name"), text=value["text"])
    if kind in ("display_data", "execute_result") and isinstance(value.get("data"), dict):
        count = value.get("execution_count")
        if kind == "execute_result" and not isinstance(count, int):
            return None
        data = {mime: text if isinstance(text, str) else json.dumps(text) for mime, text in value["data"].items()}
        return _output(kind, data=data, execution_count=count)
    if kind == "error" and isinstance(value.get("traceback"), list):
        return _output("error", ename=value["ename"], evalue=value["evalue"], traceback=value["traceback"])
    return None


def _output(output_type: str, **members: Any) -> Json:
    names = ("name", "text", "data", "ename", "evalue", "traceback", "execution_count")
    return {"output_type": output_type, **dict.fromkeys(names), **members}


def _cell(cell: Json) -> Json:
    return {name: cell[name] for name in ("id", "cell_type", "source", "execution_count")}


def _unexpected(response: Json) -> Failure:
    if response["result"] == "error":
        return Failure(response["error"])
    variant = "".join(part.capitalize() for part in response["result"].split("_"))
    return Failure(f"Unexpected response: {variant}")
