"""`DaemonClient`: questions to the daemon as a whole, over its pool channel.

Storey 6 (client). Source: protocol 2, section 4; python-api, section 1.4.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

from runtimed_ffi._binding.ffi import StrPath
from runtimed_ffi._client.discovery import locate
from runtimed_ffi._client.wire import Deadline, WireConnection, os_error_text
from runtimed_ffi.errors import ConnectError, DaemonError, ProtocolError, RuntimedError, TimeoutError_

REPLY_SECONDS = 30.0
"""Limit for one answer."""
_CLOSING_SECONDS = 0.25
_SHUTDOWN_ATTEMPTS = 64
_STATUS_KEYS = ("uv_available", "conda_available", "uv_warming", "conda_warming")
_ROOM_KEYS = ("notebook_id", "active_peers", "has_kernel", "kernel_type", "kernel_status", "env_source")


class DaemonClient:
    """Asks a daemon about itself. Each call makes a connection, asks, reads the answer and hangs up.

    Args:
        socket_path: the daemon's socket. Without it: `RUNTIMED_SOCKET_PATH`, the reference daemon's default socket if
            a daemon accepts there, else our daemon's. Never starts a daemon.

    Threads: may be shared. A call may block for 2 seconds of connecting and 30 seconds of waiting.

    Example::

        with runtimed_ffi.DaemonClient() as client:
            if client.ping():
                print(client.list_rooms())
    """

    def __init__(self, socket_path: StrPath | None = None) -> None:
        self._socket_path = socket_path

    def ping(self) -> bool:
        """Whether a daemon answers. Never raises."""
        try:
            return bool(self._ask("ping").get("type") == "pong")
        except RuntimedError:
            return False

    def is_running(self) -> bool:
        """The same as `ping()`."""
        return self.ping()

    def status(self) -> dict[str, int]:
        """State of the pools of environments: `uv_available`, `conda_available`, `uv_warming`, `conda_warming`.

        Raises:
            ConnectError, TimeoutError_, ProtocolError, DaemonError: as every method here but `ping`.
        """
        stats = _expect(self._ask("status"), "stats").get("stats")
        if not isinstance(stats, Mapping):
            raise ProtocolError("Protocol error: Unexpected response")
        numbers = {key: stats.get(key) or 0 for key in _STATUS_KEYS}
        if not all(isinstance(number, int) for number in numbers.values()):
            raise ProtocolError("Protocol error: Unexpected response")
        return numbers

    def list_rooms(self) -> list[dict[str, Any]]:
        """The rooms with their `notebook_id`, `active_peers` and `has_kernel`.

        With a kernel also `kernel_type`, `kernel_status` and `env_source`, as far as the daemon knows them.
        """
        rooms = _expect(self._ask("list_rooms"), "rooms_list").get("rooms")
        if not isinstance(rooms, list) or not all(isinstance(room, Mapping) for room in rooms):
            raise ProtocolError("Protocol error: Unexpected response")
        return [{key: room[key] for key in _ROOM_KEYS if room.get(key) is not None} for room in rooms]

    def flush_pool(self) -> None:
        """Throw the prepared environments away; the daemon makes new ones."""
        _expect(self._ask("flush_pool"), "flushed")

    def shutdown(self) -> None:
        """Stop the daemon, for all its clients; returns when its socket accepts no more connections.

        The reference daemon needs the request at least twice (protocol 2, section 4.3), so it is repeated until
        connecting fails.

        Raises:
            ConnectError: there was no daemon to begin with.
            DaemonError: it still accepts after many requests.
        """
        deadline = Deadline(REPLY_SECONDS)
        self._request_shutdown(deadline)
        for _ in range(_SHUTDOWN_ATTEMPTS):
            try:
                self._request_shutdown(deadline)
            except ConnectError:
                return
            except ProtocolError:
                continue  # It hung up in the middle of the answer: it is on its way.
        raise DaemonError("Daemon returned error: it still accepts connections after shutdown requests")

    def __enter__(self) -> DaemonClient:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is kept open between calls."""

    def __repr__(self) -> str:
        return f"DaemonClient({'connected' if self.ping() else 'disconnected'})"

    def _connect(self) -> WireConnection:
        try:
            return WireConnection(locate(self._socket_path).path, {"channel": "pool"})
        except socket.timeout as error:
            raise TimeoutError_("Connection timeout") from error
        except OSError as error:
            raise ConnectError(f"Failed to connect to daemon: {os_error_text(error)}") from error

    def _ask(self, kind: str) -> dict[str, Any]:
        with self._connect() as wire:
            return _exchange(wire, kind, Deadline(REPLY_SECONDS))

    def _request_shutdown(self, deadline: Deadline) -> None:
        """Ask once and stay on the line: a daemon that stops hangs up, one that does not keeps silent for a moment."""
        with self._connect() as wire:
            _expect(_exchange(wire, "shutdown", deadline), "shutting_down")
            try:
                wire.receive(Deadline(_CLOSING_SECONDS))
            except (OSError, EOFError):
                return


def _exchange(wire: WireConnection, kind: str, deadline: Deadline) -> dict[str, Any]:
    try:
        wire.send({"type": kind}, deadline)
    except socket.timeout as error:
        raise TimeoutError_("Connection timeout") from error
    except OSError as error:
        raise ProtocolError(f"Protocol error: send: {os_error_text(error)}") from error
    try:
        raw = wire.receive(deadline)
    except socket.timeout as error:
        raise TimeoutError_("Connection timeout") from error
    except EOFError as error:
        raise ProtocolError("Protocol error: connection closed") from error
    except OSError as error:
        raise ProtocolError(f"Protocol error: recv: {os_error_text(error)}") from error
    except ProtocolError as error:
        raise ProtocolError(f"Protocol error: recv: {error}") from error
    try:
        answer = json.loads(raw)
    except ValueError as error:
        raise ProtocolError(f"Protocol error: recv: {error}") from error
    if not isinstance(answer, dict):
        raise ProtocolError("Protocol error: Unexpected response")
    if answer.get("type") == "error":
        raise DaemonError(f"Daemon returned error: {answer.get('message')}")
    return answer


def _expect(answer: dict[str, Any], kind: str) -> dict[str, Any]:
    if answer.get("type") != kind:
        raise ProtocolError("Protocol error: Unexpected response")
    return answer
