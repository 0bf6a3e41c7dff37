"""A whole daemon, driven by several raw peers against a plain model; kernels are scripted.

Rules only send; the effects happen while later rules send more. `calm` (also at the end of every example) waits until
nothing is pending, by barriers and never by time, and compares the room with the model:

* every peer has the same document; its cells and texts are those of the edits, the journal on disk has all of it;
* each execution has at most one start and exactly one end, with an end that what happened allows;
* its outputs are what the kernel noted before sending, none lost, doubled or out of order; execution counts increase;
* the document shows what the broadcasts say; each peer that reads got the room's broadcasts in one piece;
* every request has one response; a peer that sends garbage loses its own connection, and no other peer loses anything;
* the daemon lives, has logged no error, and serves other rooms.
"""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test

from runtimed_ffi.testing.profiles import profile
from stress.daemon_process import DaemonProcess
from stress.rules import DaemonMachine

pytestmark = [pytest.mark.slow, pytest.mark.stress, pytest.mark.timeout(1800)]


def test_the_daemon_against_the_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    daemon = DaemonProcess(tmp_path_factory.mktemp("m"))

    class Machine(DaemonMachine):
        def __init__(self) -> None:
            if daemon.process is None or daemon.process.poll() is not None:
                daemon.close()
                daemon.start()
            super().__init__()

    Machine.daemon = daemon
    try:
        run_state_machine_as_test(Machine, settings=profile())
        daemon.stop()
        print(Machine.tally)
        assert set(Machine.tally) >= {"ok", "error", "interrupted", "cancelled", "kernel_died"}, Machine.tally
    finally:
        daemon.close()
