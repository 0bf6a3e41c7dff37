"""Which events are news for subscribers, who follow the notebook and not one execution.

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
    again: Mapping[int, int]
    """By token: so many outputs follow that were there before the execution was joined."""
    speaking: Mapping[str, int]
    """By cell: whose outputs are told. With several executions of a cell each change comes once for every one."""


class News:
    """Tells news from what subscribers have heard, or were not there to hear.

    Args:
        wants: whether somebody has subscribed to events of this kind.

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
        again, speaking, verdict = state.again, state.speaking, self._wants(event)
        if event.kind == EventKind.RESYNC:
            again = {}  # What was to follow may have been dropped.
        elif event.kind == EventKind.CLEARED and event.number > 0:
            again = {**again, event.token: event.number}
        elif event.kind == EventKind.DONE:
            again = {token: count for token, count in again.items() if token != event.token}
            speaking = {cell: token for cell, token in speaking.items() if token != event.token}
        elif event.kind == EventKind.OUTPUT and event.token in again:
            left = again[event.token] - 1
            again = {**again, event.token: left} if left else {t: n for t, n in again.items() if t != event.token}
            verdict = False
        elif event.kind == EventKind.OUTPUT and event.token:
            if event.id not in speaking:
                speaking = {**speaking, event.id: event.token}
            verdict = verdict and speaking[event.id] == event.token
        return _State(event.seq, verdict, again, speaking)
