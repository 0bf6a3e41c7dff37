"""Figures for people, as rows of a table, and for programs, as JSON."""

import datetime
import json
import os
import platform
from collections.abc import Sequence

from benchmarks.figure import Figure

_ROW = "{:44} {:>10} {:>10} {:>7} {:>6}  {:16} {}"


def seconds(value: float) -> str:
    """A time with three digits and its unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}" if value * factor < 1000 else f"{value * factor:.0f} {unit}"
    return f"{value * 1e9:.3g} ns"


def header() -> str:
    """The head of the table."""
    return _ROW.format("figure", "ours", "floor", "ratio", "n", "goal", "floor is; remarks").rstrip()


def row(figure: Figure) -> str:
    """One line of the table."""
    remarks = figure.floor_name + (f"; {figure.note}" if figure.note else "")
    ratio = f"{figure.ratio:.2f}"
    return _ROW.format(
        figure.name, seconds(figure.ours), seconds(figure.floor), ratio, figure.samples, figure.goal or "-", remarks
    ).rstrip()


def machine() -> "dict[str, object]":
    """Where and when."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores,
        "date": datetime.date.today().isoformat(),
    }


def as_json(figures: Sequence[Figure]) -> str:
    """All figures, times in seconds, with the machine they are of."""
    rows = [{**figure._asdict(), "ratio": figure.ratio} for figure in figures]
    return json.dumps({"machine": machine(), "figures": rows}, indent=2)
