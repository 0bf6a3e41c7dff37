"""One measured figure with its floor."""

import statistics
import time
from typing import Callable, NamedTuple


class Figure(NamedTuple):
    """Medians in seconds."""

    name: str
    ours: float
    floor: float
    floor_name: str
    samples: int
    goal: str = ""
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times the floor it takes."""
        return self.ours / self.floor if self.floor else float("inf")


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def interleaved(
    samples: int, floor: Callable[[], float], ours: Callable[[], float], warm_up: int = 2
) -> "tuple[float, float]":
    """Medians (ours, floor) of functions that return seconds, called in turn after some calls that do not count."""
    for _ in range(min(warm_up, samples)):
        floor()
        ours()
    floors, ourselves = [], []
    for _ in range(samples):
        floors.append(floor())
        ourselves.append(ours())
    return statistics.median(ourselves), statistics.median(floors)
