"""The ZeroMQ sockets of one kernel: everything that is readable now becomes one batch.

Storey: daemon (7).  Plain sockets on the loop instead of ``jupyter_client``'s coroutine clients: a message costs one
non-blocking receive and no task switch, and neighbours arrive together, so that they can become one change of the
document (architecture, decision 4).  Signing and the layout of messages stay with ``jupyter_client.session``.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from typing import Any, Callable, cast

import zmq
from jupyter_client.session import Session

from runtimed_ffi.daemon.ports import Json, Message

log = logging.getLogger(__name__)

BATCH_LIMIT = 512
"""Messages taken from one socket before the loop gets its turn; so that a busy kernel does not
starve other work."""

_RECONNECT_MS = 5
"""Pause between attempts to connect while the kernel has not bound its sockets yet (the default, 100, is lost time)."""

_DELIMITER = b"<IDS|MSG>"


class KernelSockets:
    """Shell, control and iopub of a kernel.  Everything on the loop's thread.

    Args:
        context: The process's ZeroMQ context.
        info: Connection information as ``KernelManager.get_connection_info`` gives it.
        session: The session with the kernel's key.
        on_batch: Receives each batch, iopub messages first.
    """

    def __init__(
        self, context: zmq.Context[Any], info: Json, session: Session, on_batch: Callable[[list[Message]], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._session = session
        self._on_batch = on_batch
        self._closed = False
        self._again: asyncio.Handle | None = None
        self.disconnected: asyncio.Future[None] = self._loop.create_future()
        """Done when iopub has lost its kernel and all it had sent is here."""
        kinds = (("iopub", zmq.SUB), ("shell", zmq.DEALER), ("control", zmq.DEALER))
        self._sockets: list[tuple[str, zmq.Socket[bytes]]] = []
        for name, kind in kinds:
            socket = context.socket(kind)
            socket.linger = 0
            # Neither a send may block the loop nor an output be dropped because the loop was busy.
            socket.sndhwm = socket.rcvhwm = 0
            socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
            if kind == zmq.SUB:
                socket.setsockopt(zmq.SUBSCRIBE, b"")
            else:
                socket.setsockopt(zmq.IDENTITY, session.bsession)
            self._sockets.append((name, cast("zmq.Socket[bytes]", socket)))
        self._by_name = dict(self._sockets)
        self._monitor = self._by_name["iopub"].get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._loop.add_reader(_descriptor(self._monitor), self._on_monitor)
        for name, socket in self._sockets:
            self._loop.add_reader(_descriptor(socket), self._drain)
            socket.connect(_address(info, name))
        # The descriptors are edge-triggered: an edge comes only after the socket was once found empty.
        self._on_monitor()
        self._drain_soon()

    def send(self, channel: str, msg_type: str, content: Json) -> str:
        """Send a new message and return its id.  Never blocks."""
        message = self._session.msg(msg_type, content=content)
        self.send_message(channel, message, [])
        return str(message["header"]["msg_id"])

    def send_message(self, channel: str, message: Json, buffers: list[bytes]) -> None:
        """Send a message that has its header already."""
        if self._closed:
            raise ConnectionError("the kernel has ended")
        self._session.send(cast(Any, self._by_name[channel]), message, buffers=cast(Any, buffers))
        # A send may have swallowed the edge of an incoming message.
        self._drain_soon()

    def drain(self) -> None:
        """Deliver what is readable now; for the moment in which nothing more will come."""
        self._drain()

    def close(self) -> None:
        """Close the sockets.  Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(_descriptor(self._monitor))
        self._by_name["iopub"].disable_monitor()
        self._monitor.close(0)
        for _, socket in self._sockets:
            self._loop.remove_reader(_descriptor(socket))
            socket.close(0)
        if not self.disconnected.done():
            self.disconnected.cancel()

    def _drain_soon(self) -> None:
        if self._again is None:
            self._again = self._loop.call_soon(self._drain_again)

    def _drain_again(self) -> None:
        self._again = None
        self._drain()

    def _drain(self) -> None:
        if self._closed:
            return
        batch: list[Message] = []
        for name, socket in self._sockets:
            for _ in range(BATCH_LIMIT):
                try:
                    parts = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                try:
                    batch.append(self._decode(name, parts))
                except Exception as error:
                    log.warning("a malformed message of the kernel on %s was skipped: %s", name, error)
            else:
                self._drain_soon()
        if batch:
            self._on_batch(batch)

    def _decode(self, channel: str, parts: list[bytes]) -> Message:
        start = parts.index(_DELIMITER) + 1
        signature, header, parent, metadata, content = parts[start : start + 5]
        if self._session.auth is not None and not hmac.compare_digest(
            signature, self._session.sign([header, parent, metadata, content])
        ):
            raise ValueError("wrong signature")
        head = _object(header)
        return Message(
            channel,
            str(head["msg_type"]),
            str(_object(parent).get("msg_id", "")),
            _object(content),
            _object(metadata),
            parts[start + 5 :],
        )

    def _on_monitor(self) -> None:
        while not self._closed:
            try:
                self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if not self.disconnected.done():
                self.disconnected.set_result(None)


def _descriptor(socket: zmq.Socket[bytes]) -> int:
    return cast(int, socket.getsockopt(zmq.FD))


def _no_number(_: str) -> None:
    """NaN and the infinities are not JSON; the document and the wire would refuse them."""


def _object(data: bytes) -> Json:
    value = json.loads(data, parse_constant=_no_number)
    if not isinstance(value, dict):
        raise ValueError("a part of the message is no object")
    return value


def _address(info: dict[str, Any], channel: str) -> str:
    separator = "-" if info["transport"] == "ipc" else ":"
    return f"{info['transport']}://{info['ip']}{separator}{info[channel + '_port']}"
