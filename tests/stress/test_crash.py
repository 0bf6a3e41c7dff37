"""The daemon is killed by SIGKILL at random points, again and again, on one directory: nothing confirmed is lost.

Points: at the n-th call of the process that changes a file or sends to a peer, counted by a preloaded library, with n
uniform over all calls of such a life, with the last write cut at any place; after the n-th frame that a peer got; and
in the middle of a burst. The next start checks the result of a crash, and is itself killed now and then.

`pytest tests/stress/test_crash.py --crash-runs 500 --crash-seed 7` runs longer, with another seed.
"""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from ctools import cc

from stress.crash import Gone, Room, burst
from stress.daemon_process import DaemonProcess, until

pytestmark = [pytest.mark.slow, pytest.mark.stress, pytest.mark.timeout(7200)]

ROOMS = 4
HERE = Path(__file__).resolve().parent


class Crashes:
    """Lives of one daemon, each with its end."""

    def __init__(self, daemon: DaemonProcess, library: Path, seed: int) -> None:
        self.daemon = daemon
        self.library = library
        self.chance = random.Random(seed)
        self.calls = 600
        """How many calls a whole life makes; measured in lives that reached their end."""
        self.rooms = [Room(daemon, f"room-{number}") for number in range(ROOMS)]
        self.ends: dict[str, int] = {}

    def environment(self, way: str) -> dict[str, str]:
        if way != "call":
            return {}
        self.at = int(self.chance.random() * self.calls)
        part = str(self.chance.randrange(9))
        return {"LD_PRELOAD": str(self.library), "RTD_CRASH_AT": str(self.at), "RTD_CRASH_PART": part}

    def live(self) -> None:
        """One life: start, check that everything is there, work, die."""
        way = self.chance.choice(["call", "call", "frame", "burst"])
        self.daemon.start(**self.environment(way))
        present = self.chance.sample(self.rooms, self.chance.choice([1, 2, 2, 3]))
        try:
            if not self.daemon.ready:
                raise Gone
            self.no_kernels()
            for room in present:
                room.enter()
            self.work(present, way)
            end = way if way != "call" else "whole life"
            if way == "call":
                self.calls = max(200, int(self.calls * 0.9))
            self.daemon.kill()
        except (Gone, ConnectionError, FileNotFoundError):
            # It has died by itself, as planned; else this fails.
            assert way == "call", self.daemon.tail()
            self.daemon.await_end()
            self.calls = max(self.calls, int(self.at * 1.1))
            end = way if self.daemon.ready else "start"
        finally:
            for room in present:
                room.leave()
        self.ends[end] = self.ends.get(end, 0) + 1

    def work(self, rooms: list[Room], way: str) -> None:
        chance = self.chance
        for room in rooms:
            if chance.random() < 0.7:
                room.launch()
        acts = chance.randrange(5, 30)
        if way == "burst":
            burst(rooms, chance, acts)
            return
        frames = chance.randrange(120) if way == "frame" else None
        for _ in range(acts):
            for room in rooms:
                room.act(chance)
                room.step()
                if chance.random() < 0.1:
                    room.rest()
                if frames is not None and sum(one.peer.frames for one in rooms if one.peer) > frames:
                    return
            if chance.random() < 0.3:
                rooms[0].await_promise()

    def no_kernels(self) -> None:
        until(lambda: not self.daemon.kernels(), what="the kernels of the crashed daemon to be gone")

    def check_files(self) -> None:
        """The daemon found nothing damaged, and no partial file stays."""
        names = [path.name for path in (self.daemon.base / "notebook-docs").iterdir()]
        assert all(name.endswith(".automerge") for name in names), names
        parts = [path for path in (self.daemon.base / "blobs").rglob("*") if ".tmp" in path.name]
        assert not parts, parts
        log = self.daemon.log.read_text(errors="replace")
        assert "cannot be read" not in log and " ERROR " not in log and "Traceback" not in log, self.daemon.tail()


def test_nothing_that_was_confirmed_is_lost(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    runs, seed = request.config.getoption("--crash-runs"), request.config.getoption("--crash-seed")
    directory = tmp_path_factory.mktemp("c")
    library = directory / "crash_at.so"
    subprocess.run([*cc(), "-shared", "-fPIC", "-O1", "-o", library, HERE / "crash_at.c", "-ldl"], check=True)
    daemon = DaemonProcess(directory)
    crashes = Crashes(daemon, library, seed)
    try:
        for number in range(runs):
            try:
                crashes.live()
            except BaseException:
                print(f"life {number} of --crash-seed {seed}; ends so far: {crashes.ends}")
                raise
        daemon.start()
        assert daemon.ready, daemon.tail()
        crashes.no_kernels()
        for room in crashes.rooms:
            room.enter()
            room.leave()
        daemon.stop()
        crashes.check_files()
        print(f"ends: {crashes.ends}")
    finally:
        for room in crashes.rooms:
            room.leave()
        daemon.close()
