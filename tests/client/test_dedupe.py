"""Subscribers get each change once, however many executions of its cell there are or are joined."""

from __future__ import annotations

import pytest
from fakes import in_thread

from runtimed_ffi._binding.events import Event, EventKind
from runtimed_ffi._client.dedupe import OutputDeduplicator


class Shown:
    """Passes events to the deduplicator; collects the texts of those it lets through."""

    def __init__(self):
        self.news = OutputDeduplicator(lambda event: event.kind in (EventKind.OUTPUT, EventKind.CHANGED))
        self.texts = []
        self.seq = 0

    def show(self, kind, token, text="", number=-1, cell="c"):
        self.seq += 1
        event = Event(kind, seq=self.seq, token=token, id=cell, text=text, number=number)
        first = self.news(event)
        assert self.news(event) == first, "an event may be passed again after an interrupt"
        if first:
            self.texts.append(text)

    def output(self, text, *tokens, cell="c"):
        for token in tokens:
            self.show(EventKind.OUTPUT, token, text, 0, cell)


def test_each_change_passes_once():
    shown = Shown()
    shown.output("of others", 0)
    shown.output("a", 1, 2)
    shown.output("b", 3, cell="d")
    shown.output("c", 2, 1)
    shown.show(EventKind.DONE, 1)
    shown.output("d", 2, 4)
    shown.show(EventKind.DONE, 2)
    shown.show(EventKind.DONE, 4)
    shown.output("e", 5)
    shown.show(EventKind.DONE, 5)
    shown.output("of others again", 0)
    assert shown.texts == ["of others", "a", "b", "c", "d", "e", "of others again"]


def test_outputs_from_before_do_not_pass():
    shown = Shown()
    shown.output("a", 0)
    shown.show(EventKind.CLEARED, 1, number=2)
    shown.output("a", 1)
    shown.output("b", 1)
    shown.output("c", 1)
    shown.show(EventKind.CLEARED, 1)
    shown.output("d", 1)
    # Another joins while the first reports; when the first ends, the other goes on.
    shown.show(EventKind.CLEARED, 2, number=1)
    shown.output("d", 2)
    shown.output("e", 1, 2)
    shown.show(EventKind.DONE, 1)
    shown.output("f", 2)
    assert shown.texts == ["a", "c", "d", "e", "f"]


def test_executions_joined_at_the_same_time_count_separately():
    shown = Shown()
    shown.show(EventKind.CLEARED, 1, number=1)
    shown.show(EventKind.CLEARED, 2, number=2, cell="d")
    shown.output("a", 1)
    shown.output("b", 2, 2, cell="d")
    shown.output("c", 1)
    shown.output("d", 2, cell="d")
    assert shown.texts == ["c", "d"]


@pytest.mark.parametrize("end", [EventKind.DONE, EventKind.RESYNC])
def test_an_expected_output_that_does_not_come_is_not_waited_for(end):
    shown = Shown()
    shown.show(EventKind.CLEARED, 1, number=5)
    shown.output("a", 1)
    shown.show(end, 1)
    shown.output("b", 1)
    assert shown.texts == ["b"]


def test_outputs_without_a_subscriber_do_not_pass():
    shown = Shown()
    shown.show(EventKind.STARTED, 1, "started")
    shown.show(EventKind.CHANGED, 0, "changed")
    assert shown.texts == ["changed"]


@pytest.mark.kernel
def test_sessions_that_join_an_execution_get_its_outputs_once(daemon, tmp_path):
    gate = str(tmp_path / "gate")
    mine, other = daemon.session("joins"), daemon.session("joins")
    got = {mine: [], other: []}
    for session in (mine, other):
        session.start_kernel()
        session.on_output(lambda event, session=session: got[session].append(event.output.text))
    runs = []
    cell = mine.create_cell(
        f"print(1, flush=True); import os; os.mkfifo({gate!r}); print(2, flush=True); open({gate!r}).read(); print(3)"
    )
    mine.sync()
    other.sync()
    runs.append(mine.submit_cell(cell))
    seen = ""
    for output in runs[0]:
        seen += output.text
        if seen == "1\n2\n":
            break
    other.sync()
    runs += [mine.submit_cell(cell), other.submit_cell(cell)]
    for run in runs[1:]:
        seen = ""
        for output in run:
            seen += output.text
            if seen == "1\n2\n":
                break
    with open(gate, "w") as file:
        file.write("go on")
    joins = [in_thread(run.result) for run in runs]
    assert [join().stdout for join in joins] == ["1\n2\n3\n"] * 3
    for session in (mine, other):
        session.sync()
        assert "".join(got[session]) == "1\n2\n3\n"
        session.disconnect()
