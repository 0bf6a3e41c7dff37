"""Any edits of several sessions, in any order, with connections that come and go: all of them end up with one
document, and with the expected one when the edits come one after the other."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import runtimed_ffi

TEXT = st.text(st.sampled_from("ab\n ä🐍é"), max_size=8)
INDEX = st.integers(0, 2)
PLACE = st.integers(0, 6)
EXAMPLES = 50 if os.environ.get("CI") else 20


class Rooms(RuleBasedStateMachine):
    """Three sessions in one room. While `serial`, a barrier follows each edit and a plain list is the model."""

    path = ""
    numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        room = f"machine-{next(self.numbers)}"
        self.sessions = [runtimed_ffi.Session(room, socket_path=self.path, autostart=False) for _ in range(3)]
        for session in self.sessions:
            session.connect()
        self.serial = True
        self.model: list[list[Any]] = []

    @initialize(serial=st.booleans())
    def mode(self, serial: bool) -> None:
        self.serial = serial

    def _edited(self, index: int) -> None:
        if self.serial:
            self._barrier(index)
            for session in self.sessions:
                assert [[c.id, c.cell_type, c.source] for c in session.get_cells()] == self.model

    def _barrier(self, index: int) -> None:
        self.sessions[index].sync()
        for session in self.sessions:
            session.sync()

    def _cell(self, index: int, place: int) -> str:
        cells = self.sessions[index].get_cells()
        return cells[place % len(cells)].id

    def _has_cells(self) -> bool:
        # Without it the cells depend on timing, which Hypothesis must not see.
        return bool(self.model) or not self.serial

    def _model(self, cell: str) -> list[Any]:
        return next(entry for entry in self.model if entry[0] == cell)

    @rule(index=INDEX, text=TEXT, place=st.none() | PLACE, kind=st.sampled_from(["code", "markdown"]))
    def create(self, index: int, text: str, place: Any, kind: str) -> None:
        cell = self.sessions[index].create_cell(text, kind, place)
        if self.serial:
            self.model.insert(len(self.model) if place is None else place, [cell, kind, text])
        self._edited(index)

    @precondition(_has_cells)
    @rule(index=INDEX, place=PLACE, text=TEXT)
    def set_source(self, index: int, place: int, text: str) -> None:
        self._try(index, place, "set_source", text)
        if self.serial:
            self.model[place % len(self.model)][2] = text
        self._edited(index)

    @precondition(_has_cells)
    @rule(index=INDEX, place=PLACE, begin=PLACE, count=st.integers(0, 3), text=TEXT)
    def splice(self, index: int, place: int, begin: int, count: int, text: str) -> None:
        if not self.serial:
            self._try(index, place, "splice_source", begin, count, text)
            return
        cell = self._cell(index, place)
        old = self._model(cell)[2]
        begin = min(begin, len(old))
        count = min(count, len(old) - begin)
        self.sessions[index].splice_source(cell, begin, count, text)
        self._model(cell)[2] = old[:begin] + text + old[begin + count :]
        self._edited(index)

    @precondition(_has_cells)
    @rule(index=INDEX, place=PLACE, to=PLACE)
    def move(self, index: int, place: int, to: int) -> None:
        self._try(index, place, "move_cell", to)
        if self.serial:
            entry = self.model.pop(place % len(self.model))
            self.model.insert(to, entry)
        self._edited(index)

    @precondition(_has_cells)
    @rule(index=INDEX, place=PLACE)
    def delete(self, index: int, place: int) -> None:
        self._try(index, place, "delete_cell")
        if self.serial:
            del self.model[place % len(self.model)]
        self._edited(index)

    @precondition(_has_cells)
    @rule(index=INDEX, place=PLACE)
    def clear(self, index: int, place: int) -> None:
        self._try(index, place, "clear_outputs")
        self._edited(index)

    def _try(self, index: int, place: int, method: str, *arguments: Any) -> None:
        session = self.sessions[index]
        try:
            if session.get_cells():
                getattr(session, method)(self._cell(index, place), *arguments)
        except (runtimed_ffi.CellNotFoundError, runtimed_ffi.ArgumentError, ZeroDivisionError):
            # Another session may just have deleted or shortened it.
            assert not self.serial

    @rule(index=INDEX)
    def reconnect(self, index: int) -> None:
        self.sessions[index].sync()
        self.sessions[index].disconnect()
        self.sessions[index].connect()
        self._edited(index)

    @rule()
    def meet(self) -> None:
        self._converge()

    def _converge(self) -> None:
        # The first round brings everything to the daemon, the second to all sessions.
        for _ in range(2):
            for session in self.sessions:
                session.sync()
        first, *others = [session.get_cells() for session in self.sessions]
        for other in others:
            assert other == first

    def teardown(self) -> None:
        try:
            self._converge()
        finally:
            for session in self.sessions:
                session.disconnect()


@pytest.fixture
def _path(shared_daemon: runtimed_ffi.Daemon) -> Iterator[None]:
    Rooms.path = shared_daemon.socket_path
    yield
    Rooms.path = ""


@pytest.mark.stress
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("_path")
def test_all_sessions_end_up_with_one_document() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Rooms,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
