"""Our daemon as a foreign program starts it: by the reference's command line alone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

START_SECONDS = 30.0
STOP_SECONDS = 5.0

_PROGRAM = "import sys; from runtimed_ffi.__main__ import daemon_main; sys.exit(daemon_main(sys.argv[1:]))"


def until(condition: Callable[[], object], seconds: float = 30.0, what: str = "") -> None:
    """Poll `condition` until it is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} seconds: {what or condition}"
        time.sleep(0.01)


def accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


class DaemonProcess:
    """What the console script `runtimed` runs, with the command line of the reference's own tests."""

    def __init__(self, directory: Path, *, uv: int = 0, conda: int = 0) -> None:
        self.directory = directory
        self.socket = directory / "runtimed.sock"
        self.log = directory / "output.txt"
        directory.mkdir(parents=True, exist_ok=True)
        line = ["run", "--socket", str(self.socket), "--cache-dir", str(directory / "envs")]
        line += ["--blob-store-dir", str(directory / "blobs")]
        line += ["--uv-pool-size", str(uv), "--conda-pool-size", str(conda)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RUNTIMED_")}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *line],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # The pool cannot fetch packages: these tests are not about environments, and need no network.
                env=dict(environment, RUST_LOG="info", HOME=str(directory), UV_OFFLINE="1"),
            )
        try:
            until(lambda: self.socket.exists() or self.process.poll() is not None, START_SECONDS, "socket")
            assert self.process.poll() is None, self.log.read_text()
        except BaseException:
            self.kill()
            raise

    def terminate(self) -> float:
        """SIGTERM; returns how long the end took."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("the daemon was still there:\n" + self.log.read_text()) from None
        return time.monotonic() - start

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def daemon(directory: Path, uv: int = 0) -> Iterator[DaemonProcess]:
    """A daemon for the length of a `with` block; it must still be alive then, and end in time."""
    running = DaemonProcess(directory, uv=uv)
    try:
        yield running
        code = running.process.poll()
        assert code is None, f"the daemon has died ({code}):\n" + running.log.read_text()
        running.terminate()
        assert not running.socket.exists()
    finally:
        running.kill()
