"""Host notebook rooms on a socket: a thin handle over the `rtd_host_*` functions of the C library.

Storey 6 (handles), beside `session`. A host listens on a Unix socket, speaks the wire protocol, keeps the documents of
its rooms and copies changes and broadcasts to the peers. It knows nothing about kernels: each request of a peer comes
as an event, and the host program answers it. The embedded daemon (`runtimed_ffi.daemon`) is such a program; any other
Python program can be one::

    with Host("/run/user/1000/rooms.sock") as host:
        while True:
            host.wait()
            for event in host.drain():
                if event.kind == EventKind.ROOM_WANTED:
                    host.open_room(event.id)
                elif event.kind == EventKind.REQUEST:
                    host.respond(event.token, {"result": "no_kernel"})
"""

from __future__ import annotations

import os
import select
from collections.abc import Mapping, Sequence
from typing import Any

from runtimed_ffi._binding.events import ChannelKind, Event, EventKind, decode_event, new_event
from runtimed_ffi._binding.ffi import (
    AGAIN,
    CLOSED,
    StrPath,
    call_handle,
    call_json,
    check,
    ffi,
    json_in,
    lib,
    path_in,
    text_in,
)
from runtimed_ffi._binding.handle import Handle
from runtimed_ffi.document import Document
from runtimed_ffi.errors import ArgumentError, CorruptError, NotFoundError, RuntimedError

__all__ = [
    "ArgumentError",
    "ChannelKind",
    "CorruptError",
    "Event",
    "EventKind",
    "Host",
    "NotFoundError",
    "RuntimedError",
    "read_document",
]

Json = dict[str, Any]

_LONGEST_POLL = 2**31 - 1
"""Milliseconds; a longer wait ends after this time."""


