"""Descriptors and peers."""

from __future__ import annotations

import logging
import os
import resource

import pytest

from runtimed_ffi.daemon import limits
from runtimed_ffi.daemon.limits import Limits


@pytest.fixture(autouse=True)
def kept():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_is_raised_and_half_of_it_is_for_peers() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    found = Limits(10**9)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == found.descriptors > 256
    assert found.peers == found.descriptors // 2
    assert Limits(3).peers == 3


def test_a_refused_limit_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (100, 1000))
    monkeypatch.setattr(limits.resource, "setrlimit", refuse)
    assert limits.raise_descriptor_limit() == 100
    assert "cannot be raised to 1000: not allowed" in caplog.text


def test_a_warning_once_each_time_they_run_short(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    found = Limits(1)
    found.descriptors = 200
    taken = []
    found.look()
    assert caplog.records == []
    for _ in range(2):
        while not taken or taken[-1] < 170:
            taken.append(os.open(os.devnull, os.O_RDONLY))
        found.look()
        found.look()
        while taken:
            os.close(taken.pop())
        found.look()
    assert [record.getMessage().partition(" of ")[2][:3] for record in caplog.records] == ["200", "200"]
