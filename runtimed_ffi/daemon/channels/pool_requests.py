"""Requests on the pool channel: environments, statistics, rooms, the end of the daemon.

Storey: daemon (7).  Source: protocol 2, section 4.  Unlike in the reference, ``return`` touches only what ``take`` has
given, and the first ``shutdown`` is enough.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Callable

from runtimed_ffi.daemon.environments.pools import KINDS, PoolSet
from runtimed_ffi.daemon.ports import Json
from runtimed_ffi.daemon.reply import Reply
from runtimed_ffi.daemon.rooms.rooms import Rooms
from runtimed_ffi.daemon.tasks import Tasks

if TYPE_CHECKING:
    from runtimed_ffi.host import Host

log = logging.getLogger(__name__)

ReadDocument = Callable[[bytes], list[Json]]


class PoolRequests:
    """Answers the requests of the pool channel.

    Args:
        read_document: Reads the cells of a journal file (``host.read_document``).
        stop: Ends the daemon; called after the answer.
        kernel_pool: Numbers of the prewarmed kernels, beside those of the protocol.
        details: Collects what a ``status`` request with ``"details": true`` wants to know beyond the statistics.
    """

    def __init__(
        self,
        host: Host,
        rooms: Rooms,
        pools: PoolSet,
        read_document: ReadDocument,
        stop: Callable[[str], None],
        kernel_pool: Callable[[], Json] = dict,
        details: Callable[[], Awaitable[Json]] | None = None,
    ) -> None:
        self._host = host
        self._rooms = rooms
        self._pools = pools
        self._read_document = read_document
        self._stop = stop
        self._kernel_pool = kernel_pool
        self._details = details
        self._tasks = Tasks()
        self._inspections: dict[int, deque[tuple[Reply, str]]] = {}

    def handle(self, token: int, peer: int, payload: bytes) -> None:
        """Answer one request.  An unknown request ends the connection, as the protocol has it.  Never raises."""
        reply = Reply(self._host, token)
        try:
            request = json.loads(payload)
            kind = request.get("type") if isinstance(request, dict) else None
            if kind == "inspect_notebook" and isinstance(request.get("notebook_id"), str):
                self._inspect_later(peer, reply, request["notebook_id"])
                return
            later = self._later(kind, request)
            if later is not None:
                self._tasks.spawn(self._answer(reply, later))
                return
            response = self._response(kind, request)
        except Exception:
            log.exception("a request on the pool channel failed")
            response = None
        if response is None:
            self._disconnect(peer)
            return
        reply.send(response)
        if response["type"] == "shutting_down":
            self._stop("a shutdown request")

    def _later(self, kind: object, request: Any) -> Awaitable[Json] | None:
        """The answer to a request that has to wait, or ``None`` if it is no such request."""
        if kind == "status" and request.get("details") is True and self._details is not None:
            return self._detailed(self._details)
        if kind == "flush_pool":
            return self._flush()
        if kind == "return":
            env = request.get("env")
            if isinstance(env, dict) and env.get("env_type") in KINDS and isinstance(env.get("venv_path"), str):
                return self._give_back(env["env_type"], env["venv_path"])
        return None

    async def _flush(self) -> Json:
        await self._pools.flush()
        return {"type": "flushed"}

    async def _give_back(self, kind: str, path: str) -> Json:
        await self._pools.give_back(kind, path)
        return {"type": "returned"}

    def _response(self, kind: object, request: Any) -> Json | None:
        if kind == "ping":
            return {"type": "pong"}
        if kind == "status":
            return self._statistics()
        if kind == "take" and request.get("env_type") in KINDS:
            env = self._pools.take(request["env_type"])
            return {"type": "empty"} if env is None else {"type": "env", "env": env}
        if kind == "shutdown":
            return {"type": "shutting_down"}
        if kind == "list_rooms":
            return {"type": "rooms_list", "rooms": self._list_rooms()}
        return None

    def _statistics(self) -> Json:
        stats = self._pools.stats()
        kernels = self._kernel_pool()
        if kernels:
            stats["kernels"] = kernels
        return {"type": "stats", "stats": stats}

    async def _detailed(self, details: Callable[[], Awaitable[Json]]) -> Json:
        response = self._statistics()
        try:
            response["daemon"] = await details()
        except Exception:
            # The statistics are answered all the same.
            log.exception("the state of the daemon cannot be collected")
        return response

    def _list_rooms(self) -> list[Json]:
        listed: list[Json] = []
        for entry in self._host.rooms():
            room = self._rooms.get(entry["notebook_id"])
            facts = room.kernel_facts() if room is not None else None
            described: Json = {
                "notebook_id": entry["notebook_id"],
                "active_peers": entry["peers"],
                "has_kernel": facts is not None,
            }
            if facts is not None:
                described["kernel_type"] = facts["kernel_type"]
                described["env_source"] = facts["env_source"]
                described["kernel_status"] = facts["status"]
            listed.append(described)
        return listed

    async def _answer(self, reply: Reply, answer: Awaitable[Json]) -> None:
        try:
            response = await answer
        except Exception as error:
            log.exception("a request on the pool channel failed")
            response = _error(str(error))
        reply.send(response)

    def _inspect_later(self, peer: int, reply: Reply, notebook_id: str) -> None:
        """Inspect off the loop, one at a time per peer: notebooks may be large, and requests many."""
        waiting = self._inspections.get(peer)
        if waiting is None:
            waiting = self._inspections[peer] = deque()
            self._tasks.spawn(self._inspect_all(peer, waiting))
        waiting.append((reply, notebook_id))

    async def _inspect_all(self, peer: int, waiting: deque[tuple[Reply, str]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            while waiting:
                reply, notebook_id = waiting.popleft()
                try:
                    response = await self._notebook_state(notebook_id)
                except Exception as error:
                    log.exception("inspecting a notebook failed")
                    response = _error(str(error))
                if not await loop.run_in_executor(None, reply.send, response):
                    return  # The peer has disconnected: drop the other requests.
        finally:
            del self._inspections[peer]

    async def _notebook_state(self, notebook_id: str) -> Json:
        loop = asyncio.get_running_loop()
        room = self._rooms.get(notebook_id)
        if room is not None:
            cells = await loop.run_in_executor(None, room.cells)
            state = _state(notebook_id, cells, "live_room", room.kernel_facts())
            notes = self._rooms.notes(notebook_id)
            # A member of ours: files that could not be read and what was done about it.
            return {**state, "notes": notes} if notes else state
        journal = self._rooms.journal(notebook_id)
        if journal is None or not os.path.exists(journal):
            path = json.dumps(journal or "", ensure_ascii=False)
            return _error(f"Notebook not found: no active room and no persisted file at {path}")
        try:
            data = await loop.run_in_executor(None, _read, journal)
        except OSError as error:
            return _error(f"Failed to read persisted file: {error}")
        try:
            cells = await loop.run_in_executor(None, self._read_document, data)
        except Exception as error:
            return _error(f"Failed to parse Automerge doc: {error}")
        return _state(notebook_id, cells, "persisted_file", None)

    def _disconnect(self, peer: int) -> None:
        try:
            self._host.disconnect(peer)
        except Exception as error:
            log.debug("a peer has already disconnected: %s", error)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _state(notebook_id: str, cells: list[Json], source: str, kernel_info: Json | None) -> Json:
    shown = [
        {
            "id": cell["id"],
            "cell_type": cell["cell_type"],
            "source": cell["source"],
            # On this channel the count is the JSON text of the document (4.2).
            "execution_count": json.dumps(cell["execution_count"]),
            "outputs": cell["outputs"],
        }
        for cell in cells
    ]
    return {
        "type": "notebook_state",
        "notebook_id": notebook_id,
        "cells": shown,
        "source": source,
        "kernel_info": kernel_info,
    }


def _error(message: str) -> Json:
    return {"type": "error", "message": message}
