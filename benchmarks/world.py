"""What is measured against: a private daemon and an echo process, both gone afterwards."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid

import runtimed_ffi

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class World:
    """A daemon of our own and an echo process.

    ``samples(n)`` says how often to measure: ``n``, or hardly at all when it only matters that everything runs.
    """

    def __init__(self, quick: bool = False) -> None:
        self.quick = quick
        self._directory = tempfile.mkdtemp(prefix="rtd-bench-")
        self._echo_path = os.path.join(self._directory, "echo")
        self.daemon = runtimed_ffi.Daemon(os.path.join(self._directory, "d"))
        self._echo = None

    def __enter__(self) -> "World":
        try:
            self._echo = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.echo", self._echo_path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
            )
            if not self._echo.stdout.readline():
                raise RuntimeError("the echo process did not start")
            self.daemon.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.stop()
        if self._echo is not None:
            self._echo.stdin.close()
            self._echo.wait()
            self._echo.stdout.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def samples(self, count: int) -> int:
        """How often to measure something that deserves ``count`` samples."""
        return min(count, 2) if self.quick else count

    def session(self, notebook_id: "str | None" = None) -> runtimed_ffi.Session:
        """A connected session, by default in a room of its own."""
        session = self.daemon.session(notebook_id or f"bench-{uuid.uuid4()}-")
        session.connect()
        return session

    def plain(self, mode: bytes) -> socket.socket:
        """A connection to the echo process: ``b"e"`` echo, ``b"r"`` relay."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(self._echo_path)
        connection.sendall(mode)
        return connection


def ask_pool(socket_path: str, kind: str) -> "dict[str, object]":
    """One request on the pool channel of a daemon, and its answer with all members."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, connection.makefile("rb") as answers:
        connection.connect(socket_path)
        for message in ({"channel": "pool"}, {"type": kind}):
            data = json.dumps(message).encode()
            connection.sendall(len(data).to_bytes(4, "big") + data)
        return json.loads(answers.read(int.from_bytes(answers.read(4), "big")))


def exchange(connection: socket.socket, data: bytes) -> None:
    """Send, and wait until as much has come back."""
    connection.sendall(data)
    left = len(data)
    while left:
        left -= len(connection.recv(left))
