"""Automerge for JavaScript as a peer: installed once from its lock file, driven over stdin and stdout."""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ctools import ROOT, npm_ci, require

from runtimed_ffi.testing.wire import Json

HERE = Path(__file__).parent / "node"
LIMIT = 60.0
"""Seconds until an answer that does not come is a failure."""


def install() -> Path:
    """The directory with the program and its package, made on first use; skips where Node or the registry is missing.

    The directory is named by the lock file, so that another version is another directory.
    """
    require("node")
    lock = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:16]
    place = ROOT / "build" / f"automerge-js-{lock}"
    if not (place / "node_modules" / "@automerge").is_dir():
        place.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, place)
        npm_ci(place, "--cache", str(place / "npm"))
    shutil.copy(HERE / "peer.mjs", place)
    return place


class JavaScriptError(Exception):
    """The program threw an exception."""


class JavaScript:
    """The running program; a context manager."""

    def __init__(self, place: Path) -> None:
        self._process = subprocess.Popen(
            ["node", "peer.mjs"], cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)
        )
        self._buffer = b""

    def ask(self, do: str, **question: Any) -> Any:
        """Sends a request and returns the answer. Raises `JavaScriptError`."""
        self.send(do, **question)
        return self.answer()

    def send(self, do: str, **question: Any) -> None:
        """Sends a request; the answer is read later."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **question}).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            assert select.select([self._process.stdout], [], [], LIMIT)[0], "no answer from the program"
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            assert data, f"the program has ended: {self._process.wait(LIMIT)}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: Json = json.loads(line)
        if "error" in answer:
            raise JavaScriptError(answer["error"])
        return answer["ok"]

    def __enter__(self) -> JavaScript:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
