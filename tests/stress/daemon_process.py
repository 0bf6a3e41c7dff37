"""A whole daemon for a test: its process, its directory, and a kernelspec that starts scripted kernels."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

from stress import script

KERNEL = "scripted"
"""The kernel type to launch."""

_HERE = Path(__file__).resolve().parent
_START_SECONDS = 60.0


class DaemonProcess:
    """Starts, stops, kills and restarts a daemon on one directory.

    Args:
        directory: for everything; short, because sockets are in it.
        arguments: further ones for the daemon's command line.
    """

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.base = directory / "d"
        self.socket = str(self.base / "runtimed.sock")
        self.log = directory / "output.txt"
        self.kernel_logs = directory / "k"
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None
        self.kernel_logs.mkdir()
        spec = directory / "jupyter" / "kernels" / KERNEL
        spec.mkdir(parents=True)
        argv = [sys.executable, str(_HERE / "script_kernel.py"), "-f", "{connection_file}"]
        spec.joinpath("kernel.json").write_text(
            json.dumps({"argv": argv, "display_name": "Scripted", "language": "script"})
        )
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RUNTIMED_")}
        self.environment = dict(
            environment,
            HOME=str(directory),
            JUPYTER_PATH=str(directory / "jupyter"),
            RTD_SCRIPT_LOG=str(self.kernel_logs),
            RUST_LOG="info",
        )

    def start(self, **environment: str) -> None:
        """Start the daemon and wait until it listens, or has ended."""
        assert self.process is None
        reader, writer = os.pipe()
        line = [sys.executable, "-m", "runtimed_ffi", "daemon", "run", "--socket", self.socket]
        line += ["--base-dir", str(self.base), "--uv-pool-size", "0", "--conda-pool-size", "0"]
        line += ["--exit-with-stdin", "--ready-fd", str(writer), *self.arguments]
        try:
            with open(self.log, "ab") as log:
                self.process = subprocess.Popen(
                    line,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=[writer],
                    start_new_session=True,
                    env={**self.environment, **environment},
                )
        finally:
            os.close(writer)
        try:
            assert select.select([reader], [], [], _START_SECONDS)[0], "the daemon did not start:\n" + self.tail()
            self.ready = os.read(reader, 16) == b"ready\n"
        finally:
            os.close(reader)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-5000:]

    def check_alive(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon has ended ({self.process.returncode}):\n{self.tail()}"

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self.process is not None:
            self.process.kill()
            self._forget()

    def await_end(self) -> None:
        """Wait for an end that has another cause."""
        assert self.process is not None
        self.process.wait(30)
        self._forget()

    def _forget(self) -> None:
        assert self.process is not None and self.process.stdin is not None
        self.process.wait(30)
        self.process.stdin.close()
        self.process = None

    def stop(self) -> None:
        """SIGTERM; the daemon must end in order, and leave no kernel. Harmless when it does not run."""
        if self.process is None:
            return
        self.check_alive()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("the daemon did not end:\n" + self.tail()) from None
        self._forget()
        until(lambda: not self.kernels(), what="the kernels to be gone")

    def kernels(self) -> list[int]:
        """The processes of scripted kernels of this directory, with any parent."""
        wanted = f"RTD_SCRIPT_LOG={self.kernel_logs}".encode()
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    if b"script_kernel.py" not in file.read():
                        continue
                with open(f"/proc/{entry}/environ", "rb") as file:
                    if wanted in file.read().split(b"\0"):
                        found.append(int(entry))
            except OSError:  # It has ended meanwhile, or belongs to another user.
                continue
        return found

    def close(self) -> None:
        """Kill everything; also at the end of a failed test."""
        self.kill()
        for pid in self.kernels():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def runs(self, count: int) -> dict[int, list[list[Any]]]:
        """What the kernel that gave this execution count has done: the notes of each of its runs, by their count."""
        first = count // script.RUNS * script.RUNS
        runs: dict[int, list[list[Any]]] = {}
        for line in (self.kernel_logs / f"{first}.jsonl").read_text().splitlines():
            number, note = json.loads(line)
            runs.setdefault(number, []).append(note)
        return runs


def until(condition: Callable[[], object], seconds: float = 30.0, what: str = "") -> None:
    """Poll a condition until it is true; for what has no event, such as the end of a process that is no child."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} seconds: {what or condition}"
        time.sleep(0.005)
