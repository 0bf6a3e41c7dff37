"""The reference's client, emulated, against our daemon: requests, ends of kernels, and the pool channel."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("runtimed_ffi._binding.ffi", reason="the C library is not built")

from interop import golden
from interop.daemons import DaemonProcess, accepts
from interop.reference_client import QUEUE, ReferenceClient
from interop.reference_peer import Broken, pool
from interop.rooms import LAUNCH, Room, outcome
from runtimed_ffi.testing.wire import Json

pytestmark = [pytest.mark.kernel, pytest.mark.interop]


# -- requests


def test_requests_without_kernel(room: Room, tmp_path: Path) -> None:
    room.notebook_id = str(tmp_path / "req0.ipynb")
    peer = room.prompt()
    peer.add("cell-a", "x=1")
    peer.add("cell-md", "# t", "markdown")
    peer.settle()
    for (action, members), wanted in golden.scenario("requests-no-kernel")["results"]:
        answer = _known(peer.request(action, **members))
        if action == "launch_kernel":
            # The reference asks its pools before it looks at the type (10.1 calls it a quirk).
            assert answer["result"] == "error"
            # Our daemon tries the installed kernelspecs next.
            unsupported = "Failed to launch kernel: Unsupported kernel type: julia. Supported types: python, deno"
            assert answer["error"] == wanted["error"] or answer["error"].startswith(unsupported)
        else:
            assert answer == wanted, action
    peer.settle()
    assert golden.normal(peer.broadcasts) == golden.normal(golden.frames("requests-no-kernel", "broadcast"))
    recorded = Path(__file__).parent.parent / "golden" / "v2" / "files" / "saved.ipynb"
    assert Path(room.notebook_id).read_bytes() == recorded.read_bytes()


def _known(response: Json) -> Json:
    """Without our own members."""
    return {name: value for name, value in response.items() if name not in ("execution_id", "execution_ids", "joined")}


def test_requests_with_kernel(room: Room, tmp_path: Path) -> None:
    recorded = [(action, members, wanted) for (action, members), wanted in _pairs("requests-kernel")]
    peer = room.prompt()
    gate = tmp_path / "open"
    waiting = f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)"
    peer.add("cell-a", f"import os, time\nprint('A')\n{waiting}\nos.remove({str(gate)!r})")
    peer.add("cell-b", "print('B')")
    peer.add("cell-empty", "")
    peer.add("cell-md", "# t", "markdown")
    peer.settle()
    for place, (action, members, wanted) in enumerate(recorded):
        answer = _known(peer.request(action, **members))
        while action == "complete" and answer.get("error", "").endswith("Completion request timed out"):
            answer = _known(peer.request(action, **members))  # 5.13: five seconds; a fresh completer may need more.
        if action == "get_history":
            assert answer["result"] == "history_result"
            assert all(set(entry) == {"session", "line", "source"} for entry in answer["entries"])
            if members["pattern"] is not None:
                assert [entry["source"] for entry in answer["entries"]] == ["print('B')"] * 2
        else:
            assert answer == wanted, (place, action)
        if place == 0:
            peer.wait_broadcast("kernel_status", status="idle", cell_id=None)
        if place + 1 in (9, 12):
            gate.touch()
        if place + 1 in (9, 12) or action == "queue_cell":
            before = len(peer.stream)
            if peer.request("get_queue_state") != {"result": "queue_state", "executing": None, "queued": []}:
                peer.until(lambda start=before: _emptied(peer.stream[start:]))
    peer.settle()
    assert peer.document.outputs("cell-b") == []
    assert len(peer.document.outputs("cell-a")) == 1, "the second run has replaced the first one's"
    ours = golden.normal(peer.broadcasts)
    assert [e for e in ours if e[0] != "queue"] == [
        event for event in golden.normal(golden.frames("requests-kernel", "broadcast")) if event[0] != "queue"
    ]


def _pairs(name: str) -> list[Any]:
    return [(label, value) for label, value in golden.scenario(name)["results"] if isinstance(label, list)]


def _emptied(stream: list[Any]) -> bool:
    return any(
        kind == "broadcast"
        and content["event"] == "queue_changed"
        and not content["executing"]
        and not content["queued"]
        for _, kind, content in stream
    )


def test_a_source_is_taken_at_the_time_of_the_request(room: Room) -> None:
    peer = room.prompt()
    peer.add("cell-a", "import time; time.sleep(0.5)")
    peer.add("cell-b", "print('old')")
    peer.request("launch_kernel", **LAUNCH)
    peer.post("execute_cell", cell_id="cell-a")
    peer.post("execute_cell", cell_id="cell-b")
    peer.edit({"op": "set_source", "cell_id": "cell-b", "source": "print('new')"})
    peer.wait_broadcast("execution_done", cell_id="cell-b")
    peer.settle()
    assert "old" in peer.document.outputs("cell-b")[0]


def test_pipelined_requests_are_answered_in_order(room: Room) -> None:
    """A slow one holds back the quick ones behind it: without an identifier, order alone matches them (5.5)."""
    peer = room.prompt()
    peer.request("launch_kernel", **LAUNCH)
    while peer.request("complete", code="pri", cursor_pos=3)["result"] == "error":
        pass  # The kernel loads its completer; that may take more than the five seconds of 5.13.
    count = len(peer.responses)
    wanted = []
    for _ in range(5):
        peer.post("complete", code="pri", cursor_pos=3)
        peer.post("get_queue_state")
        peer.post("execute_cell", cell_id="nope")
        wanted += ["completion_result", "queue_state", "error"]
    peer.until(lambda: len(peer.responses) == count + len(wanted))
    assert [each["result"] for each in peer.responses[count:]] == wanted


def test_shutdown_while_a_cell_runs_ends_the_wait(room: Room) -> None:
    client, other = room.client(), room.client()
    client.start_kernel()
    cell = client.create_cell("import time\nprint('on', flush=True)\ntime.sleep(60)")
    with ThreadPoolExecutor(1) as elsewhere:
        result = elsewhere.submit(client.execute_cell, cell, 20.0)
        while not other.document.outputs(cell):
            other.sleep(0.1)
        other.shutdown_kernel()
        assert result.result(10)["stdout"] == "on\n"
    other.sleep_until(lambda: other.broadcasts[-1]["event"] == "queue_changed")
    assert other.broadcasts[-1]["queued"] == []


def test_death_of_the_kernel_ends_the_wait(room: Room) -> None:
    client = room.client()
    client.start_kernel()
    result = client.run("import os, signal; print('last', flush=True); os.kill(os.getpid(), signal.SIGKILL)", 20.0)
    assert client.broadcasts[-1]["event"] == "queue_changed" or result["stdout"] == "last\n"
    assert outcome(client.run, "1") == ["RuntimedError", "Unexpected response: NoKernel"]
    client.start_kernel()
    assert client.run("print('back')")["stdout"] == "back\n"


@pytest.mark.parametrize("count", [QUEUE + 16, pytest.param(1000, marks=pytest.mark.long)])
def test_more_outputs_than_fit_the_queue_at_the_reference_pace(room: Room, count: int) -> None:
    """About 20 frames a second are read; all come, in order, and none is lost (14.2, items 5 and 9)."""
    client = room.client()
    client.start_kernel()
    result = client.run(f"for i in range({count}): display(i)", 110.0)
    assert [each["data"]["text/plain"] for each in result["outputs"]] == [str(number) for number in range(count)]
    client.shutdown_kernel()


def test_a_peer_that_does_not_read_affects_no_other(room: Room) -> None:
    stuck = ReferenceClient(room.path, room.notebook_id)
    try:
        client = room.prompt()
        client.request("launch_kernel", **LAUNCH)
        client.add("cell-a", "for i in range(2000): display('x' * 4000)")
        client.request("execute_cell", cell_id="cell-a")
        client.wait_broadcast("execution_done", 120, cell_id="cell-a")
        client.settle()
        assert len(client.document.outputs("cell-a")) == 2000
    finally:
        stuck.close()


# -- pool


def test_pool_client(with_pool: DaemonProcess) -> None:
    path = str(with_pool.socket)
    room = Room(path, "room of a pool")
    assert pool(path, {"type": "ping"}) == ['{"type":"pong"}']
    stats = json.loads(pool(path, {"type": "status"})[0])
    assert stats["type"] == "stats"
    assert {"uv_available", "uv_warming", "conda_available", "conda_warming"} <= set(stats["stats"])
    client = room.client()
    client.start_kernel()
    wanted = dict(golden.results("pool-client")["rooms with kernel"][0], notebook_id=room.notebook_id)
    rooms = json.loads(pool(path, {"type": "list_rooms"})[0])["rooms"]
    found = next(each for each in rooms if each["notebook_id"] == room.notebook_id)
    assert {name: found[name] for name in wanted} == wanted
    assert pool(path, {"type": "flush_pool"}) == ['{"type":"flushed"}']
    client.shutdown_kernel()
    rooms = json.loads(pool(path, {"type": "list_rooms"})[0])["rooms"]
    found = next(each for each in rooms if each["notebook_id"] == room.notebook_id)
    assert found == {"notebook_id": room.notebook_id, "active_peers": 1, "has_kernel": False}
    room.check()
    room.end()


def test_pool_raw(running: DaemonProcess, room: Room) -> None:
    recorded = golden.results("pool-raw")
    path = str(running.socket)
    client = room.client()
    cell = client.create_cell("x = 0\n")
    requests: list[Json] = [
        {"type": "ping"},
        {"type": "status"},
        {"type": "take", "env_type": "conda"},
        {"type": "inspect_notebook", "notebook_id": room.notebook_id},
        {"type": "inspect_notebook", "notebook_id": "no such notebook"},
        {"type": "list_rooms"},
    ]
    answers = [json.loads(each) for each in pool(path, *requests)]
    assert [each["type"] for each in answers] == [
        "pong",
        "stats",
        "empty",
        "notebook_state",
        "error",
        "rooms_list",
    ]
    assert answers[3] == {
        "type": "notebook_state",
        "notebook_id": room.notebook_id,
        "cells": [{"id": cell, "cell_type": "code", "source": "x = 0\n", "execution_count": "null", "outputs": []}],
        "source": "live_room",
        "kernel_info": None,
    }
    text = "Notebook not found: no active room and no persisted file at "
    assert answers[4]["message"].startswith(text)
    assert pool(path, {"type": "nope"}) == recorded["unknown"]
    assert pool(path, {"type": "take"}) == recorded["missing"]
    assert pool(path, {"type": "ping", "x": 1}) == recorded["extra member"]


def test_two_shutdown_requests_as_the_reference_needs_them(tmp_path: Path) -> None:
    process = DaemonProcess(tmp_path)
    try:
        assert pool(str(process.socket), {"type": "shutdown"}) == ['{"type":"shutting_down"}']
        process.process.wait(5)
        assert not accepts(process.socket)
    finally:
        process.kill()


# -- the emulator itself is strict


def test_the_client_is_as_strict_as_the_reference() -> None:
    from interop.reference_peer import BROADCASTS, RESPONSES, parse

    assert parse(b'{"event":"kernel_error","error":"x","more":1}', "event", BROADCASTS)
    for bad in (b'{"event":"news"}', b'{"event":"output","cell_id":"c"}', b'{"event":"queue_changed","queued":[1]}'):
        with pytest.raises(Broken):
            parse(bad, "event", BROADCASTS)
    with pytest.raises(Broken):
        parse(b'{"result":"queued"}', "result", RESPONSES)
