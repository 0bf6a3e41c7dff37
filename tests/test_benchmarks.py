"""The benchmarks run, with hardly any repetition, and print their rows. What they measure is checked nowhere."""

import json
import subprocess
import sys

import pytest
from ctools import ROOT

from benchmarks.__main__ import BENCHMARKS

ROWS = {
    "connect": ["connect"],
    "cells": ["create a cell", "create a cell, confirmed by the daemon"],
    "edits": ["edit seen by another client, 10 cells", "edit seen by another client, 1,000 cells"],
    "received": [
        "edit received after 100 changes",
        "edit received among 100 cells",
        "edit received after 1,000 changes",
        "edit received among 1,000 cells",
    ],
    "kernels": [
        "start a kernel",
        "kernel asked for to first result",
        "kernel asked for to first result, fork",
    ],
    "runs": ['run("1+1")', 'run("1+1"), quiet floor'],
    "outputs": ["100 displays in a cell", "1,000 displays in a cell", "1,000 displays, quiet floor"],
    "calls": ["call through the binding", "1 MiB through the binding and back"],
}


def benchmarks(*arguments):
    command = [sys.executable, "-m", "benchmarks", "--quick", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Kernels on PyPy need seconds for what they need tenths of a second for elsewhere.
@pytest.mark.timeout(300)
@pytest.mark.kernel
@pytest.mark.slow
def test_all_benchmarks_run_and_print_json():
    figures = json.loads(benchmarks("--json"))["figures"]
    assert list(ROWS) == list(BENCHMARKS)
    assert [figure["name"] for figure in figures] == [name for rows in ROWS.values() for name in rows]
    assert all(figure["ours"] > 0 and figure["floor"] > 0 and figure["ratio"] > 0 for figure in figures)


def test_rows_have_a_head_and_goals():
    machine, head, row, *more = benchmarks("connect").splitlines()
    assert "cores" in machine and head.split()[:3] == ["figure", "ours", "floor"] and not more
    assert row.startswith("connect ") and "< 5 ms" in row


def test_unknown_names_are_refused():
    command = [sys.executable, "-m", "benchmarks", "dancing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "unknown: dancing" in done.stderr
