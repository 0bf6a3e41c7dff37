"""`Daemon`: a private daemon for the length of a `with` block, for tests and scripts.

Storey 6 (client). Starts the same program as `autostart`, but attached: it ends with the object, or with this process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

from runtimed_ffi._binding.ffi import StrPath
from runtimed_ffi._client.launch import failed_start, launch
from runtimed_ffi.client import DaemonClient
from runtimed_ffi.errors import StateError
from runtimed_ffi.places import LOG_NAME, SOCKET_NAME, daemon_command
from runtimed_ffi.session import Session

_STOP_SECONDS = 10.0


class Daemon:
    """A daemon process of one's own, with its files in one directory.

    The daemon ends when the block ends, when `stop()` is called, and when this process dies (its standard input is a
    pipe from here). A directory that was not given is removed with everything in it.

    Args:
        directory: where the daemon keeps socket, log, documents and blobs; default: a new temporary directory.
        arguments: further arguments of ``python -m runtimed_ffi daemon run``.

    Example::

        with runtimed_ffi.Daemon() as daemon, daemon.session() as session:
            session.start_kernel()
            print(session.run("1 + 1").display_data)
    """

    def __init__(self, directory: StrPath | None = None, *, arguments: Sequence[str] = ()) -> None:
        self._given = None if directory is None else os.path.abspath(os.fspath(directory))
        self._arguments = tuple(arguments)
        self._directory: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> str:
        """Where the daemon's files are. Raises `StateError` when it was not started."""
        if self._directory is None:
            raise StateError("the Daemon is not running; use it in a with statement or call start()")
        return self._directory

    @property
    def socket_path(self) -> str:
        """The daemon's socket."""
        return os.path.join(self.directory, SOCKET_NAME)

    @property
    def log_path(self) -> str:
        """The daemon's log file."""
        return os.path.join(self.directory, LOG_NAME)

    @property
    def pid(self) -> int | None:
        """The daemon's process id, `None` when it does not run."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> Daemon:
        """Start the process and wait until it accepts connections.

        Raises:
            ConnectError: it did not become ready within 30 seconds; the text has the end of its log.
            StateError: it is running.
        """
        if self._process is not None:
            raise StateError("the Daemon is already running")
        if self._given is not None:
            os.makedirs(self._given, mode=0o700, exist_ok=True)
        self._directory = self._given or tempfile.mkdtemp(prefix="rtd-")
        try:
            self._launch()
        except BaseException:
            self.stop()
            raise
        return self

    def _launch(self) -> None:
        command = daemon_command("--socket", self.socket_path, "--exit-with-stdin", *self._arguments)
        tail = launch(command, self.log_path, self._keep, stdin=subprocess.PIPE)
        if tail is not None:
            raise failed_start(tail)

    def _keep(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def stop(self) -> None:
        """End the process, kernels included, and remove a temporary directory. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            for end in (process.terminate, process.kill):
                try:
                    process.wait(_STOP_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    end()
            process.wait()
        if self._given is None and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory = None

    def kill(self) -> None:
        """End the process the hard way, as a crash would, and wait for its end; the files stay until `stop()`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def session(self, notebook_id: str | None = None) -> Session:
        """A session in this daemon; not yet connected."""
        return Session(notebook_id, socket_path=self.socket_path, autostart=False)

    def client(self) -> DaemonClient:
        """A client of this daemon."""
        return DaemonClient(self.socket_path)

    def __enter__(self) -> Daemon:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        pid = self.pid
        return f"Daemon({'stopped' if pid is None else f'pid={pid}, socket={self.socket_path}'})"
