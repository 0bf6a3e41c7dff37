"""What real kernels print, in pieces and from threads, is one output in the end; late sessions get the widgets too."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
from typing import Any

import pytest

import runtimed_ffi
from integration.tools import LIMIT, Recorder
from runtimed_ffi import Output

pytestmark = pytest.mark.kernel


def test_each_piece_is_sent_once_and_the_result_is_one_output(
    session: runtimed_ffi.Session, other: runtimed_ffi.Session
) -> None:
    seen: list[Output] = []
    code = "import time\nfor i in range(60):\n    print('line', i, flush=True)\n    time.sleep(0.002)\ndisplay(1)"
    text = "".join(f"line {i}\n" for i in range(60))
    with Recorder(other) as recorder:
        result = session.run(code, on_output=seen.append)
        recorder.until(lambda: recorder.outputs and recorder.outputs[-1].output.output_type == "display_data")
        assert recorder.texts() == text
        assert {event.index for event in recorder.outputs[:-1]} == {0} and recorder.outputs[-1].index == 1
    assert len(seen) > 2 and "".join(output.text or "" for output in seen) == text
    assert [output.text for output in result.outputs] == [text, None]
    assert session.get_outputs(result.cell_id) == result.outputs == other.get_outputs(result.cell_id)


def test_a_thread_appends_to_the_text_of_its_cell(session: runtimed_ffi.Session, other: runtimed_ffi.Session) -> None:
    directory = tempfile.mkdtemp()
    go = os.path.join(directory, "go")
    code = (
        "import os, threading, time\ndef work():\n"
        f"    while not os.path.exists({go!r}):\n        time.sleep(0.01)\n"
        "    for i in range(20):\n        print('t', i, flush=True)\n"
        "threading.Thread(target=work).start()\nprint('main', flush=True)"
    )
    text = "main\n" + "".join(f"t {i}\n" for i in range(20))
    with Recorder(other) as recorder:
        result = session.run(code)
        assert [output.text for output in result.outputs] == ["main\n"]
        with open(go, "w"):
            pass
        recorder.until(lambda: recorder.texts() == text)
        assert {(event.cell_id, event.index) for event in recorder.outputs} == {(result.cell_id, 0)}
    assert "".join(output.text or "" for output in other.get_outputs(result.cell_id)) == text
    shutil.rmtree(directory)


@pytest.mark.parametrize("code", ["input('name? ')", "import getpass\ngetpass.getpass()"])
def test_a_question_is_refused_at_once_and_clearly(session: runtimed_ffi.Session, code: str) -> None:
    result = session.run(code, timeout_secs=LIMIT)
    assert result.state == "error" and result.error is not None
    assert result.error.ename == "StdinNotImplementedError"
    assert "does not support input requests" in (result.error.evalue or "")
    assert session.run("1 + 1").success


def test_a_session_that_joins_late_gets_the_widgets(session: runtimed_ffi.Session) -> None:
    code = (
        "from comm import create_comm\n"
        "c = create_comm(target_name='jupyter.widget', data={'state': {'_model_name': 'M', 'value': 1}})\n"
        "c.send({'method': 'update', 'state': {'value': 7}})"
    )
    assert session.run(code).success
    late = runtimed_ffi.Session(session.notebook_id, socket_path=session._require().socket_path)
    received, arrived = [], threading.Event()

    def receive(event: Any) -> None:
        if event["event"] == "comm_sync":
            received.append(event)
            arrived.set()

    with late.on_broadcast(receive):
        late.connect()
        late.start_pump()
        try:
            assert arrived.wait(LIMIT)
        finally:
            late.stop_pump()
            late.disconnect()
    ((entry,),) = [event["comms"] for event in received]
    assert entry["state"] == {"_model_name": "M", "value": 7} and entry["model_name"] == "M"
    assert session.run("c.close()").success


def test_two_hundred_cells_and_a_peer_that_does_not_read(session: runtimed_ffi.Session) -> None:
    cells = [session.create_cell(f"print({number})") for number in range(200)]
    session.sync()
    with socket.socket(socket.AF_UNIX) as slow:
        slow.settimeout(LIMIT)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(session._require().socket_path)
        hello = {"channel": "notebook_sync", "notebook_id": session.notebook_id, "protocol": "v2"}
        _send(slow, json.dumps(hello).encode())
        assert session.run_all() == 200
        last = session.submit_cell(session.create_cell("'last'"))
        assert last.result().success
        assert [session.get_outputs(cell)[0].text for cell in cells] == [f"{number}\n" for number in range(200)]
        # It has missed nothing.
        done: list[Any] = []
        while len(done) < 200:
            payload = _receive(slow)
            if payload[0] == 3:
                event = json.loads(payload[1:])
                if event["event"] == "execution_done":
                    done.append(event["cell_id"])
        assert done == cells


def _send(connection: socket.socket, payload: bytes) -> None:
    connection.sendall(len(payload).to_bytes(4, "big") + payload)


def _receive(connection: socket.socket) -> bytes:
    return _exactly(connection, int.from_bytes(_exactly(connection, 4), "big"))


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        assert part, "the peer that does not read was disconnected"
        parts += part
    return bytes(parts)
