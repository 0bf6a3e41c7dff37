"""Rooms, peers, kernels and runs come and go; afterwards the daemon holds what it held before."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

import psutil
import pytest

from runtimed_ffi.daemon.rooms.rooms import EMPTY_LIMIT
from runtimed_ffi.testing import peers as raw
from stress import script
from stress.daemon_process import KERNEL, DaemonProcess, until

pytestmark = [pytest.mark.slow, pytest.mark.stress, pytest.mark.timeout(3600)]

WARM_UP = 3
ROOMS = 5
RUNS = 10

ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""glibc: one heap, whose end is returned at once, and large pieces outside of it. Memory that the
allocator had not returned yet differed by up to 10 MiB between equal rounds (measured); with these settings by 0.2."""

MEMORY_FIXED = 8 << 20 if sys.implementation.name == "pypy" else 2 << 20
"""Bytes that the process may have grown by, whatever the number of rounds. PyPy's collector has a heap of its own."""

MEMORY_ROUND = 100 << 10
"""Bytes per round beside it: twenty kilobytes for each of its rooms, less than the document of one of them takes. A
room that stays therefore shows in a longer run; in a short one the descriptors and threads show it."""


class Held(NamedTuple):
    """What a process holds."""

    descriptors: int
    threads: int
    children: int
    memory: int


def held(daemon: DaemonProcess) -> Held:
    process = psutil.Process(daemon.pid)
    children = len(process.children(recursive=True))
    return Held(process.num_fds(), process.num_threads(), children, process.memory_info().rss)


def round_of_life(daemon: DaemonProcess, number: int) -> int:
    """Everything that comes and goes, once; returns the number of runs."""
    rooms = [f"soak/{number}/{place}" for place in range(ROOMS)]
    peers = [[raw.join(daemon.socket, room) for _ in range(3)] for room in rooms]
    all_peers = [peer for trio in peers for peer in trio]
    done = 0
    try:
        for place, (first, second, third) in enumerate(peers):
            for index in range(RUNS):
                steps = [("lines", 40, "line "), ("show", "x" * 200, "d"), ("many", 20, "n"), ("update", "d", "y")]
                steps.append(("comm", "comm_open", f"c{index}"))
                last = index == RUNS - 1
                steps.append(("fail", "E", "e") if last else [("result", "r"), ("out", "z" * 10_000)][index % 2])
                op = {"op": "insert_cell", "cell_id": f"c{index}", "cell_type": "code", "source": ""}
                first.edit(op)
                first.edit({"op": "set_source", "cell_id": f"c{index}", "source": script.write(*steps)})
                second.post("get_kernel_info")
            raw.settle([first, second, third])
            raw.ask(
                second, "launch_kernel", others=all_peers, kernel_type=KERNEL, env_source="auto", notebook_path=None
            )
            posted = [(first, second)[place % 2].post("execute_cell", cell_id=f"c{index}") for index in range(RUNS)]
            third.close()
            assert posted
        for place, (first, _, _) in enumerate(peers):
            raw.pump(all_peers, lambda f=first: len(f.of("execution_done")) == RUNS, what="the end of all runs")
            done += len(first.of("execution_done"))
            if place % 2:
                raw.ask(first, "shutdown_kernel", others=all_peers)
    finally:
        for peer in all_peers:
            peer.close()
    return done


def test_resources_are_released(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> None:
    rounds = request.config.getoption("--soak-rounds")
    daemon = DaemonProcess(tmp_path_factory.mktemp("s"), "--eviction-delay", "0.05")
    try:
        daemon.start(**ALLOCATOR)
        before, runs = held(daemon), 0
        for number in range(WARM_UP + rounds):
            if number == WARM_UP:
                before = held(daemon)
            runs += round_of_life(daemon, number)
            until(lambda: not rooms_of(daemon), what="the rooms to be evicted")
            until(lambda: held(daemon).children == 0, what="the kernels to be gone")
            print(number, held(daemon))
        after = held(daemon)
        print(f"{runs} runs: {before} -> {after}")
        # The pool of worker threads of asyncio grows on demand, up to a size that depends on the machine.
        workers = min(32, (os.cpu_count() or 1) + 4)
        assert after.threads <= before.threads + workers
        assert after.descriptors <= before.descriptors + 2
        assert after.memory <= before.memory + MEMORY_FIXED + MEMORY_ROUND * rounds
        assert os.listdir(daemon.base / "kernels") == []
        daemon.stop()
    finally:
        daemon.close()


def rooms_of(daemon: DaemonProcess) -> set[str]:
    """The rooms that the daemon has open."""
    return {room["notebook_id"] for room in raw.pool(daemon.socket, {"type": "list_rooms"})["rooms"]}


def test_a_room_is_evicted_when_its_peer_left_before_it_was_open(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    daemon = DaemonProcess(tmp_path_factory.mktemp("s"), "--eviction-delay", "0.05")
    try:
        daemon.start()
        with raw.join(daemon.socket, "first"):
            pass
        until(lambda: not rooms_of(daemon), what="the first room to be evicted")
        before = held(daemon)
        for number in range(100):
            with raw.Peer(daemon.socket, f"gone/{number}") as peer:
                peer.flush()
        with raw.join(daemon.socket, "behind them"):
            until(lambda: rooms_of(daemon) == {"behind them"}, what="the rooms to be evicted")
        until(lambda: held(daemon).descriptors <= before.descriptors + 2, what="their journals to be closed")
        daemon.stop()
    finally:
        daemon.close()


def test_the_newest_empty_rooms_stay_and_the_others_reopen_unchanged(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    daemon = DaemonProcess(tmp_path_factory.mktemp("s"))
    try:
        daemon.start()
        for number in range(EMPTY_LIMIT + 10):
            with raw.join(daemon.socket, f"r{number}") as peer:
                peer.edit({"op": "insert_cell", "cell_id": "c", "cell_type": "code", "source": str(number)})
                raw.settle([peer])
        kept = {f"r{number}" for number in range(10, EMPTY_LIMIT + 10)}
        until(lambda: rooms_of(daemon) == kept, what="the rooms that are too many to be closed")
        with raw.join(daemon.socket, "r3") as peer:
            assert [cell["source"] for cell in peer.document.cells()] == ["3"]
        daemon.stop()
    finally:
        daemon.close()
