"""Rules of rooms: their document, order, requests that need no kernel, files.

Storey: testing. Source: protocol 2, sections 5, 7 and 9.
"""

from __future__ import annotations

import json
import os
import tempfile

from runtimed_ffi.testing.conformance.rules import World, expect, first_heads, insert, rule
from runtimed_ffi.testing.peers import Peer
from runtimed_ffi.testing.replicas import Replica, SyncState
from runtimed_ffi.testing.wire import BROADCAST, RESPONSE, SYNC, encode, notebook_handshake, typed

_AWKWARD = "e\u0301 👩\u200d👩 𝕏\r\n\tx = '\0'"


def _ids(peer: Peer) -> list[str]:
    return [cell["id"] for cell in peer.document.cells()]


@rule(
    "5.2", "The first sync message announces heads and carries nothing; the whole document comes when it is asked for"
)
def first_synchronisation(world: World) -> None:
    link = world.link(notebook_handshake(world.room()))
    link.json("the capabilities")
    replica, state, first = Replica(), SyncState(), link.frame("the first sync message")
    heads = first_heads(first)
    state.receive(replica, first[1:])
    message = state.generate(replica)
    expect(message is not None, "the first sync message asks for no answer")
    link.send(typed(SYNC, message or b""))
    while {replica.heads()[at : at + 32] for at in range(0, len(replica.heads()), 32)} != heads:
        payload = link.frame("the document")
        if payload[0] == SYNC:
            state.receive(replica, payload[1:])


@rule("7.2", "A new room has its structure before the first sync message: no cells, metadata with a runtime")
def structure(world: World) -> None:
    peer = world.peer()
    expect(peer.document.cells() == [], f"a new room has cells: {peer.document.cells()}")
    expect("runtime" in peer.document.metadata(), f"metadata is {peer.document.metadata()}")
    peer.edit(insert("c"))
    world.settle(peer)
    expect(_ids(world.peer(peer.notebook_id)) == ["c"], "a client's cell went into a list of its own")


@rule("5.3", "An edit is acknowledged by a sync message with the client's heads")
def acknowledgement(world: World) -> None:
    peer = world.peer()
    for number in range(3):
        peer.edit(insert(str(number), _AWKWARD))
        world.wait([peer], peer.converged, "the acknowledgement of an edit")


@rule("5.3", "What one peer writes reaches every other, any characters")
def fan_out(world: World) -> None:
    one = world.peer()
    others = [world.peer(one.notebook_id) for _ in range(3)]
    one.edit(insert("c", _AWKWARD), {"op": "set_metadata", "key": "k", "value": _AWKWARD})
    world.wait([one, *others], lambda: all(_ids(peer) == ["c"] for peer in others), "the cell at the other peers")
    for peer in others:
        expect(peer.document.cells() == one.document.cells(), "the peers' cells differ")
        expect(peer.document.metadata()["k"] == _AWKWARD, "the peers' metadata differ")


@rule("5.3", "Edits of several peers at the same time converge, in one text by character")
def concurrent_edits(world: World) -> None:
    peers = [world.peer()]
    peers[0].edit(insert("c", "0123456789"))
    world.settle(peers[0])
    peers += [world.peer(peers[0].notebook_id) for _ in range(2)]
    for number, peer in enumerate(peers):
        for index in range(5):
            op = {"op": "splice_source", "cell_id": "c", "index": 2 * index, "delete": 0, "insert": "αβγ"[number]}
            peer.edit(op, insert(f"{number}-{index}"))
    world.settle(*peers)
    sources = {json.dumps(peer.document.cells()) for peer in peers}
    expect(len(sources) == 1, "the peers' cells differ")
    text = peers[0].document.cell("c")
    expect(text is not None and sorted(text["source"]) == sorted("0123456789" + 5 * "αβγ"), f"the text is {text}")
    expect(len(_ids(peers[0])) == 16, f"there are {len(_ids(peers[0]))} cells, not 16")


