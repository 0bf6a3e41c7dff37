"""A host that records, a kernel that plays a script, and the events between them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

from runtimed_ffi.daemon.environments.recipes import Made
from runtimed_ffi.daemon.ports import KernelGone, LaunchError, Message
from runtimed_ffi.errors import ArgumentError, CellNotFoundError, CorruptError


class FakeEvent(NamedTuple):
    kind: int
    code: int = 0
    token: int = 0
    peer: int = 0
    number: int = -1
    id: str = ""
    payload: bytes = b""
    text: str = ""


class FakeHost:
    """Records responses and publications in order, and applies the ops to plain cells."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self.documents: dict[str, list[dict[str, Any]]] = {}
        self.prepared: dict[str, str | None] = {}
        self.opened: list[tuple[str, str | None]] = []
        self.refused: list[str] = []
        self.closed: list[str] = []
        self.entered: list[str] = []
        """Rooms that a peer enters at the moment of their eviction."""
        self.waiting: list[str] = []
        """Rooms with a peer whose event is still in the queue."""
        self.disconnected: list[int] = []
        self.corrupt: list[str] = []
        self.publications = 0
        self.refuse_ops: list[str] = []
        self.metadata_of: dict[str, dict[str, str]] = {}

    def add_cell(self, notebook_id: str, cell_id: str, source: str, cell_type: str = "code") -> None:
        cell = {"id": cell_id, "cell_type": cell_type, "source": source, "execution_count": None, "outputs": []}
        self.documents.setdefault(notebook_id, []).append(cell)

    def prepare_room(self, notebook_id: str, journal: str | None = None) -> None:
        if journal in self.corrupt:
            self.corrupt.remove(journal)
            raise CorruptError("corrupt")
        self.prepared[notebook_id] = journal
        self.documents.setdefault(notebook_id, [])

    def admit(self, notebook_id: str) -> None:
        self.opened.append((notebook_id, self.prepared.pop(notebook_id)))

    def refuse_room(self, notebook_id: str) -> None:
        self.refused.append(notebook_id)

    def close_room(self, notebook_id: str) -> None:
        self.closed.append(notebook_id)

    def evict_room(self, notebook_id: str) -> bool:
        if notebook_id in self.entered:
            return False
        self.closed.append(notebook_id)
        return True

    def disconnect(self, peer: int) -> None:
        self.disconnected.append(peer)

    def rooms(self) -> list[dict[str, Any]]:
        return [
            {"notebook_id": key, "peers": self.waiting.count(key), "cells": len(cells)}
            for key, cells in self.documents.items()
        ]

    def metadata(self, notebook_id: str) -> dict[str, str]:
        return self.metadata_of.get(notebook_id, {})

    def cells(self, notebook_id: str) -> list[dict[str, Any]]:
        return json.loads(json.dumps(self.documents[notebook_id]))

    def cell(self, notebook_id: str, cell_id: str) -> dict[str, Any]:
        for cell in self.documents[notebook_id]:
            if cell["id"] == cell_id:
                return json.loads(json.dumps(cell))
        raise CellNotFoundError(f"Cell not found: {cell_id}")

    def send(self, peer: int, broadcast: Any) -> None:
        self.log.append(("sent", dict(json.loads(json.dumps(broadcast)), peer=peer)))

    def respond(self, token: int, response: Any) -> None:
        self.log.append(("response", dict(json.loads(json.dumps(response)), token=token)))

    def publish(
        self, notebook_id: str, ops: Sequence[Any] = (), broadcasts: Sequence[Any] = (), cause: int = 0
    ) -> None:
        for op in ops:
            if op["op"] in self.refuse_ops:
                raise ArgumentError("refused " + op["op"])
        self.publications += 1
        cells = json.loads(json.dumps(self.documents.setdefault(notebook_id, [])))
        for op in json.loads(json.dumps(list(ops))):
            assert op.pop("if_present")
            self._apply(cells, op)
        # All or nothing; in place, because tests hold on to the list.
        self.documents[notebook_id][:] = cells
        for broadcast in json.loads(json.dumps(list(broadcasts))):
            self.log.append(("broadcast", broadcast))

    def _apply(self, cells: list[dict[str, Any]], op: dict[str, Any]) -> None:
        for cell in cells:
            if cell["id"] == op["cell_id"]:
                break
        else:
            return
        if op["op"] == "append_outputs":
            cell["outputs"].extend(op["outputs"])
        elif op["op"] == "replace_output":
            if cell["outputs"][op["index"] :][:1] != [op["expect"]]:
                raise ArgumentError("not what was expected")
            cell["outputs"][op["index"]] = op["output"]
        elif op["op"] == "splice_outputs":
            end = op["index"] + op["delete"]
            if cell["outputs"][op["index"] : end] != op["expect"]:
                raise ArgumentError("not what was expected")
            cell["outputs"][op["index"] : end] = op["outputs"]
        elif op["op"] == "clear_outputs":
            cell["outputs"], cell["execution_count"] = [], None
        elif op["op"] == "set_execution_count":
            cell["execution_count"] = op["execution_count"]
        else:
            raise AssertionError(op)

    # -- for assertions

    def outputs(self, notebook_id: str, cell_id: str) -> list[dict[str, Any]]:
        return [json.loads(element) for element in self.cell(notebook_id, cell_id)["outputs"]]

    def brief(self) -> list[str]:
        """The log in short lines, emptied."""
        lines = [_brief(kind, item) for kind, item in self.log]
        self.log.clear()
        return lines

    def take(self, event: str) -> list[dict[str, Any]]:
        """The broadcasts of one kind."""
        return [item for kind, item in self.log if kind == "broadcast" and item["event"] == event]

    def responses(self) -> list[dict[str, Any]]:
        return [item for kind, item in self.log if kind == "response"]


