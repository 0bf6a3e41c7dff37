"""Host notebook rooms on a socket: a thin handle over the ``rtd_host_*`` functions of the C library.

Storey: client layer (6), beside ``session.py``.  A host listens on a Unix socket, speaks the wire protocol, keeps
the documents of its rooms and copies changes and broadcasts to the peers.  It knows nothing about kernels: each
request of a peer surfaces as an event, and the host program answers it.  The embedded daemon
(``runtimed_ffi.daemon``) is such a program; any other Python program can be one::

    with Host("/run/user/1000/rooms.sock") as host:
        while True:
            host.wait()
            for event in host.drain():
                if event.kind == EventKind.ROOM_WANTED:
                    host.open_room(event.id)
                elif event.kind == EventKind.REQUEST:
                    host.respond(event.token, {"result": "no_kernel"})

Threads: every method may be called from any thread, except that only one thread at a time may ``drain`` and that
``close`` must not run beside another call.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Mapping, Sequence
from typing import Any

from runtimed_ffi._binding.events import ChannelKind, Event, EventKind, decode_event
from runtimed_ffi._binding.ffi import check, ffi, lib, take_buf
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


def _text(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8")


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class Host(Handle):
    """A listening socket with rooms.

    Parameters
    ----------
    socket_path:
        Where to listen.  The socket gets mode 0600.  The socket file of a dead process is replaced, a live one never.
    capabilities:
        Members added to the capabilities frame that greets each notebook connection.
    max_peers:
        Connections accepted at the same time (default 1024).
    handshake_timeout:
        Seconds a connection may take for its first frame (default 10).
    peer_limit:
        Bytes of unsent responses and broadcasts kept for one peer before it is disconnected (default 64 MiB).  Also
        bytes of requests of one peer that wait for an answer; with more, or with 1024 requests, all else that it sends
        waits.

    Raises
    ------
    RuntimedError
        The socket cannot be bound; the text is the operating system's.
    """

    NOUN = "host"

    def __init__(
        self,
        socket_path: str | os.PathLike[str],
        capabilities: Mapping[str, Any] | None = None,
        *,
        max_peers: int | None = None,
        handshake_timeout: float | None = None,
        peer_limit: int | None = None,
    ) -> None:
        path = os.fsencode(os.fspath(socket_path))
        options = ffi.new("rtd_host_options *")
        lib.rtd_host_options_init(options, ffi.sizeof("rtd_host_options"))
        keep = _json(dict(capabilities)) if capabilities is not None else b""
        if keep:
            options.capabilities = ffi.from_buffer("uint8_t[]", keep)
            options.capabilities_len = len(keep)
        if max_peers is not None:
            options.max_peers = max_peers
        if handshake_timeout is not None:
            options.handshake_timeout_ms = int(handshake_timeout * 1000)
        if peer_limit is not None:
            options.peer_limit = peer_limit
        out = ffi.new("rtd_host **")
        check(lib.rtd_host_open(path, len(path), options, out))
        self.handle = out[0]
        self._event = ffi.new("rtd_event *")
        self._event.struct_size = ffi.sizeof("rtd_event")
        self._ended = False
        self.socket_path = os.fsdecode(path)

    # -- events

    def fileno(self) -> int:
        """The descriptor that is readable exactly while an event waits.  Poll it; never read or close it."""
        return int(lib.rtd_queue_fd(self._queue()))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until an event is there, at most ``timeout`` seconds (``None``: for ever).  False: the time is over."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        # `poll` takes a negative time as none, and none beyond 24 days.
        return bool(poll.poll(None if timeout is None else min(max(timeout * 1000, 0), _LONGEST_POLL)))

    def drain(self, limit: int = 256) -> list[Event]:
        """Take the events that wait now, in order, at most ``limit`` of them.  Never blocks."""
        queue, event = self._queue(), self._event
        events: list[Event] = []
        while len(events) < limit:
            code = lib.rtd_queue_next(queue, event)
            if code == lib.RTD_E_AGAIN:
                break
            if code == lib.RTD_E_CLOSED:
                self._ended = True
                break
            check(code)
            events.append(decode_event(event))
        return events

    @property
    def ended(self) -> bool:
        """True once ``drain`` has delivered the last event after :meth:`stop`."""
        return self._ended

    # -- rooms

    def open_room(self, notebook_id: str, journal: str | None = None) -> None:
        """Answer ``RTD_EV_ROOM_WANTED``: open the room, or load it from its journal.

        ``journal`` is the file that receives every change; ``None`` keeps the room in memory only.  Raises an error
        with code ``RTD_E_CORRUPT`` and leaves the file as it is if the journal cannot be read.
        """
        room = _text(notebook_id)
        if journal is None:
            check(lib.rtd_host_open_room(self._live(), room, len(room), ffi.NULL, 0))
        else:
            path = os.fsencode(journal)
            check(lib.rtd_host_open_room(self._live(), room, len(room), path, len(path)))

    def prepare_room(self, notebook_id: str, journal: str | None = None) -> None:
        """Open a room as :meth:`open_room` does, but let nobody in before :meth:`admit`.

        What is published or merged meanwhile is there before the first peer sees the document.
        """
        room = _text(notebook_id)
        path = b"" if journal is None else os.fsencode(journal)
        check(lib.rtd_host_prepare_room(self._live(), room, len(room), path, len(path)))

    def admit(self, notebook_id: str) -> None:
        """Let the peers into a prepared room.  Raises (code ``RTD_E_NOT_FOUND``) if it is not prepared."""
        room = _text(notebook_id)
        check(lib.rtd_host_admit(self._live(), room, len(room)))

    def fork(self, notebook_id: str) -> Document:
        """A copy of a room's document as it is; the caller closes it."""
        with self._document(notebook_id) as document:
            return document.fork()

    def merge(self, notebook_id: str, document: Document) -> None:
        """Take what was edited in a copy into the room, as if the copy were a peer that was away.

        Edits of a source merge by character.  Raises (code ``RTD_E_ARG``) if it is no copy of this room's document.
        """
        with self._document(notebook_id) as room:
            room.merge(document)

    def refuse_room(self, notebook_id: str) -> None:
        """Answer ``RTD_EV_ROOM_WANTED`` by disconnecting the peers that asked for the room."""
        room = _text(notebook_id)
        check(lib.rtd_host_refuse_room(self._live(), room, len(room)))

    def close_room(self, notebook_id: str) -> None:
        """Close a room and disconnect its peers.  Its journal stays."""
        room = _text(notebook_id)
        check(lib.rtd_host_close_room(self._live(), room, len(room)))

    def evict_room(self, notebook_id: str) -> bool:
        """Close a room unless a peer is in it; whether it is closed.  Who comes at this moment asks for it anew."""
        room = _text(notebook_id)
        code = lib.rtd_host_evict_room(self._live(), room, len(room))
        if code != lib.RTD_E_AGAIN:
            check(code)
        return bool(code != lib.RTD_E_AGAIN)

    def rooms(self) -> list[Json]:
        """The open rooms: ``{"notebook_id", "peers"}`` each."""
        out = ffi.new("rtd_buf *")
        check(lib.rtd_host_rooms(self._live(), out))
        return list(json.loads(take_buf(out)))

    def publish(
        self,
        notebook_id: str,
        ops: Sequence[Mapping[str, Any]] = (),
        broadcasts: Sequence[Mapping[str, Any]] = (),
        cause: int = 0,
    ) -> None:
        """Change the document of a room and then tell its peers.

        ``ops`` become one change (all or nothing) and one sync message per peer; the broadcasts follow it in order.
        ``cause`` is the token of a request: its peer sees the response before these broadcasts (protocol 2,
        section 5.5, item 4).
        """
        room, edits, events = _text(notebook_id), _json(list(ops)), _json(list(broadcasts))
        check(lib.rtd_host_publish(self._live(), room, len(room), edits, len(edits), events, len(events), cause))

    def send(self, peer: int, broadcast: Mapping[str, Any]) -> None:
        """Send one broadcast to one peer, behind the changes and broadcasts made before it.

        ``peer`` is the number of the connection, as in ``PEER_JOINED``.  Raises (code ``RTD_E_NOT_FOUND``) if no such
        peer is in a room.  A peer of protocol version 1 has no broadcasts: nothing is sent to it.
        """
        data = _json(dict(broadcast))
        check(lib.rtd_host_send(self._live(), peer, data, len(data)))

    def respond(self, token: int, response: Mapping[str, Any]) -> None:
        """Answer a request, once.  Raises (code ``RTD_E_NOT_FOUND``) if it was answered or its peer has gone."""
        data = _json(dict(response))
        check(lib.rtd_host_respond(self._live(), token, data, len(data)))

    def announce_pool_state(self, state: Mapping[str, Any]) -> None:
        """Tell all subscribers the state of the pools, unless it is what they know (protocol 2, section 11.2).

        ``state`` has the members ``uv_error`` and ``conda_error``, each ``None`` or a pool error (section 4.2).  The
        host remembers it for new subscribers; until the first call the pools are well.  Raises (code ``RTD_E_ARG``)
        for anything else.
        """
        data = _json(dict(state))
        check(lib.rtd_host_announce_pool_state(self._live(), data, len(data)))

    # -- settings

    def open_settings(self, journal: str | None = None) -> None:
        """Serve the settings (protocol 2, section 11.1); before this, the settings channel is closed.

        ``journal`` is the file that receives every change; ``None`` keeps them in memory only.  Raises an error with
        code ``RTD_E_CORRUPT`` and leaves the file as it is if it cannot be read.
        """
        path = os.fsencode(journal) if journal is not None else ffi.NULL
        check(lib.rtd_host_open_settings(self._live(), path, 0 if journal is None else len(path)))

    def settings(self) -> Json:
        """The settings: ``theme``, ``default_runtime``, ``default_python_env``, ``uv`` and ``conda`` with their
        ``default_packages``, each with its default where nothing usable is set, then what peers added."""
        out = ffi.new("rtd_buf *")
        check(lib.rtd_host_settings(self._live(), out))
        return dict(json.loads(take_buf(out)))

    def change_settings(self, members: Mapping[str, Any]) -> None:
        """Change the settings and tell the peers.  What is not given or not different stays as it is.

        Objects are gone through member by member, a list is replaced as a whole.  Raises (code ``RTD_E_ARG``) for a
        member of the wrong type; nothing changed then.
        """
        data = _json(dict(members))
        check(lib.rtd_host_change_settings(self._live(), data, len(data)))

    # -- documents

    def cells(self, notebook_id: str) -> list[Json]:
        """The cells of a room in order: ``{"id", "cell_type", "source", "execution_count", "outputs"}`` each."""
        with self._document(notebook_id) as document:
            return document.cells()

    def cell(self, notebook_id: str, cell_id: str) -> Json:
        """One cell of a room.  Raises ``Cell not found: <id>`` (code ``RTD_E_NOT_FOUND``)."""
        with self._document(notebook_id) as document:
            return document.cell(cell_id)

    def metadata(self, notebook_id: str) -> dict[str, str]:
        """The ``/metadata`` map of a room: strings by key."""
        with self._document(notebook_id) as document:
            return document.metadata()

    def _document(self, notebook_id: str) -> Document:
        """A handle for the document of a room; the room keeps its document when the handle is closed."""
        room, out = _text(notebook_id), ffi.new("rtd_doc **")
        check(lib.rtd_host_doc(self._live(), room, len(room), out))
        return Document(out[0])

    def _queue(self) -> Any:
        return lib.rtd_host_queue(self._live())

    def disconnect(self, peer: int) -> None:
        """End the connection of one peer."""
        check(lib.rtd_host_disconnect(self._live(), peer))

    # -- life

    def stop(self) -> None:
        """Stop listening, flush and disconnect the peers, remove the socket file.

        The events still waiting can be drained; the last one is ``RTD_EV_CLOSED``.  Idempotent.
        """
        if self.handle != ffi.NULL:
            check(lib.rtd_host_close(self.handle))

    def _free(self, handle: Any) -> None:
        self._ended = True
        lib.rtd_host_close(handle)
        lib.rtd_host_free(handle)

    def __repr__(self) -> str:
        state = "closed" if self.handle == ffi.NULL else "open"
        return f"<Host {self.socket_path!r} {state}>"


def read_document(data: bytes) -> list[Json]:
    """The cells of a saved notebook document (a journal file), in the form of :meth:`Host.cells`.

    Raises an error (code ``RTD_E_CORRUPT`` or ``RTD_E_PROTOCOL``) if the bytes are no document.
    """
    with Document.load(data) as document:
        return document.cells()
