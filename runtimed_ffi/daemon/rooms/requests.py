"""Requests of the peers of a room, and their answers.

Storey: daemon (7).  Source: protocol 2, sections 5.6, 5.7, 5.11 to 5.13.  Every request gets exactly one answer,
whatever it contains.  Requests that wait (launch, completion, history, save) have a deadline and do not
delay other requests.  The answer is sent first, then the broadcasts that the request causes.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from runtimed_ffi.daemon.environments.plans import LaunchRequest
from runtimed_ffi.daemon.files.paths import FileError
from runtimed_ffi.daemon.ports import Json, KernelGone, KernelPort, LaunchError
from runtimed_ffi.daemon.reply import Reply
from runtimed_ffi.daemon.rooms.execution import QueueFull
from runtimed_ffi.daemon.rooms.outputs import BROADCAST_LIMIT, Publication, json_size
from runtimed_ffi.daemon.rooms.room import Room
from runtimed_ffi.daemon.rooms.rooms import Rooms
from runtimed_ffi.daemon.tasks import Tasks

if TYPE_CHECKING:
    from runtimed_ffi.host import Host

log = logging.getLogger(__name__)

LAUNCH_ANSWER_LIMIT = 25.0
"""Seconds until a launch is answered in any case: clients give up after 30 (14.2, item 4).  The launch continues."""

KERNEL_ANSWER_LIMIT = 5.0
"""Seconds for completion and history (5.13)."""

SAVE_ANSWER_LIMIT = 25.0
"""Seconds until a save is answered in any case.  It continues."""

_NO_KERNEL: Json = {"result": "no_kernel"}
_HEADER = ("msg_id", "username", "session", "msg_type", "version")


class RequestError(Exception):
    """The request cannot be done; the text is the answer."""


class Call(NamedTuple):
    """One request of a peer in a room."""

    room: Room
    reply: Reply
    peer: int
    members: Json

    def text(self, name: str) -> str:
        """A mandatory string member."""
        value = self.members.get(name)
        if not isinstance(value, str):
            raise RequestError(f"invalid request: `{name}` must be a string")
        return value

    def optional_text(self, name: str) -> str | None:
        """A string member that may be null or absent."""
        return None if self.members.get(name) is None else self.text(name)

    def number(self, name: str) -> int:
        """A mandatory integer member."""
        value = self.members.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise RequestError(f"invalid request: `{name}` must be an integer")
        return value

    def cells(self, cell_id: str | None = None) -> list[Json]:
        """The cells to execute: all, or the one of this id, as they were when the request came (5.9).

        The host adds them to the request; edits that were applied since then must not change what runs.
        """
        cells = self.members.get("at_request")
        if not isinstance(cells, list):
            cells = self.room.cells()
        return [cell for cell in cells if cell_id is None or cell["id"] == cell_id]

    @property
    def kernel(self) -> KernelPort:
        """The kernel of the room; without one the answer is ``no_kernel``."""
        if self.room.kernel is None:
            raise _NoKernel
        return self.room.kernel


class _NoKernel(Exception):
    """The request needs a kernel and there is none."""


class NotebookRequests:
    """Answers the requests of the notebook channel."""

    def __init__(self, host: Host, rooms: Rooms) -> None:
        self._host = host
        self._rooms = rooms
        self._tasks = Tasks()
        self._now: dict[str, Callable[[Call], None]] = {
            "launch_kernel": self._launch_kernel,
            "execute_cell": self._execute_cell,
            "queue_cell": self._queue_cell,
            "run_all_cells": self._run_all_cells,
            "clear_outputs": self._clear_outputs,
            "interrupt_execution": self._interrupt_execution,
            "shutdown_kernel": self._shutdown_kernel,
            "get_kernel_info": self._get_kernel_info,
            "get_queue_state": self._get_queue_state,
            "send_comm": self._send_comm,
        }
        self._later: dict[str, Callable[[Call], Awaitable[Json]]] = {
            "get_history": self._get_history,
            "complete": self._complete,
            "save_notebook": self._save_notebook,
        }

    def handle(self, notebook_id: str, token: int, peer: int, payload: bytes) -> None:
        """Answer one request, now or later.  Never raises."""
        room, reply = self._rooms.get(notebook_id), Reply(self._host, token)
        try:
            members = json.loads(payload)
            if room is None or not isinstance(members, dict):
                raise RequestError("invalid request")
            call = Call(room, reply, peer, members)
            action = members.get("action")
            now = self._now.get(action) if isinstance(action, str) else None
            if now is not None:
                now(call)
                return
            later = self._later.get(action) if isinstance(action, str) else None
            if later is None:
                raise RequestError("invalid request: unknown action")
            self._tasks.spawn(self._answer(call, later))
        except Exception as error:
            reply.send(_failure(error))

    async def _answer(self, call: Call, handler: Callable[[Call], Awaitable[Json]]) -> None:
        try:
            response = await handler(call)
        except asyncio.CancelledError:
            call.reply.send({"result": "error", "error": "the daemon is shutting down"})
            raise
        except Exception as error:
            response = _failure(error)
        size = json_size(response)
        if size > BROADCAST_LIMIT:
            # It would cost the peer its connection.
            response = {"result": "error", "error": f"the kernel's answer is too large: {size} bytes"}
        call.reply.send(response)

    def close(self) -> None:
        """End the requests that still wait."""
        self._tasks.cancel()

    # -- execution

    def _execute_cell(self, call: Call) -> None:
        cell_id = call.text("cell_id")
        cell = next(iter(call.cells(cell_id)), None)
        if cell is None:
            raise RequestError(f"Cell not found in document: {cell_id}")
        if cell["cell_type"] != "code":
            raise RequestError(f"Cannot execute non-code cell: {cell_id} (type: {cell['cell_type']})")
        self._submit(call, cell_id, cell["source"])

    def _queue_cell(self, call: Call) -> None:
        _needs_kernel(call.room)
        self._submit(call, call.text("cell_id"), call.text("code"))

    def _submit(self, call: Call, cell_id: str, code: str) -> None:
        _needs_kernel(call.room)
        publication = Publication()
        # A peer that joins an execution under way has missed its outputs so far and reads them from the document. While
        # the execution waits, the outputs there are those of the run before.
        joined = call.room.queue.executing == cell_id
        run = call.room.queue.submit(cell_id, code, call.peer, publication)
        response: Json = {"result": "cell_queued", "cell_id": cell_id, "execution_id": run.execution_id}
        if joined:
            response["joined"] = True
        call.reply.send(response)
        call.room.send(publication, call.reply.token)

    def _run_all_cells(self, call: Call) -> None:
        _needs_kernel(call.room)
        publication = Publication()
        cells = [cell for cell in call.cells() if cell["cell_type"] == "code"]
        runs = call.room.queue.submit_all([(cell["id"], cell["source"]) for cell in cells], call.peer, publication)
        executions = [run.execution_id for run in runs]
        call.reply.send({"result": "all_cells_queued", "count": len(cells), "execution_ids": executions})
        call.room.send(publication, call.reply.token)

    def _clear_outputs(self, call: Call) -> None:
        cell_id = call.text("cell_id")
        publication = Publication()
        publication.clear_outputs(cell_id)
        publication.broadcast("outputs_cleared", cell_id=cell_id)
        call.room.writer.cleared(cell_id)
        call.reply.send({"result": "outputs_cleared", "cell_id": cell_id})
        call.room.send(publication, call.reply.token)

    def _get_queue_state(self, call: Call) -> None:
        queue = call.room.queue
        call.reply.send({"result": "queue_state", "executing": queue.executing, "queued": queue.queued})

    # -- kernel

    def _launch_kernel(self, call: Call) -> None:
        room = call.room
        if room.kernel is not None:
            call.reply.send(_kernel_result("kernel_already_running", room.kernel))
            return
        result = "kernel_launched" if room.launching is None else "kernel_already_running"
        request = LaunchRequest(
            call.text("kernel_type"),
            call.text("env_source"),
            call.optional_text("notebook_path"),
            room.notebook_id,
            room.metadata(),
        )

        def expired() -> None:
            doing = room.launching.text if room.launching is not None else ""
            text = f"Kernel did not respond within {LAUNCH_ANSWER_LIMIT:g}s (the launch continues"
            text += f": {doing})" if doing else ")"
            call.reply.send({"result": "error", "error": f"Failed to launch kernel: {text}"})

        def done(failure: str | None) -> None:
            timer.cancel()
            if failure is None:
                assert room.kernel is not None
                call.reply.send(_kernel_result(result, room.kernel))
            else:
                call.reply.send({"result": "error", "error": failure})

        timer = asyncio.get_running_loop().call_later(LAUNCH_ANSWER_LIMIT, expired)
        room.launch(request, done, call.reply.token)

    def _interrupt_execution(self, call: Call) -> None:
        if call.room.kernel is None:
            raise _NoKernel
        call.room.interrupt()
        call.reply.send({"result": "interrupt_sent"})

    def _shutdown_kernel(self, call: Call) -> None:
        _needs_kernel(call.room)
        call.reply.send({"result": "kernel_shutting_down"})
        call.room.stop_kernel("kernel was shut down", call.reply.token)

    def _get_kernel_info(self, call: Call) -> None:
        facts = call.room.kernel_facts() or {"kernel_type": None, "env_source": None, "status": "not_started"}
        call.reply.send({"result": "kernel_info", **facts})

    async def _complete(self, call: Call) -> Json:
        kernel = call.kernel
        content = {"code": call.text("code"), "cursor_pos": call.number("cursor_pos")}
        reply = await _ask(kernel, "complete_request", content, "Failed to get completions: Completion")
        items = [{"label": str(match), "source": "kernel"} for match in _list(reply.get("matches"))]
        start, end = reply.get("cursor_start"), reply.get("cursor_end")
        return {
            "result": "completion_result",
            "items": items,
            "cursor_start": start if isinstance(start, int) else content["cursor_pos"],
            "cursor_end": end if isinstance(end, int) else content["cursor_pos"],
        }

    async def _get_history(self, call: Call) -> Json:
        kernel = call.kernel
        content = {
            "output": False,
            "raw": True,
            "hist_access_type": "search",
            "pattern": call.optional_text("pattern") or "*",
            "n": call.number("n"),
            "unique": call.members.get("unique") is True,
        }
        reply = await _ask(kernel, "history_request", content, "Failed to get history: History")
        entries = [
            {"session": entry[0], "line": entry[1], "source": str(entry[2])}
            for entry in map(_list, _list(reply.get("history")))
            if len(entry) >= 3 and isinstance(entry[0], int) and isinstance(entry[1], int)
        ]
        return {"result": "history_result", "entries": entries}

    def _send_comm(self, call: Call) -> None:
        kernel = call.kernel
        try:
            kernel.send_comm(_comm_message(call.members.get("message")))
        except Exception as error:
            raise RequestError(f"Failed to send comm message: {error}") from None
        call.reply.send({"result": "ok"})

    async def _save_notebook(self, call: Call) -> Json:
        saving = asyncio.ensure_future(self._rooms.save(call.room.notebook_id))
        try:
            await asyncio.wait_for(asyncio.shield(saving), SAVE_ANSWER_LIMIT)
        except asyncio.TimeoutError:
            saving.add_done_callback(_log_late_save)
            raise RequestError(
                f"Failed to save notebook: not written within {SAVE_ANSWER_LIMIT:g}s (it goes on)"
            ) from None
        except Exception as error:
            if not isinstance(error, FileError):
                log.exception("room %r: saving failed", call.room.notebook_id)
            raise RequestError(f"Failed to save notebook: {error}") from None
        return {"result": "notebook_saved"}


def _log_late_save(saving: asyncio.Future[None]) -> None:
    if not saving.cancelled() and saving.exception() is not None:
        log.error("a save that took too long has failed: %s", saving.exception())


async def _ask(kernel: KernelPort, msg_type: str, content: Json, failure: str) -> Json:
    try:
        return await kernel.request(msg_type, content, KERNEL_ANSWER_LIMIT)
    except asyncio.TimeoutError:
        raise RequestError(f"{failure} request timed out") from None
    except KernelGone:
        raise RequestError(f"{failure} request cancelled") from None


def _list(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def _needs_kernel(room: Room) -> None:
    """A kernel that is being started will do: what is queued meanwhile runs when it is ready."""
    if room.kernel is None and room.launching is None:
        raise _NoKernel


def _kernel_result(result: str, kernel: KernelPort) -> Json:
    return {"result": result, "kernel_type": kernel.kernel_type, "env_source": kernel.env_source}


def _comm_message(message: Any) -> Json:
    """A client's Jupyter message, checked (5.13)."""
    if not isinstance(message, dict) or not isinstance(message.get("header"), dict):
        raise ValueError("Missing header in comm message")
    if "content" not in message:
        raise ValueError("Missing content in comm message")
    header = message["header"]
    for name in _HEADER:
        if name not in header:
            raise ValueError(f"missing field `{name}`")
        if not isinstance(header[name], str):
            raise ValueError(f"invalid type of field `{name}`, expected a string")
    for name in ("content", "parent_header", "metadata"):
        if message.get(name) is not None and not isinstance(message[name], dict):
            raise ValueError(f"invalid type of `{name}`, expected an object")
    return message


def _failure(error: Exception) -> Json:
    if isinstance(error, _NoKernel):
        return dict(_NO_KERNEL)
    if not isinstance(error, (RequestError, LaunchError, QueueFull)):
        log.error("a request failed", exc_info=error)
    return {"result": "error", "error": str(error)}