class Host(Handle):
    """A listening socket with rooms.

    Threads: every method may be called from any thread, except that only one thread at a time may `drain`, and that
    `close` must not run beside another call.

    Args:
        socket_path: where to listen. The socket gets mode 0600. The socket file of a dead process is replaced, that of
            a running one never.
        capabilities: members added to the capabilities frame that greets each notebook connection.
        max_peers: connections accepted at the same time (default 1024).
        handshake_timeout: seconds a connection may take for its first frame (default 10).
        peer_limit: bytes of unsent responses and broadcasts kept for one peer before it is disconnected (default
            64 MiB). Also bytes of requests of one peer that wait for an answer; with more, or with 1024 requests, the
            host reads nothing more from it until answers are given.
        watch_changes: whether a `EventKind.ROOM_CHANGED` says what peers change in a room.

    Raises:
        RuntimedError: the socket cannot be bound; the text is the operating system's.
    """

    NOUN = "host"
    FREE = lib.rtd_host_free

    def __init__(
        self,
        socket_path: StrPath,
        capabilities: Mapping[str, Any] | None = None,
        *,
        max_peers: int | None = None,
        handshake_timeout: float | None = None,
        peer_limit: int | None = None,
        watch_changes: bool = False,
    ) -> None:
        options = ffi.new("rtd_host_options *")
        lib.rtd_host_options_init(options, ffi.sizeof("rtd_host_options"))
        keep = None if capabilities is None else json_in(dict(capabilities))
        if keep is not None:
            options.capabilities, options.capabilities_len = keep
        if watch_changes:
            options.flags = lib.RTD_HOST_WATCH_CHANGES
        if max_peers is not None:
            options.max_peers = max_peers
        if handshake_timeout is not None:
            options.handshake_timeout_ms = int(handshake_timeout * 1000)
        if peer_limit is not None:
            options.peer_limit = peer_limit
        self.socket_path = os.fsdecode(socket_path)
        self._event = new_event()
        self._ended = False
        self.handle = call_handle("rtd_host", lib.rtd_host_open, *path_in(socket_path), options)

    # -- events

    def fileno(self) -> int:
        """The descriptor that is readable exactly while an event waits. Poll it; never read or close it."""
        return int(lib.rtd_queue_fd(self._queue()))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until an event is there; false when `timeout` seconds have passed. `None` waits for ever."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        # `poll` takes a negative time as none, and none beyond 24 days.
        return bool(poll.poll(None if timeout is None else min(max(timeout * 1000, 0), _LONGEST_POLL)))

    def drain(self, limit: int = 256) -> list[Event]:
        """Take the events that wait now, in order, at most `limit` of them. Never blocks."""
        queue, event = self._queue(), self._event
        events: list[Event] = []
        while len(events) < limit:
            code = lib.rtd_queue_next(queue, event)
            if code == AGAIN:
                break
            if code == CLOSED:
                self._ended = True
                break
            check(code)
            events.append(decode_event(event))
        return events

    @property
    def ended(self) -> bool:
        """True once `drain` has delivered the last event after `stop`."""
        return self._ended

    # -- rooms

    def open_room(self, notebook_id: str, journal: str | None = None) -> None:
        """Answer ``ROOM_WANTED``: open the room, or load it from its journal.

        The journal is the file that receives every change; `None` keeps the room in memory only.

        Raises:
            CorruptError: the journal cannot be read; it is left as it is.
        """
        check(lib.rtd_host_open_room(self._live(), *text_in(notebook_id), *path_in(journal)))

    def prepare_room(self, notebook_id: str, journal: str | None = None) -> None:
        """Open a room as `open_room` does, but keep its peers waiting until `admit`.

        What is published or merged meanwhile is there before the first peer sees the document.
        """
        check(lib.rtd_host_prepare_room(self._live(), *text_in(notebook_id), *path_in(journal)))

    def admit(self, notebook_id: str) -> None:
        """Let the peers into a prepared room.

        Raises:
            NotFoundError: it is not prepared.
        """
        check(lib.rtd_host_admit(self._live(), *text_in(notebook_id)))

    def fork(self, notebook_id: str) -> Document:
        """A copy of a room's document as it is; the caller closes it."""
        with self._document(notebook_id) as document:
            return document.fork()

    def merge(self, notebook_id: str, document: Document) -> None:
        """Take what was edited in a copy into the room, as if the copy were a peer that was away.

        Edits of a source merge by character.

        Raises:
            ArgumentError: `document` is no copy of this room's document.
        """
        with self._document(notebook_id) as room:
            room.merge(document)

    def refuse_room(self, notebook_id: str) -> None:
        """Answer ``ROOM_WANTED`` by disconnecting the peers that asked for the room."""
        check(lib.rtd_host_refuse_room(self._live(), *text_in(notebook_id)))

    def close_room(self, notebook_id: str) -> None:
        """Close a room and disconnect its peers. Its journal stays."""
        check(lib.rtd_host_close_room(self._live(), *text_in(notebook_id)))

    def evict_room(self, notebook_id: str) -> bool:
        """Close a room unless a peer is in it; true when it is closed.

        A peer that comes at this moment asks for the room anew.
        """
        code = lib.rtd_host_evict_room(self._live(), *text_in(notebook_id))
        if code == AGAIN:
            return False
        check(code)
        return True

    def rooms(self) -> list[Json]:
        """The open rooms: ``{"notebook_id", "peers"}`` each."""
        return list(call_json(lib.rtd_host_rooms, self._live()))

    def publish(
        self,
        notebook_id: str,
        ops: Sequence[Mapping[str, Any]] = (),
        broadcasts: Sequence[Mapping[str, Any]] = (),
        cause: int = 0,
    ) -> None:
        """Change the document of a room, then send the change and the broadcasts to its peers.

        Args:
            notebook_id: the room.
            ops: operations that become one change (all or nothing) and one sync message per peer.
            broadcasts: sent behind the change, in order.
            cause: the token of a request: its peer sees the response before these broadcasts (protocol 2, section 5.5,
                item 4).
        """
        contents = (*json_in(list(ops)), *json_in(list(broadcasts)))
        check(lib.rtd_host_publish(self._live(), *text_in(notebook_id), *contents, cause))

    def send(self, peer: int, broadcast: Mapping[str, Any]) -> None:
        """Send one broadcast to one peer, behind the changes and broadcasts made before it.

        `peer` is the number of the connection, as in ``PEER_JOINED``. A peer of protocol version 1 has no broadcasts:
        nothing is sent to it.

        Raises:
            NotFoundError: no such peer is in a room.
        """
        check(lib.rtd_host_send(self._live(), peer, *json_in(dict(broadcast))))

    def respond(self, token: int, response: Mapping[str, Any]) -> None:
        """Answer a request, once.

        Raises:
            NotFoundError: it was answered, or its peer has gone.
        """
        check(lib.rtd_host_respond(self._live(), token, *json_in(dict(response))))

    def announce_pool_state(self, state: Mapping[str, Any]) -> None:
        """Send the state of the pools to all subscribers, unless it has not changed (protocol 2, section 11.2).

        The host remembers it for new subscribers; until the first call the pools have no error.

        Args:
            state: the members ``uv_error`` and ``conda_error``, each `None` or a pool error (section 4.2).

        Raises:
            ArgumentError: `state` is anything else.
        """
        check(lib.rtd_host_announce_pool_state(self._live(), *json_in(dict(state))))

    # -- settings

    def open_settings(self, journal: str | None = None) -> None:
        """Serve the settings (protocol 2, section 11.1); before this, the settings channel is closed.

        The journal is the file that receives every change; `None` keeps them in memory only.

        Raises:
            CorruptError: the file cannot be read; it is left as it is.
        """
        check(lib.rtd_host_open_settings(self._live(), *path_in(journal)))

    def settings(self) -> Json:
        """The settings, each with its default where nothing usable is set, then what peers added.

        They are ``theme``, ``default_runtime``, ``default_python_env``, ``uv`` and ``conda`` with their
        ``default_packages``.
        """
        return dict(call_json(lib.rtd_host_settings, self._live()))

    def change_settings(self, members: Mapping[str, Any]) -> None:
        """Change the settings, and send the change to the peers. What is not given or not different stays as it is.

        Objects are compared member by member, a list is replaced as a whole.

        Raises:
            ArgumentError: a member has the wrong type; nothing changed then.
        """
        check(lib.rtd_host_change_settings(self._live(), *json_in(dict(members))))

    # -- documents

    def cells(self, notebook_id: str) -> list[Json]:
        """The cells of a room in order: ``{"id", "cell_type", "source", "execution_count", "outputs"}`` each."""
        with self._document(notebook_id) as document:
            return document.cells()

    def cell(self, notebook_id: str, cell_id: str) -> Json:
        """One cell of a room.

        Raises:
            NotFoundError: `Cell not found: <id>`.
        """
        with self._document(notebook_id) as document:
            return document.cell(cell_id)

    def metadata(self, notebook_id: str) -> dict[str, str]:
        """The ``/metadata`` map of a room: strings by key."""
        with self._document(notebook_id) as document:
            return document.metadata()

    def _document(self, notebook_id: str) -> Document:
        """A handle for the document of a room; the room keeps its document when the handle is closed."""
        return Document(call_handle("rtd_doc", lib.rtd_host_doc, self._live(), *text_in(notebook_id)))

    def _queue(self) -> Any:
        return lib.rtd_host_queue(self._live())

    def disconnect(self, peer: int) -> None:
        """End the connection of one peer."""
        check(lib.rtd_host_disconnect(self._live(), peer))

    # -- life

    def stop(self) -> None:
        """Stop listening, flush and disconnect the peers, remove the socket file.

        The events still waiting can be drained; the last one is ``CLOSED``. Idempotent.
        """
        if self.handle:
            check(lib.rtd_host_close(self.handle))

    def _free(self, handle: Any) -> None:
        self._ended = True
        super()._free(handle)

    def __repr__(self) -> str:
        state = "open" if self.handle else "closed"
        return f"<Host {self.socket_path!r} {state}>"


def read_document(data: bytes) -> list[Json]:
    """The cells of a saved notebook document (a journal file), in the form of `Host.cells`.

    Raises:
        CorruptError, ProtocolError: the bytes are no document.
    """
    with Document.load(data) as document:
        return document.cells()
