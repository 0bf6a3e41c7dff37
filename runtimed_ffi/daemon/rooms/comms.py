"""The widgets of a room: kernel messages about them go to every peer, and the state is kept for peers that join later.

Storey: daemon (7).  Source: protocol 2, sections 5.8 and 5.13, and Jupyter messaging (comms).  ``comm_open`` makes an
entry, an ``update`` merges its top-level state, ``comm_close`` removes it.  What clients send is not recorded: the
kernel's answer is.

At the bounds: a comm whose state would take the room beyond ``STATE_LIMIT`` is forgotten, all others stay, and what
happens to it is still broadcast; peers that join later do not get it.  A single message beyond
``BROADCAST_LIMIT`` is not sent at all: it would cost every peer its connection.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from runtimed_ffi.daemon.ports import Json, Message
from runtimed_ffi.daemon.rooms.outputs import BROADCAST_LIMIT, Publication, as_dict, json_size

log = logging.getLogger(__name__)

STATE_LIMIT = 16 * 1024 * 1024
"""Bytes of JSON kept for the widgets of one room.  They must fit one ``comm_sync``."""

_ENTRY_SIZE = 200
_BYTE_SIZE = 4
"""A byte of a buffer as an element of a JSON array of numbers."""

COMM_MESSAGES = frozenset({"comm_open", "comm_msg", "comm_close"})


class _Comm:
    """One widget channel that is open."""

    __slots__ = ("_sizes", "buffers", "model_module", "model_name", "state", "target_name")

    def __init__(self, content: Json, buffers: Sequence[bytes]) -> None:
        state = as_dict(as_dict(content.get("data")).get("state"))
        self.target_name = str(content.get("target_name") or "")
        self.model_module = state.get("_model_module")
        self.model_name = state.get("_model_name")
        self.buffers = list(buffers)
        self.state: Json = {}
        self._sizes: dict[str, int] = {}
        self.update(state)

    @property
    def size(self) -> int:
        """About the bytes of its entry in a ``comm_sync``."""
        return _ENTRY_SIZE + sum(self._sizes.values()) + _BYTE_SIZE * sum(map(len, self.buffers))

    def update(self, state: Json) -> None:
        """Merge the top-level members of the state."""
        self.state.update(state)
        self._sizes.update({key: len(key) + json_size(value) for key, value in state.items()})

    def entry(self, comm_id: str) -> Json:
        """The entry of a ``comm_sync``; what is unknown or empty is left out."""
        entry: Json = {"comm_id": comm_id, "target_name": self.target_name, "state": self.state}
        for name, value in (("model_module", self.model_module), ("model_name", self.model_name)):
            if isinstance(value, str):
                entry[name] = value
        if self.buffers:
            entry["buffers"] = _numbers(self.buffers)
        return entry


class Comms:
    """The widget channels of one room that are open, in the order of their opening."""

    def __init__(self) -> None:
        self._open: dict[str, _Comm] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def size(self) -> int:
        """About the bytes of JSON that are kept."""
        return self._size

    def on_message(self, message: Message, publication: Publication) -> None:
        """A ``comm_open``, ``comm_msg`` or ``comm_close`` of the kernel: record it and broadcast it."""
        content = message.content
        size = json_size(content) + _BYTE_SIZE * sum(map(len, message.buffers))
        if size > BROADCAST_LIMIT:
            log.error("a widget message (%s) of %d bytes was not sent: it is too large", message.msg_type, size)
        else:
            buffers = _numbers(message.buffers)
            publication.broadcast("comm", msg_type=message.msg_type, content=content, buffers=buffers)
        comm_id = content.get("comm_id")
        if isinstance(comm_id, str):
            self._record(message, comm_id)

    def _record(self, message: Message, comm_id: str) -> None:
        content = message.content
        comm = self._open.pop(comm_id, None) if message.msg_type != "comm_msg" else self._open.get(comm_id)
        if comm is not None:
            self._size -= comm.size
        if message.msg_type == "comm_open":
            comm = self._open[comm_id] = _Comm(content, message.buffers)
        elif message.msg_type == "comm_close" or comm is None:
            return
        else:
            data = as_dict(content.get("data"))
            if data.get("method") == "update":
                comm.update(as_dict(data.get("state")))
        if self._size + comm.size > STATE_LIMIT:
            log.error("the state of widget %r is not kept for peers that join later: it is too large", comm_id)
            del self._open[comm_id]
            return
        self._size += comm.size

    def clear(self) -> None:
        """The kernel is another one, or none."""
        self._open.clear()
        self._size = 0

    def sync(self) -> Json | None:
        """The message about all open widgets for a peer that joins; ``None`` if there are none (5.2, step 6)."""
        if not self._open:
            return None
        return {"event": "comm_sync", "comms": [comm.entry(comm_id) for comm_id, comm in self._open.items()]}


def _numbers(buffers: Sequence[bytes]) -> list[list[int]]:
    return [list(buffer) for buffer in buffers]
