"""What the integration tests share: waiting for a condition by events, and scripts in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from typing import Any, Callable

import runtimed_ffi

LIMIT = 30.0
"""Seconds until a wait for something that must come is a failure."""


class Recorder:
    """Records all events of a session, on the session's pump; the session itself does nothing."""

    def __init__(self, session: runtimed_ffi.Session) -> None:
        self.changes: list[runtimed_ffi.Change] = []
        self.outputs: list[runtimed_ffi.OutputEvent] = []
        self.broadcasts: list[Any] = []
        self._session = session
        self._condition = threading.Condition()
        self._subscriptions = [
            session.on_change(lambda change: self._note(self.changes, change)),
            session.on_output(lambda output: self._note(self.outputs, output)),
            session.on_broadcast(lambda message: self._note(self.broadcasts, message)),
        ]
        session.start_pump()

    def _note(self, where: list[Any], what: Any) -> None:
        with self._condition:
            where.append(what)
            self._condition.notify_all()

    def until(self, condition: Callable[[], Any], seconds: float = LIMIT) -> None:
        """Wait for events until the condition holds."""
        with self._condition:
            assert self._condition.wait_for(condition, seconds), "the expected event did not come"

    def texts(self) -> str:
        return "".join(event.output.text or "" for event in self.outputs)

    def close(self) -> None:
        for subscription in self._subscriptions:
            subscription.remove()
        self._session.stop_pump()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Thread(threading.Thread):
    """A thread with a result: `get()` joins it and returns, or raises, what the function did."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        super().__init__(daemon=True)
        self._function, self._arguments = function, arguments
        self._value: Any = None
        self._error: BaseException | None = None
        self.ended_at = 0.0
        self.start()

    def run(self) -> None:
        try:
            self._value = self._function(*self._arguments)
        except BaseException as error:
            self._error = error
        self.ended_at = time.monotonic()

    def get(self, seconds: float = LIMIT) -> Any:
        self.join(seconds)
        assert not self.is_alive(), "the thread still waits"
        if self._error is not None:
            raise self._error
        return self._value


def first_output(execution: runtimed_ffi.Execution) -> runtimed_ffi.Output:
    """Wait until a submitted cell has printed something."""
    return next(iter(execution))


def python(script: str, *arguments: str, **options: Any) -> subprocess.Popen:  # type: ignore[type-arg]
    """Start a script in this interpreter, its output and its errors as pipes of text."""
    return launch(sys.executable, "-c", textwrap.dedent(script), *arguments, **options)


def launch(*command: str, **options: Any) -> subprocess.Popen:  # type: ignore[type-arg]
    """Start a program, its output and its errors as pipes of text."""
    return subprocess.Popen(
        command,
        stdin=options.pop("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        **options,
    )


def finish(process: subprocess.Popen, seconds: float = LIMIT) -> str:  # type: ignore[type-arg]
    """Wait for a script that must succeed with nothing on stderr; return what it printed."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the script did not end\nstdout: {out}\nstderr: {err}") from None
    assert (process.returncode, err) == (0, ""), f"exit status {process.returncode}\nstdout: {out}\nstderr: {err}"
    return str(out)
