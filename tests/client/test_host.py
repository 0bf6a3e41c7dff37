"""A host program waits for its peers."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack

import pytest

from runtimed_ffi import RuntimedError
from runtimed_ffi._binding.ffi import lib
from runtimed_ffi.daemon.limits import raise_descriptor_limit
from runtimed_ffi.host import ChannelKind, EventKind, Host
from runtimed_ffi.testing.peers import join


def _call(path):
    """A connection that sends a request on the pool channel."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    for body in (b'{"channel":"pool"}', b'{"type":"ping"}'):
        connection.sendall(len(body).to_bytes(4, "big") + body)
    return connection


@pytest.mark.parametrize("timeout", [None, 60, 1e9, float("inf")])
def test_a_wait_ends_with_an_event(tmp_path, timeout):
    with Host(tmp_path / "socket") as host, _call(tmp_path / "socket"):
        assert host.wait(timeout)
        assert [event.payload for event in host.drain()] == [b'{"type":"ping"}']


@pytest.mark.parametrize("timeout", [0, -1, -1e9, 0.001])
def test_a_wait_ends_with_its_time(tmp_path, timeout):
    with Host(tmp_path / "socket") as host:
        assert not host.wait(timeout)


def test_a_room_is_evicted_when_no_peer_is_in_it(tmp_path):
    with Host(tmp_path / "socket") as host:
        host.prepare_room("n")
        host.admit("n")
        with join(str(tmp_path / "socket"), "n"):
            assert not host.evict_room("n")
            assert [room["notebook_id"] for room in host.rooms()] == ["n"]
        while EventKind.PEER_LEFT not in {event.kind for event in host.drain()}:
            assert host.wait(60)
        assert host.evict_room("n")
        assert host.rooms() == []
        with pytest.raises(RuntimedError, match="no such room"):
            host.evict_room("n")


@pytest.mark.parametrize("watch", [True, False])
def test_changes_are_events_for_a_host_that_watches_them(tmp_path, watch):
    with Host(tmp_path / "socket", watch_changes=watch) as host:
        host.open_room("n")
        with join(str(tmp_path / "socket"), "n") as peer:
            peer.edit({"op": "insert_cell", "cell_id": "c", "cell_type": "code", "source": "1"})
            peer.post("get_kernel_info")
            peer.flush()
            kinds = set()
            while EventKind.REQUEST not in kinds:
                assert host.wait(60)
                kinds |= {event.kind for event in host.drain()}
    assert (EventKind.ROOM_CHANGED in kinds) == watch


def test_descriptors_may_have_large_numbers(tmp_path):
    """A process with a thousand open files waits for hosts and peers all the same."""
    most = raise_descriptor_limit()
    if most < 1200:
        pytest.skip(f"no descriptor can have a number beyond 1024 here: `ulimit -Hn` is {most}")
    with ExitStack() as stack:
        descriptor = os.open(os.devnull, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        while descriptor <= 1024:
            descriptor = os.dup(descriptor)
            stack.callback(os.close, descriptor)
        host = stack.enter_context(Host(tmp_path / "socket"))
        host.prepare_room("n")
        host.admit("n")
        assert host.fileno() > 1024
        peer = stack.enter_context(join(str(tmp_path / "socket"), "n"))
        assert peer.fileno() > 1024
        peer.post("get_kernel_info")
        peer.flush()
        while not (requests := [event for event in host.drain() if event.payload]):
            assert host.wait(60)
        host.respond(requests[0].token, {"result": "kernel_info"})


def test_kinds_are_named_as_in_the_header():
    for kind in EventKind:
        assert getattr(lib, "RTD_EV_" + kind.name) == kind
    for channel in ChannelKind:
        assert getattr(lib, "RTD_CHANNEL_" + channel.name) == channel
