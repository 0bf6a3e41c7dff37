"""Options of the tests that can be run longer; see docs/testing.md."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("runtimed_ffi: longer runs")
    group.addoption("--crash-runs", type=int, default=60, metavar="N", help="crash test: kill the daemon N times")
    group.addoption("--crash-seed", type=int, default=1, metavar="SEED", help="crash test: where and when")
    group.addoption("--soak-rounds", type=int, default=4, metavar="N", help="soak: rounds that are compared")
    group.addoption(
        "--real-kernels",
        type=int,
        default=0,
        metavar="N",
        help="scale: so many kernels of ipykernel beside scripted ones",
    )
