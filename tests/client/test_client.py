"""`DaemonClient` against daemons that misbehave: a typed error for each, with the texts of `runtimed`."""

from __future__ import annotations

import json
import socket
import struct
import threading

import pytest

from runtimed_ffi import DaemonClient, errors
from runtimed_ffi._client.wire import Deadline


@pytest.fixture
def daemon(tmp_path):
    """Serves one connection: takes the two frames of a question and answers with the given bytes."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = str(tmp_path / "s")
    listener.bind(path)
    listener.listen(1)
    threads = []

    def answer(data):
        def serve():
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as stream:
                for _ in range(2):
                    stream.read(struct.unpack(">I", stream.read(4))[0])
                connection.sendall(data)

        threads.append(threading.Thread(target=serve, daemon=True))
        threads[-1].start()
        return DaemonClient(path)

    yield answer
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    listener.close()


def frame(value):
    payload = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack(">I", len(payload)) + payload


@pytest.mark.parametrize(
    "answer, kind, message",
    [
        (b"", errors.ProtocolError, r"Protocol error: connection closed"),
        (b"\0\0", errors.ProtocolError, r"Protocol error: connection closed"),
        (b"\xff\xff\xff\xff", errors.ProtocolError, r"Protocol error: recv: frame too large.*"),
        (frame(b"no json"), errors.ProtocolError, r"Protocol error: recv: .*"),
        (frame([]), errors.ProtocolError, r"Protocol error: Unexpected response"),
        (frame({"type": "pong"}), errors.ProtocolError, r"Protocol error: Unexpected response"),
        (frame({"type": "stats", "stats": 1}), errors.ProtocolError, r"Protocol error: Unexpected response"),
        (
            frame({"type": "stats", "stats": {"uv_available": "many"}}),
            errors.ProtocolError,
            r"Protocol error: Unexpected response",
        ),
        (frame({"type": "error", "message": "no"}), errors.DaemonError, r"Daemon returned error: no"),
    ],
)
def test_bad_answers(daemon, answer, kind, message):
    with pytest.raises(kind, match=f"^{message}$"):
        daemon(answer).status()


@pytest.mark.parametrize("rooms", [None, {}, [1], [{"notebook_id": "a"}, "b"]])
def test_bad_rooms(daemon, rooms):
    with pytest.raises(errors.ProtocolError, match=r"^Protocol error: Unexpected response$"):
        daemon(frame({"type": "rooms_list", "rooms": rooms})).list_rooms()


def test_good_answers(daemon):
    assert daemon(frame({"type": "pong", "more": 1})).ping() is True
    stats = {"uv_available": 1, "conda_available": 0, "uv_warming": 2, "conda_warming": 0}
    assert daemon(frame({"type": "stats", "stats": {**stats, "uv_error": None}})).status() == stats
    rooms = [{"notebook_id": "a", "active_peers": 1, "has_kernel": True, "kernel_type": "python", "env_source": None}]
    kept = {"notebook_id": "a", "active_peers": 1, "has_kernel": True, "kernel_type": "python"}
    assert daemon(frame({"type": "rooms_list", "rooms": rooms})).list_rooms() == [kept]


def test_a_daemon_that_does_not_accept(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(0)
        waiting = []
        try:
            # Until the line is full; where the system refuses then, there is nothing to wait for.
            while True:
                waiting.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                waiting[-1].setblocking(False)
                waiting[-1].connect(path)
        except (BlockingIOError, ConnectionRefusedError) as full:
            kind = errors.TimeoutError_ if isinstance(full, BlockingIOError) else errors.ConnectError
        client = DaemonClient(path)
        assert client.ping() is False
        with pytest.raises(kind, match=r"^Connection timeout$" if kind is errors.TimeoutError_ else "refused"):
            client.status()
        for each in waiting:
            each.close()


@pytest.mark.parametrize("needed", [1, 2, 5])
def test_shutdown_asks_until_connecting_fails(tmp_path, needed):
    path, asked = str(tmp_path / "s"), []
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(1)

    def serve():
        with listener:
            for _ in range(needed):
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as stream:
                    for _ in range(2):
                        asked.append(json.loads(stream.read(struct.unpack(">I", stream.read(4))[0])))
                    connection.sendall(frame({"type": "shutting_down"}))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    DaemonClient(path).shutdown()
    thread.join(20)
    assert asked == [{"channel": "pool"}, {"type": "shutdown"}] * needed


def test_a_deadline_of_zero_has_passed():
    with pytest.raises(socket.timeout):
        Deadline(0).left()
    assert 0 < Deadline(100).left() <= 100
