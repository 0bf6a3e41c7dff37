"""A hundred rooms and fifty kernels at once: every peer is answered, whatever the others do."""

from __future__ import annotations

import pytest

from runtimed_ffi.testing import peers as raw
from stress import model, script
from stress.daemon_process import KERNEL, DaemonProcess, until

pytestmark = [pytest.mark.slow, pytest.mark.stress, pytest.mark.timeout(1200)]

ROOMS = 100
KERNELS = 50
SECONDS = 300.0


def pump(peers: list[raw.Peer], numbers: dict[raw.Peer, int], what: str) -> None:
    raw.pump(peers, lambda: all(numbers[peer] in peer.responses for peer in numbers), SECONDS, what)


def test_every_peer_is_answered(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> None:
    real = request.config.getoption("--real-kernels")
    daemon = DaemonProcess(tmp_path_factory.mktemp("n"))
    peers: list[raw.Peer] = []
    try:
        daemon.start()
        peers = [raw.join(daemon.socket, f"scale/{number}") for number in range(ROOMS)]
        with_kernel = peers[:KERNELS]
        kinds = {peer: "python" if number < real else KERNEL for number, peer in enumerate(with_kernel)}
        launches = {
            peer: peer.post("launch_kernel", kernel_type=kind, env_source="auto", notebook_path=None)
            for peer, kind in kinds.items()
        }
        pump(peers, launches, "the kernels")
        # A launch that takes longer than 25 seconds is answered with an error and goes on.
        for peer, number in launches.items():
            result = peer.responses[number]
            assert result["result"] == "kernel_launched" or "the launch continues" in result["error"], result
        for number, peer in enumerate(with_kernel):
            source = script.write(("out", f"hello {number}"), ("many", 20, "n"), ("show", "last"))
            if kinds[peer] == "python":
                source = f"print('hello {number}')\nfor n in range(20): display(f'n{{n}}')\ndisplay('last')"
            peer.edit({"op": "insert_cell", "cell_id": "c", "cell_type": "code", "source": ""})
            peer.edit({"op": "set_source", "cell_id": "c", "source": source})
        raw.settle(with_kernel)
        for peer in with_kernel:
            peer.post("execute_cell", cell_id="c")
        raw.pump(peers, lambda: all(peer.of("execution_done") for peer in with_kernel), SECONDS, "the runs")
        raw.settle(peers)
        blobs = model.Blobs(daemon.base / "blobs")
        for number, peer in enumerate(with_kernel):
            (done,) = peer.of("execution_done")
            assert done["status"] == "ok", done
            outputs = [model.item(blobs.output(element)) for element in peer.document.outputs("c")]
            assert outputs[0] == ("stream", "stdout", f"hello {number}" + ("\n" if kinds[peer] == "python" else ""))
            assert len(outputs) == 22

        # All kernels are at work and will not end by themselves, and no peer waits for them.
        for peer in with_kernel:
            forever = (
                "import time\nwhile True: time.sleep(0.01)" if kinds[peer] == "python" else script.write(("block",))
            )
            peer.edit({"op": "set_source", "cell_id": "c", "source": forever})
        # A sync message may leave a change out until the daemon requests it, and a request waits a quarter of a second
        # for it at most (docs/protocol.md); on a busy machine that is short.
        raw.settle(with_kernel)
        for peer in with_kernel:
            peer.post("execute_cell", cell_id="c")
        raw.pump(peers, lambda: all(len(peer.of("execution_started")) == 2 for peer in with_kernel), SECONDS, "starts")
        for peer in peers:
            peer.edit({"op": "insert_cell", "cell_id": "note", "cell_type": "markdown", "source": "beside"})
        raw.settle(peers)
        late = [raw.join(daemon.socket, peer.notebook_id) for peer in peers]
        peers += late
        for peer in late:
            cell = peer.document.cell("note")
            assert cell is not None
        listed = raw.pool(daemon.socket, {"type": "list_rooms"})["rooms"]
        assert len(listed) == ROOMS
        assert sum(room["has_kernel"] for room in listed) == KERNELS
        early = [peer.of("execution_done")[1:] for peer in with_kernel if len(peer.of("execution_done")) > 1]
        assert not early, early
        assert sum(room.get("kernel_status") == "busy" for room in listed) == KERNELS
        interrupts = {peer: peer.post("interrupt_execution") for peer in late[:KERNELS]}
        pump(peers, interrupts, "the answers to interrupts")
        raw.pump(peers, lambda: all(len(peer.of("execution_done")) == 2 for peer in with_kernel), SECONDS, "the ends")
        assert {peer.of("execution_done")[1]["status"] for peer in with_kernel} == {"interrupted"}
        ends = {peer: peer.post("shutdown_kernel") for peer in with_kernel}
        pump(peers, ends, "the answers to shutdowns")
        until(lambda: not daemon.kernels(), SECONDS, "the kernels to be gone")
        daemon.stop()
    finally:
        for peer in peers:
            peer.close()
        daemon.close()