@rule("9.4", "A peer that enters later gets the whole document")
def late_joiner(world: World) -> None:
    peer = world.peer()
    peer.edit(*[insert(str(number), _AWKWARD) for number in range(50)])
    peer.edit({"op": "append_outputs", "cell_id": "7", "outputs": ["{}", "x"]})
    world.settle(peer)
    late = world.peer(peer.notebook_id)
    expect(late.document.cells() == peer.document.cells(), "the newcomer has other cells")
    expect(late.document.heads() == peer.document.heads(), "the newcomer has other heads")


@rule("9.3", "A peer that comes back soon after the last one left finds the room as it was")
def room_outlives_its_peers(world: World) -> None:
    peer = world.peer()
    peer.edit(insert("c", "x"))
    world.settle(peer)
    peer.close()
    expect(_ids(world.peer(peer.notebook_id)) == ["c"], "the room has lost its cell")


@rule("9.1", "Rooms are identified by their id, byte for byte")
def rooms_by_id(world: World) -> None:
    peer = world.peer()
    peer.edit(insert("c"))
    world.settle(peer)
    for other in (peer.notebook_id + "/", peer.notebook_id.upper(), "./" + peer.notebook_id):
        expect(_ids(world.peer(other)) == [], f"{other!r} is the same room")


@rule("9.5", "A room whose id is no UUID and no file starts no kernel by itself")
def no_launch_unasked(world: World) -> None:
    answer = world.ask(world.peer(), "get_kernel_info")
    nothing = {"result": "kernel_info", "kernel_type": None, "env_source": None, "status": "not_started"}
    expect({name: answer.get(name) for name in nothing} == nothing, f"the answer was {answer}")


@rule("5.5", "Responses come in the order of the requests, one each")
def responses_in_order(world: World) -> None:
    peer = world.peer()
    for number in range(8):
        peer.post("execute_cell", cell_id=f"no-{number}")
        peer.post("get_queue_state")
    world.wait([peer], lambda: len(peer.responses) == 16, "16 responses")
    for number in range(8):
        expect(
            f"no-{number}" in peer.responses[2 * number + 1].get("error", ""),
            f"response {2 * number + 1} was {peer.responses[2 * number + 1]}",
        )
        expect(peer.responses[2 * number + 2]["result"] == "queue_state", "a queue state is missing")


@rule("5.5", "A request sees every edit sent before it on its connection")
def requests_see_edits(world: World) -> None:
    peer = world.peer()
    for number in range(5):
        peer.edit(insert(f"c{number}", "x", "markdown"))
        answer = world.ask(peer, "execute_cell", cell_id=f"c{number}")
        expected = f"Cannot execute non-code cell: c{number} (type: markdown)"
        expect(answer == {**answer, "result": "error", "error": expected}, f"the answer was {answer}")


@rule("5.5", "Broadcasts a request causes reach its sender behind the response; all peers get them")
def broadcasts_behind_responses(world: World) -> None:
    peer = world.peer()
    other = world.peer(peer.notebook_id)
    world.ask(peer, "clear_outputs", cell_id="c")
    world.wait([peer, other], lambda: peer.broadcasts and other.broadcasts, "outputs_cleared at both peers")
    found = [(kind, content.get("result") or content.get("event")) for kind, content in peer.arrived]
    expect(found == [(RESPONSE, "outputs_cleared"), (BROADCAST, "outputs_cleared")], f"what came was {found}")
    expect(other.broadcasts[0].get("cell_id") == "c", f"the broadcast was {other.broadcasts[0]}")


@rule(
    "5.5",
    "The barrier: a sync message with the heads and an empty filter is harmless, and the request behind it is answered",
)
def barrier(world: World) -> None:
    peer = world.peer()
    for _ in range(3):
        peer.edit(insert(f"c{peer.posted}"))
        number = peer.post_barrier()
        world.wait([peer], lambda n=number: n in peer.responses, "the response to the barrier")  # type: ignore[misc]
        world.wait([peer], peer.converged, "the document behind the barrier")


@rule("5.6", "Unknown members of requests are ignored, optional ones may be missing")
def lenient_requests(world: World) -> None:
    peer = world.peer()
    expect(world.ask(peer, "get_queue_state", x=[1])["result"] == "queue_state", "an unknown member did harm")
    expect(world.ask(peer, "get_history", n=5, unique=True)["result"] == "no_kernel", "pattern is not optional")


