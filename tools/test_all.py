"""`make test`: runs the checks one after the other, all of them even when one fails, and sums up once."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter

# Make target, and what it is called in the summary.
STEPS = [
    ("check-rustfmt", "rustfmt"),
    ("check-clippy", "clippy"),
    ("test-rust", "Rust tests"),
    ("check-ruff", "ruff"),
    ("check-mypy", "mypy"),
    ("test-python", "Python tests"),
    ("test-pypy", "PyPy tests"),
]


def run(command):
    """Runs the command with its output shown as it comes; returns exit status and output."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    chunks = []
    while True:
        chunk = os.read(process.stdout.fileno(), 65536)
        if not chunk:
            return process.wait(), b"".join(chunks).decode("utf-8", "replace")
        chunks.append(chunk)
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


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


def main(make, pypy):
    """Returns the exit status."""
    total, rows = Counter(), []
    for target, title in STEPS:
        if target == "test-pypy" and not shutil.which(pypy):
            rows.append((title, "skipped", 0.0, f"{pypy} is not installed"))
            total["skipped"] += 1
            continue
        print(f"\n== {title}", flush=True)
        start = time.monotonic()
        status, output = run([make, "--no-print-directory", target])
        counts = count(output)
        if status and not counts["failed"]:
            counts["failed"] = 1  # a linter, or a runner that did not get as far as counting
        elif not status and not counts:
            counts["passed"] = 1  # a linter counts as one test
        total += counts
        detail = ", ".join(f"{counts[word]} {word}" for word in ("passed", "failed", "skipped") if counts[word])
        rows.append((title, "FAILED" if status else "ok", time.monotonic() - start, detail))
    print("\n== summary")
    for title, state, seconds, detail in rows:
        print(f"   {title:14} {state:8} {seconds:6.1f} s   {detail}")
    failed = sum(state == "FAILED" for _, state, _, _ in rows)
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
