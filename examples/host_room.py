"""Hosts a notebook room from Python: no kernel, each cell "runs" by having its text shouted.

Host and session live in one process here; they meet only on the socket. Run it with `python examples/host_room.py`.
"""

import json
import os
import tempfile
import threading

import runtimed_ffi as runtimed
from runtimed_ffi.host import ChannelKind, EventKind, Host


def serve(host):
    """Answers what peers ask until the last one has left."""
    while True:
        host.wait()
        for event in host.drain():
            if event.kind == EventKind.ROOM_WANTED:
                host.open_room(event.id)
            elif event.kind == EventKind.REQUEST:
                answer(host, event)
            elif event.kind == EventKind.PEER_LEFT and event.number == 0:
                return


def answer(host, event):
    """Answers one request; a host answers each of them, also those it does not know."""
    request = event.json()
    action = request.get("action") if event.code == ChannelKind.NOTEBOOK else None
    if action == "launch_kernel":
        host.respond(event.token, {"result": "kernel_launched", "kernel_type": "python", "env_source": "none"})
    elif action == "execute_cell":
        run(host, event, host.cell(event.id, request["cell_id"]))
    else:
        host.respond(event.token, {"result": "error", "error": "not supported by this host"})


def run(host, event, cell):
    """The life of an execution: accepted, started, its outputs in the document, exactly one end."""
    names = {"cell_id": cell["id"], "execution_id": f"run-{event.token}"}
    host.respond(event.token, {"result": "cell_queued", **names})
    output = {"output_type": "stream", "name": "stdout", "text": cell["source"].upper() + "!\n"}
    changes = [{"op": "append_outputs", "cell_id": cell["id"], "outputs": [json.dumps(output)]}]
    host.publish(event.id, changes, [{"event": "execution_started", "execution_count": 1, **names}])
    host.publish(event.id, broadcasts=[{"event": "execution_done", "status": "ok", **names}])


def main():
    """Hosts in a thread, and runs one cell as a client."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "rooms.sock")
        with Host(path) as host:
            server = threading.Thread(target=serve, args=(host,))
            server.start()
            session = runtimed.Session("shouting", socket_path=path)
            session.start_kernel()
            print(session.run("hello").stdout, end="")
            session.disconnect()
            server.join()


if __name__ == "__main__":
    main()
