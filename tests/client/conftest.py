"""Fixtures: a real daemon with real kernels, and sessions on a stand-in for the connection."""

from __future__ import annotations

import uuid

import pytest
from fakes import FakeNative

import runtimed_ffi


@pytest.fixture(scope="module")
def daemon():
    """A private daemon for the tests of one file."""
    with runtimed_ffi.Daemon() as daemon:
        yield daemon


@pytest.fixture
def open_session(daemon):
    """Makes sessions, each in a room of its own unless a name is given; they and their kernels end with the test."""
    opened = []

    def open_session(notebook_id=None, *, kernel=False):
        session = daemon.session(notebook_id or f"test-{uuid.uuid4()}")
        opened.append(session)
        session.connect()
        if kernel:
            session.start_kernel()
        return session

    yield open_session
    for session in opened:
        if session.is_connected and session.kernel_started:
            session.shutdown_kernel()
        session.disconnect()


@pytest.fixture
def session(open_session):
    """A connected session without a kernel."""
    return open_session()


@pytest.fixture(scope="module")
def kernel_session(daemon):
    """A session with a kernel, shared by the tests of one file."""
    session = daemon.session("shared-by-the-file")
    session.start_kernel()
    yield session
    session.close()
    session.disconnect()


@pytest.fixture
def fake_session(monkeypatch):
    """A session whose connection is a stand-in; `session.fake` is the current one."""
    made = []

    class Session(runtimed_ffi.Session):
        @property
        def fake(self):
            return made[-1]

    def make(*positional, **named):
        made.append(FakeNative(*positional, **named))
        return made[-1]

    monkeypatch.setattr("runtimed_ffi._client.connection.NativeSession", make)
    session = Session("room", socket_path="nowhere", autostart=False)
    yield session
    session.disconnect()


@pytest.fixture
def ready(fake_session):
    fake_session.start_kernel()
    return fake_session
