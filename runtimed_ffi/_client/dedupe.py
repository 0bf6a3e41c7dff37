"""Leaves out replayed and duplicate outputs for subscribers, which follow the notebook and not one execution.

Storey 6 (client). Imports only `_binding.events`. Source: the comments on `RTD_EV_OUTPUT` and `RTD_EV_CLEARED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable, NamedTuple

from runtimed_ffi._binding.events import Event, EventKind


class _State(NamedTuple):
    seq: int
    """The last event that was looked at."""
    verdict: bool
    """Whether it was news."""
    replayed: Mapping[int, int]
    """By token: the number of outputs to come that were there before the execution was joined."""
    reporter: Mapping[str, int]
    """By cell: the token whose outputs count. With several executions of a cell each output comes once for each."""


class OutputDeduplicator:
    """Decides which events are news: not outputs that are replayed, and each output once.

    Args:
        wants: whether events of this kind have subscribers.

    Threads: the caller locks. A `KeyboardInterrupt` may strike at any line: the same event may be shown again.
    """

    def __init__(self, wants: Callable[[Event], bool]) -> None:
        self._wants = wants
        self._state = _State(0, False, {}, {})

    def __call__(self, event: Event) -> bool:
        """Whether an event is news. To be shown every event, in order."""
        state = self._state
        if event.seq > state.seq:
            state = self._state = self._after(state, event)
        return state.verdict

    def _after(self, state: _State, event: Event) -> _State:
        replayed, reporter, verdict = state.replayed, state.reporter, self._wants(event)
        if event.kind == EventKind.RESYNC:
            replayed = {}  # What was to follow may have been dropped.
        elif event.kind == EventKind.CLEARED and event.number > 0:
            replayed = {**replayed, event.token: event.number}
        elif event.kind == EventKind.DONE:
            replayed = {token: count for token, count in replayed.items() if token != event.token}
            reporter = {cell: token for cell, token in reporter.items() if token != event.token}
        elif event.kind == EventKind.OUTPUT and event.token in replayed:
            left = replayed[event.token] - 1
            replayed = (
                {**replayed, event.token: left} if left else {t: n for t, n in replayed.items() if t != event.token}
            )
            verdict = False
        elif event.kind == EventKind.OUTPUT and event.token:
            if event.id not in reporter:
                reporter = {**reporter, event.id: event.token}
            verdict = verdict and reporter[event.id] == event.token
        return _State(event.seq, verdict, replayed, reporter)