def _brief(kind: str, item: dict[str, Any]) -> str:
    if kind == "response":
        return f"-> {item.get('result', item.get('type'))}" + (f" {item['error']}" if "error" in item else "")
    event = item["event"]
    if event == "queue_changed":
        return f"queue {item['executing'] or '-'} [{' '.join(item['queued'])}]"
    if event == "kernel_status":
        return f"status {item['status']} {item['cell_id'] or '-'}"
    if event == "execution_started":
        return f"started {item['cell_id']} {item['execution_count']}"
    if event == "execution_done":
        return f"done {item['cell_id']} {item['status']}"
    if event == "output":
        return f"output {item['cell_id']} {item['output_type']}"
    return event + (f" {item['cell_id']}" if "cell_id" in item else "")


class FakeBlobs:
    full = False

    def put(self, data: bytes, media_type: str = "application/octet-stream") -> str:
        return "0" * 64

    def get(self, name: str) -> bytes:
        raise KeyError(name)

    def store_output(self, output: Any) -> str:
        if self.full:
            raise OSError("No space left on device")
        return json.dumps(output)

    def resolve_output(self, element: str) -> Any:
        return json.loads(element)


class ScriptedKernel:
    """Sends nothing by itself: the test plays the kernel with the functions below."""

    kernel_type = "python"
    env_source = "uv:prewarmed"
    process_id: int | None = None
    publishes_late = False

    def __init__(self, listener: Any) -> None:
        self.listener = listener
        self.executed: list[str] = []
        self.interrupts = 0
        self.fences = 0
        self.comms: list[Any] = []
        self.stopped = False
        self.fail_next = False
        self.replies: dict[str, asyncio.Future[Any]] = {}

    def execute(self, code: str) -> str:
        if self.fail_next:
            self.fail_next = False
            raise KernelGone("no way")
        self.executed.append(code)
        return f"m{len(self.executed)}"

    def fence(self) -> str:
        self.fences += 1
        return f"f{self.fences}"

    async def request(self, msg_type: str, content: Any, timeout: float) -> Any:
        future = self.replies[msg_type] = asyncio.get_running_loop().create_future()
        return await asyncio.wait_for(future, timeout)

    def send_comm(self, message: Any) -> None:
        self.comms.append(message)

    def interrupt(self) -> None:
        self.interrupts += 1

    async def shutdown(self, deadline: float = 2.0) -> None:
        self.stopped = True

    def say(self, *messages: Message) -> None:
        self.listener.on_messages(self, list(messages))

    def die(self, reason: str = "Kernel died: exit code 3") -> None:
        self.listener.on_death(self, reason)


class KernelFactory:
    """``room.Launch`` that gives scripted kernels when the test opens the gate."""

    def __init__(self) -> None:
        self.kernels: list[ScriptedKernel] = []
        self.requests: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: str | None = None

    async def __call__(self, request: Any, listener: Any) -> ScriptedKernel:
        self.requests.append(request)
        await self.gate.wait()
        if self.failure is not None:
            raise LaunchError(self.failure)
        kernel = ScriptedKernel(listener)
        self.kernels.append(kernel)
        return kernel


class FakeRecipe:
    """Makes environments that are a directory with a program, when the test opens the gate."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.packages = ["ipywidgets"]
        self.made_paths: list[str] = []
        self.background: list[bool] = []

    def ingredients(self) -> dict[str, Any]:
        return {"packages": list(self.packages)}

    async def make(self, path: str, ingredients: Any, progress: Any, background: bool) -> Made:
        self.background.append(background)
        progress("creating the environment")
        make_fake_environment(path)
        self.made_paths.append(path)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return self.made(path)

    def made(self, path: str) -> Made:
        return Made(os.path.join(path, "bin", "python"), {"VIRTUAL_ENV": path})


def make_fake_environment(path: str) -> None:
    os.makedirs(os.path.join(path, "bin"))
    python = os.path.join(path, "bin", "python")
    with open(python, "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\nexit 0\n")
    os.chmod(python, 0o755)


async def eventually(condition: Callable[[], bool], limit: float = 60.0) -> None:
    """Wait for an effect of threads or processes; slow on a busy machine."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.005)


# -- messages


def iopub(msg_type: str, parent: str, buffers: Sequence[bytes] = (), **content: Any) -> Message:
    return Message("iopub", msg_type, parent, content, {}, list(buffers))


def busy(parent: str) -> Message:
    return iopub("status", parent, execution_state="busy")


def idle(parent: str) -> Message:
    return iopub("status", parent, execution_state="idle")


def started(parent: str, count: int) -> Message:
    return iopub("execute_input", parent, execution_count=count, code="")


def stream(parent: str, text: str, name: str = "stdout") -> Message:
    return iopub("stream", parent, name=name, text=text)


def display(parent: str, text: str, display_id: str | None = None, kind: str = "display_data") -> Message:
    transient = {"display_id": display_id} if display_id else {}
    return iopub(kind, parent, data={"text/plain": text}, metadata={}, transient=transient)


def error(parent: str, ename: str = "ValueError") -> Message:
    return iopub("error", parent, ename=ename, evalue="x", traceback=["line"])


def reply(parent: str, status: str = "ok", **content: Any) -> Message:
    return Message("shell", "execute_reply", parent, {"status": status, **content}, {}, [])
