"""An edit that arrives in a large notebook: what it costs its reader, beside the same edit in a small one.

In this process and without connections: the CPU time of the thread that takes the sync message and makes the answer,
which every peer of a room does for every edit of another one. The ratio is the growth; at 1.0 an edit costs what it is
worth.
"""

import time

from benchmarks.figure import Figure, interleaved
from runtimed_ffi.testing.replicas import Replica, SyncState

_SIZES = (100, 1_000, 10_000, 100_000)
_MOST_CELLS = 10_000
"""Making more of them takes minutes: each new id is looked for among those that are there."""


class _Pair:
    """A writer and a reader of a notebook with so many changes of one cell, or so many cells."""

    def __init__(self, cells: int, changes: int) -> None:
        self.writer, self.reader = Replica("n"), Replica()
        self.to_reader, self.to_writer = SyncState(), SyncState()
        self.cell, self.count = f"c{cells // 2}", 0
        insert = {"op": "insert_cell", "cell_type": "code", "source": "x = 0"}
        self.writer.edit(*({**insert, "cell_id": f"c{number}"} for number in range(cells)))
        for _ in range(changes):
            self.edit()
        self.settle()
        self.edit()
        self.settle()

    def edit(self) -> None:
        self.count += 1
        self.writer.edit({"op": "set_source", "cell_id": self.cell, "source": f"x = {self.count}"})

    def settle(self) -> None:
        while True:
            there = self.to_reader.generate(self.writer)
            back = self.to_writer.generate(self.reader)
            if there is None and back is None:
                return
            if there is not None:
                self.to_writer.receive(self.reader, there)
            if back is not None:
                self.to_reader.receive(self.writer, back)

    def time(self) -> float:
        """CPU seconds of the reader for one edit."""
        self.edit()
        message = self.to_reader.generate(self.writer)
        begin = time.thread_time()
        self.to_writer.receive(self.reader, message)
        answer = self.to_writer.generate(self.reader)
        took = time.thread_time() - begin
        if answer is not None:
            self.to_reader.receive(self.writer, answer)
        self.settle()
        return took


def figures(world):
    """One edit of a cell, received, after more and more changes of it and among more and more cells."""
    samples = world.samples(100)
    small = _Pair(cells=10, changes=10)
    for size in _SIZES[: 2 if world.quick else None]:
        rooms = [(f"after {size:,} changes", 1, size)]
        if size <= _MOST_CELLS:
            rooms.append((f"among {size:,} cells", size, 0))
        for name, cells, changes in rooms:
            medians = interleaved(samples, small.time, _Pair(cells, changes).time)
            yield Figure(f"edit received {name}", *medians, "10 changes, 10 cells", samples, "ratio < 2", "CPU time")
