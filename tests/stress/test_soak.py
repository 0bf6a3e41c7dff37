"""Rooms, peers, kernels and runs come and go; what the daemon holds afterwards is what it held before."""

from __future__ import annotations

import os
from typing import NamedTuple

import psutil
import pytest

from stress import raw, script
from stress.house import KERNEL, House, until

pytestmark = [pytest.mark.slow, pytest.mark.stress, pytest.mark.timeout(3600)]

WARM_UP = 4
ROOMS = 5
RUNS = 20

MEMORY_FIXED = 4 << 20
"""Bytes that the process may have grown by, whatever the number of rounds: an allocator gives back when it likes, and the
largest round decides. A room that stayed costs about 0.4 MiB with its documents and peers, so one per round shows after
some twenty rounds, and one per room (five a round) after three."""

MEMORY_ROUND = 150 << 10
"""Bytes per round beside it, for what is kept on purpose and grows slowly (interned names, tables that double)."""


class Held(NamedTuple):
    """What a process holds."""

    descriptors: int
    threads: int
    children: int
    memory: int


def held(house: House) -> Held:
    process = psutil.Process(house.pid)
    children = len(process.children(recursive=True))
    return Held(process.num_fds(), process.num_threads(), children, process.memory_info().rss)


def round_of_life(house: House, number: int) -> int:
    """Everything that comes and goes, once; returns the number of runs."""
    rooms = [f"soak/{number}/{place}" for place in range(ROOMS)]
    peers = [[raw.join(house.socket, room) for _ in range(3)] for room in rooms]
    everybody = [peer for trio in peers for peer in trio]
    done = 0
    try:
        for place, (first, second, third) in enumerate(peers):
            for index in range(RUNS):
                steps = [("lines", 40, "line "), ("show", "x" * 200, "d"), ("many", 20, "n"), ("update", "d", "y")]
                steps.append(("comm", "comm_open", f"c{index}"))
                steps.append([("fail", "E", "e"), ("result", "r"), ("out", "z" * 10_000)][index % 3])
                op = {"op": "insert_cell", "cell_id": f"c{index}", "cell_type": "code", "source": ""}
                first.edit(op)
                first.edit({"op": "set_source", "cell_id": f"c{index}", "source": script.write(*steps)})
                second.post("get_kernel_info")
            raw.settle([first, second, third])
            raw.ask(second, "launch_kernel", others=everybody, kernel_type=KERNEL, env_source="auto", notebook_path=None)
            posted = [(first, second)[place % 2].post("execute_cell", cell_id=f"c{index}") for index in range(RUNS)]
            third.close()
            assert posted
        for place, (first, second, _) in enumerate(peers):
            # A failing cell cancels what is behind it: then the rest is asked for again.
            while True:
                ended = {told["cell_id"] for told in first.of("execution_done") if told["status"] != "cancelled"}
                missing = [f"c{index}" for index in range(RUNS) if f"c{index}" not in ended]
                if not missing:
                    break
                seen = len(first.of("execution_done"))
                raw.pump(everybody, lambda f=first, s=seen: len(f.of("execution_done")) > s, what="the end of a run")
                if first.of("queue_changed")[-1]["queued"] == [] and first.of("queue_changed")[-1]["executing"] is None:
                    for cell in missing:
                        second.post("execute_cell", cell_id=cell)
            done += len(first.of("execution_done"))
            if place % 2:
                raw.ask(first, "shutdown_kernel", others=everybody)
    finally:
        for peer in everybody:
            peer.close()
    return done


def test_nothing_is_held_that_is_not_needed(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    rounds = request.config.getoption("--soak-rounds")
    house = House(tmp_path_factory.mktemp("s"), "--eviction-delay", "0.05")
    try:
        house.start()
        before, runs = held(house), 0
        for number in range(WARM_UP + rounds):
            if number == WARM_UP:
                before = held(house)
            runs += round_of_life(house, number)
            until(lambda: raw.pool(house.socket, {"type": "list_rooms"})["rooms"] == [], what="the rooms to be evicted")
            until(lambda: held(house).children == 0, what="the kernels to be gone")
            print(number, held(house))
        after = held(house)
        print(f"{runs} runs: {before} -> {after}")
        # The pool of worker threads of asyncio grows on demand, up to a size that depends on the machine.
        workers = min(32, (os.cpu_count() or 1) + 4)
        assert after.threads <= before.threads + workers
        assert after.descriptors <= before.descriptors + 2
        assert after.memory <= before.memory + MEMORY_FIXED + MEMORY_ROUND * rounds
        assert os.listdir(house.base / "kernels") == []
        house.stop()
    finally:
        house.close()