@rule("5.7", "Without a kernel: what needs one answers no_kernel, the queue is empty")
def without_kernel(world: World) -> None:
    peer = world.peer()
    peer.edit(insert("c", "1"))
    requests: list[tuple[str, dict[str, object]]] = [
        ("execute_cell", {"cell_id": "c"}),
        ("interrupt_execution", {}),
        ("shutdown_kernel", {}),
        ("run_all_cells", {}),
        ("send_comm", {"message": {}}),
        ("get_history", {"pattern": None, "n": 1, "unique": False}),
        ("complete", {"code": "a", "cursor_pos": 1}),
    ]
    for action, members in requests:
        answer = world.ask(peer, action, **members)
        expect(answer["result"] == "no_kernel", f"{action} was answered with {answer}")
    answer = world.ask(peer, "get_queue_state")
    expect(answer["executing"] is None and answer["queued"] == [], f"the queue is {answer}")


@rule("5.7", "Executing an unknown cell is an error that names it, also without a kernel")
def unknown_cell(world: World) -> None:
    answer = world.ask(world.peer(), "execute_cell", cell_id="nô")
    expect(answer.get("error") == "Cell not found in document: nô", f"the answer was {answer}")


@rule("5.13", "clear_outputs empties outputs and count of a cell, notifies all peers, and succeeds for an unknown cell")
def clear_outputs(world: World) -> None:
    peer = world.peer()
    peer.edit(insert("c"), {"op": "append_outputs", "cell_id": "c", "outputs": ["a", "b"]})
    peer.edit({"op": "set_execution_count", "cell_id": "c", "execution_count": 3})
    answer = world.ask(peer, "clear_outputs", cell_id="c")
    expect(answer == {**answer, "result": "outputs_cleared", "cell_id": "c"}, f"the answer was {answer}")
    world.settle(peer)
    (cell,) = peer.document.cells()
    expect(cell["outputs"] == [] and cell["execution_count"] is None, f"the cell is {cell}")
    expect(peer.of("outputs_cleared", cell_id="c"), "no broadcast outputs_cleared")
    answer = world.ask(peer, "clear_outputs", cell_id="nothing")
    expect(answer["result"] == "outputs_cleared", f"for an unknown cell the answer was {answer}")


@rule("9.8", "save_notebook writes the file named by the id: nbformat 4, sources as lines")
def save_notebook(world: World) -> None:
    directory = tempfile.TemporaryDirectory(prefix="conformance-")
    world.at_end(directory.cleanup)
    path = os.path.join(directory.name, "n.ipynb")
    peer = world.peer(path)
    peer.edit(insert("c", "x\ny"), insert("m", "é", "markdown"))
    answer = world.ask(peer, "save_notebook", format_cells=False)
    expect(answer["result"] == "notebook_saved", f"the answer was {answer}")
    with open(path, encoding="utf-8") as file:
        saved = json.load(file)
    expect(saved["nbformat"] == 4 and saved["nbformat_minor"] >= 5, f"nbformat is {saved['nbformat']}")
    sources = [(cell["id"], cell["cell_type"], cell["source"]) for cell in saved["cells"]]
    expect(sources == [("c", "code", ["x\n", "y"]), ("m", "markdown", ["é"])], f"the cells are {sources}")
    expect(
        saved["cells"][0]["outputs"] == [] and saved["cells"][0]["execution_count"] is None, "a code cell lacks parts"
    )


@rule("13.5", "A peer that reads nothing delays no other", must=False)
def slow_reader(world: World) -> None:
    peer = world.peer()
    slow = world.peer(peer.notebook_id)
    for number in range(20):
        peer.edit(insert(f"c{number}"), {"op": "append_outputs", "cell_id": f"c{number}", "outputs": ["x" * 100_000]})
        answer = world.ask(peer, "clear_outputs", cell_id="none")
        expect(answer["result"] == "outputs_cleared", f"the answer was {answer}")
    late = world.peer(peer.notebook_id)
    expect(len(_ids(late)) == 20, "a newcomer does not get the document")
    world.settle(slow)
    expect(encode(slow.document.cells()) == encode(peer.document.cells()), "the slow peer has other cells in the end")
