"""`make test`, `make check`, `make test-long`: runs a plan of steps, all of them even when one fails, and sums up once.

A plan is a list of stages, one after the other. A stage is a list of lanes that run beside each other, and a lane is
a list of steps. The output of a stage's first lane is shown as it comes, that of a step in another lane at its end.
"""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple


class Step(NamedTuple):
    """One make target."""

    target: str
    title: str
    minutes: int
    """The limit, after which all its processes are killed: a crashed worker of pytest can leave the others waiting."""
    counted: bool = True
    """Whether it is a check by itself, as a linter is; preparations are counted only when they fail."""


RUSTFMT = Step("check-rustfmt", "rustfmt", 2)
CLIPPY = Step("check-clippy", "clippy", 15)
RUST = Step("test-rust", "Rust tests", 25)
RUFF = Step("check-ruff", "ruff", 20)
MYPY = Step("check-mypy", "mypy", 5)
PREPARE_PYPY = Step("prepare-pypy", "PyPy install", 15, counted=False)
PYTHON = Step("test-python", "Python tests", 40)
PYPY = Step("test-pypy", "PyPy tests", 35)

# Cargo uses all cores but for the ends of its builds; what Python has to do before its tests fits in there.
CARGO_LANE = [RUSTFMT, CLIPPY, RUST]
PLANS = {
    "check": [[CARGO_LANE, [RUFF, MYPY]], [[Step("test-quick", "quick tests", 15)]]],
    "test": [[CARGO_LANE, [RUFF, MYPY, PREPARE_PYPY]], [[PYTHON, PYPY]]],
    "long": [[[PREPARE_PYPY, Step("test-long-python", "long tests", 240), Step("test-long-pypy", "PyPy, all", 120)]]],
}
CHUNK = 65536
SILENCE = 5.0
"""Seconds without output after which the end of the process is the end of its output."""


class Row(NamedTuple):
    """The line of a step in the summary."""

    title: str
    state: str
    seconds: float
    counts: Counter
    remark: str = ""


class Screen:
    """Standard output, shared by lanes."""

    def __init__(self):
        self._lock = threading.Lock()
        self._at_line_start = True

    def write(self, data):
        """Shows bytes as they are."""
        with self._lock:
            self._put(data)

    def block(self, data):
        """Shows bytes that begin a line of their own."""
        with self._lock:
            self._put((b"" if self._at_line_start else b"\n") + data)

    def _put(self, data):
        if data:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            self._at_line_start = data.endswith(b"\n")


class Runner:
    """Runs the steps of one plan.

    Args:
        make: the make program.
        pypy: the PyPy program; its steps are skipped when it is missing.
    """

    def __init__(self, make, pypy):
        self.make, self.pypy = make, pypy
        self.screen = Screen()
        self.processes = set()

    def lane(self, steps, live):
        """Runs steps one after the other; returns their rows."""
        return [self.step(step, live) for step in steps]

    def step(self, step, live):
        """Runs one step and counts its tests; returns its row."""
        if "pypy" in step.target and not shutil.which(self.pypy):
            counts = Counter(skipped=int(step.counted))
            return Row(step.title, "skipped", 0.0, counts, f"{self.pypy} is not installed")
        title = f"\n== {step.title}\n".encode()
        if live:
            self.screen.block(title)
        start = time.monotonic()
        status, output, in_time = self.run([self.make, "--no-print-directory", step.target], step.minutes * 60, live)
        if not live:
            self.screen.block(title + output)
        counts = count(output.decode("utf-8", "replace"))
        if (status or not in_time) and not counts["failed"]:
            counts["failed"] = 1  # a linter, or a runner that did not get as far as counting
        elif not status and not counts and step.counted:
            counts["passed"] = 1  # a linter counts as one test
        remark = "" if in_time else f"killed after its limit of {step.minutes} minutes"
        state = "ok" if status == 0 and in_time else "FAILED"
        return Row(step.title, state, time.monotonic() - start, counts, remark)

    def run(self, command, seconds, live):
        """Runs a command in a process group of its own; returns exit status, output, and whether it ended in time."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.processes.add(process)
        expired = threading.Event()

        def expire():
            expired.set()
            kill(process)

        timer = threading.Timer(seconds, expire)
        timer.start()
        try:
            chunks = []
            for chunk in output_of(process):
                chunks.append(chunk)
                if live:
                    self.screen.write(chunk)
            status = process.wait()
        finally:
            timer.cancel()
            self.processes.discard(process)
            process.stdout.close()
        return status, b"".join(chunks), not expired.is_set()

    def plan(self, stages):
        """Runs all stages; returns the rows."""
        rows = []
        for lanes in stages:
            with ThreadPoolExecutor(len(lanes)) as pool:
                running = [pool.submit(self.lane, steps, number == 0) for number, steps in enumerate(lanes)]
                try:
                    for future in running:
                        rows += future.result()
                except KeyboardInterrupt:
                    for process in list(self.processes):
                        kill(process)
                    raise
        return rows


def output_of(process):
    """Yields what a process writes, until all have closed the pipe or the process has ended and the pipe is silent."""
    while True:
        ended = process.poll() is not None
        if select.select([process.stdout], [], [], SILENCE)[0]:
            chunk = os.read(process.stdout.fileno(), CHUNK)
            if not chunk:
                return
            yield chunk
        elif ended:
            return  # a process that was left behind holds the pipe


def kill(process):
    """Kills a process and all others of its group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def count(output):
    """Tests passed, failed and skipped, from the closing lines of cargo and pytest."""
    counts = Counter()
    output = re.sub(r"\x1b\[[0-9;]*m", "", output)
    for passed, failed, ignored in re.findall(
        r"^test result: .*?(\d+) passed; (\d+) failed; (\d+) ignored", output, re.M
    ):
        counts.update(passed=int(passed), failed=int(failed), skipped=int(ignored))
    for line in re.findall(r"^=+ (.*\d+ \w+.*) in [\d.]+s.*=+$", output, re.M):
        for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", line):
            counts["failed" if word == "error" else word] += int(number)
    return counts


def main(plan, make, pypy):
    """Returns the exit status."""
    runner, start = Runner(make, pypy), time.monotonic()
    try:
        rows = runner.plan(PLANS[plan])
    except KeyboardInterrupt:
        return 130
    print("\n== summary")
    total = sum((row.counts for row in rows), Counter())
    for row in rows:
        words = [f"{row.counts[word]} {word}" for word in ("passed", "failed", "skipped") if row.counts[word]]
        remarks = [row.remark] if row.remark else []
        print(f"   {row.title:14} {row.state:8} {row.seconds:6.1f} s   {', '.join(words + remarks)}")
    print(f"   {'all':14} {'':8} {time.monotonic() - start:6.1f} s")
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped", flush=True)
    return 1 if any(row.state == "FAILED" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
