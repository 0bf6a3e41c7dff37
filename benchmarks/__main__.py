"""``python -m benchmarks [--json] [--quick] [NAME ...]``."""

import argparse
import sys

from benchmarks import calls, cells, connect, edits, kernels, outputs, received, report, runs
from benchmarks.world import World

BENCHMARKS = {
    "connect": connect,
    "cells": cells,
    "edits": edits,
    "received": received,
    "kernels": kernels,
    "runs": runs,
    "outputs": outputs,
    "calls": calls,
}


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure: {', '.join(BENCHMARKS)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, times in seconds")
    parser.add_argument("--quick", action="store_true", help="two samples of everything: only to see that it runs")
    options = parser.parse_args()
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if not options.json:
        print(", ".join(f"{name}: {value}" for name, value in report.machine().items()))
        print(report.header(), flush=True)
    figures = []
    with World(options.quick) as world:
        for name in options.names or BENCHMARKS:
            for figure in BENCHMARKS[name].figures(world):
                figures.append(figure)
                if not options.json:
                    print(report.row(figure), flush=True)
    if options.json:
        print(report.as_json(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
