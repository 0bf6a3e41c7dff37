"""Rules of kernels and executions. Each starts a kernel that runs Python, and shuts it down.

Storey: testing. Source: protocol 2, sections 5.8 to 5.13, 7.5, 8, 10 and 14.2.
"""

from __future__ import annotations

import json
from typing import Any

from runtimed_ffi.testing.conformance.rules import Skipped, World, expect, insert, rule
from runtimed_ffi.testing.peers import Peer
from runtimed_ffi.testing.wire import Json


def _run(world: World, peer: Peer, cell_id: str, source: str) -> list[Json]:
    """Insert and execute a cell; its broadcasts up to the end by the finish rule of 5.10."""
    peer.edit(insert(cell_id, source))
    answer = world.ask(peer, "execute_cell", cell_id=cell_id)
    expect(answer.get("result") == "cell_queued", f"execute_cell was answered with {answer}")
    world.wait([peer], lambda: _finished(peer, cell_id), f"the end of {source!r}")
    world.settle(peer)
    return [one for one in peer.broadcasts if one.get("cell_id") == cell_id]


def _finished(peer: Peer, cell_id: str) -> bool:
    """An `execution_done` behind the idle of the cell."""
    idle = False
    for one in peer.broadcasts:
        if one == {**one, "event": "kernel_status", "status": "idle", "cell_id": cell_id}:
            idle = True
        if idle and one["event"] == "execution_done" and one["cell_id"] == cell_id:
            return True
    return False


def _output_types(broadcasts: list[Json]) -> list[str]:
    return [one["output_type"] for one in broadcasts if one["event"] == "output"]


@rule("10.4", "launch_kernel is answered when the kernel is there; once more, by the one that runs", kernel=True)
def launch(world: World) -> None:
    peer = world.peer()
    answer = world.launch(peer)
    expect(answer["result"] == "kernel_launched", f"the answer was {answer}")
    expect(answer["kernel_type"] == world.kernel_type, f"the kernel type was {answer['kernel_type']!r}")
    again = world.ask(peer, "launch_kernel", kernel_type="other", env_source="other", notebook_path=None)
    same = (again["result"], again.get("kernel_type"), again.get("env_source"))
    expect(same == ("kernel_already_running", answer["kernel_type"], answer["env_source"]), f"the answer was {again}")
    info = world.ask(peer, "get_kernel_info")
    expect(info["kernel_type"] == answer["kernel_type"] and info["env_source"] == answer["env_source"], f"it is {info}")
    rooms = {room["notebook_id"]: room for room in world.ask_pool({"type": "list_rooms"})["rooms"]}
    expect(rooms[peer.notebook_id].get("has_kernel") is True, f"list_rooms has {rooms[peer.notebook_id]}")


@rule("5.9", "The broadcasts of an execution come in their order, the same at every peer", kernel=True)
def order_of_broadcasts(world: World) -> None:
    peer = world.peer()
    other = world.peer(peer.notebook_id)
    world.launch(peer)
    _run(world, peer, "c", "print('x')")
    world.settle(other)
    for each in (peer, other):
        events = [_short(one, "c") for one in each.broadcasts]
        wanted = ["executing", "busy", "started", "output", "idle", "done"]
        places = [events.index(word) if word in events else -1 for word in wanted]
        expect(-1 not in places and places == sorted(places), f"what came was {[word for word in events if word]}")
        behind = events[events.index("done") :]
        expect("empty" in behind, "no queue_changed with nothing executing behind the end")


def _short(one: Json, cell_id: str) -> str:
    """One broadcast in a word; empty if it is not about this."""
    event = one["event"]
    if event == "queue_changed":
        return "executing" if one["executing"] == cell_id else "" if one["queued"] or one["executing"] else "empty"
    if one.get("cell_id") != cell_id:
        return ""
    if event == "kernel_status":
        return str(one["status"])
    return {"execution_started": "started", "execution_done": "done"}.get(event, str(event))


@rule("5.5", "Blobs and document come first: what execution_done speaks of can be had through the barrier", kernel=True)
def outputs_in_the_document(world: World) -> None:
    peer = world.peer()
    world.launch(peer)
    source = "print('a\u0301😀')\nimport sys\nprint('e', file=sys.stderr)\n1 + 1"
    broadcasts = _run(world, peer, "c", source)
    expect(_output_types(broadcasts).count("execute_result") == 1, f"outputs sent were {_output_types(broadcasts)}")
    (cell,) = peer.document.cells()
    outputs = [json.loads(one) if one.startswith("{") else {} for one in cell["outputs"]]
    expect(len(outputs) >= 3, f"the document has {cell['outputs']}")
    known = [(one.get("output_type"), one.get("name"), one.get("text")) for one in outputs if one]
    if known:
        expect(("stream", "stdout", "a\u0301😀\n") in known, f"outputs in the document are {known}")
    started = [one for one in broadcasts if one["event"] == "execution_started"]
    expect(len(started) == 1 and isinstance(started[0]["execution_count"], int), f"execution_started was {started}")


@rule("5.10", "A failing cell has an error output, and an end behind its idle", kernel=True)
def failing_cell(world: World) -> None:
    peer = world.peer()
    world.launch(peer)
    broadcasts = _run(world, peer, "c", "1 / 0")
    expect("error" in _output_types(broadcasts), f"outputs sent were {_output_types(broadcasts)}")
    answer = world.ask(peer, "get_queue_state")
    expect(answer["executing"] is None or world.left() > 0, f"the queue is {answer}")


@rule(
    "14.2",
    "Exactly one execution_done for each execution, behind its last output and its idle",
    must=False,
    kernel=True,
)
def one_end(world: World) -> None:
    peer = world.peer()
    world.launch(peer)
    for cell_id, source in (("good", "print(1)"), ("bad", "print(2)\n1 / 0"), ("blank", "")):
        _run(world, peer, cell_id, source)
    _run(world, peer, "last", "1")
    for cell_id in ("good", "bad", "blank", "last"):
        events = [_short(one, cell_id) for one in peer.broadcasts]
        expect(events.count("done") == 1, f"{cell_id}: {events.count('done')} times execution_done")
        expect("output" not in events[events.index("done") :], f"{cell_id}: an output behind the end")
        expect(events.index("idle") < events.index("done"), f"{cell_id}: the end came before the idle")


@rule("14.3", "The execution count is written into the document", must=False, kernel=True)
def count_in_the_document(world: World) -> None:
    peer = world.peer()
    world.launch(peer)
    broadcasts = _run(world, peer, "c", "1")
    count = next(one["execution_count"] for one in broadcasts if one["event"] == "execution_started")
    cell = peer.document.cell("c")
    expect(cell is not None and cell["execution_count"] == count, f"{count} was announced, the cell is {cell}")


@rule(
    "5.9",
    "A cell that runs or waits is not queued again; an interrupt ends the one that runs and clears the queue",
    kernel=True,
)
def queueing(world: World) -> None:
    peer = world.peer()
    world.launch(peer)
    gate = "import time\nwhile True: time.sleep(0.01)"
    peer.edit(insert("gate", gate), insert("c", "print('then')"))
    for cell_id in ("gate", "c", "c", "gate"):
        answer = world.ask(peer, "execute_cell", cell_id=cell_id)
        expect(answer.get("result") == "cell_queued", f"execute_cell was answered with {answer}")
    world.wait([peer], lambda: peer.of("execution_started", cell_id="gate"), "the start of the first cell")
    answer = world.ask(peer, "get_queue_state")
    expect((answer["executing"], answer["queued"]) == ("gate", ["c"]), f"the queue is {answer}")
    expect(world.ask(peer, "interrupt_execution")["result"] == "interrupt_sent", "interrupt_execution was refused")
    world.wait([peer], lambda: _finished(peer, "gate"), "the end of the interrupted cell")
    world.wait([peer], lambda: _idle(world, peer), "an empty queue")
    events = [one for one in peer.broadcasts if one.get("cell_id") in ("gate", "c")]
    expect(not peer.of("execution_started", cell_id="c"), f"an error did not clear the queue: {events}")


def _idle(world: World, peer: Peer) -> bool:
    answer = world.ask(peer, "get_queue_state")
    return answer["executing"] is None and answer["queued"] == []


@rule("5.13", "run_all_cells counts the code cells and runs them in their order", kernel=True)
def run_all(world: World) -> None:
    peer = world.peer()
    world.launch(peer)
    peer.edit(insert("a", "x = 1"), insert("m", "text", "markdown"), insert("b", "x + 1"))
    answer = world.ask(peer, "run_all_cells")
    expect(answer == {**answer, "result": "all_cells_queued", "count": 2}, f"the answer was {answer}")
    world.wait([peer], lambda: _finished(peer, "a") and _finished(peer, "b"), "the end of both cells")
    started = [one["cell_id"] for one in peer.of("execution_started")]
    expect(started == ["a", "b"], f"started were {started}")


@rule("5.13", "complete and get_history answer what the kernel knows; positions count characters", kernel=True)
def kernel_questions(world: World) -> None:
    peer = world.peer()
    world.launch(peer)
    # IPython's usual way to complete reads whole libraries first, for longer than a daemon waits.
    _run(
        world, peer, "c", "conformance_name = 1\ntry: get_ipython().Completer.use_jedi = False\nexcept NameError: pass"
    )
    code = "𝕏; conformance_na"
    answer = world.ask(peer, "complete", code=code, cursor_pos=len(code))
    labels = [item["label"] for item in answer.get("items", [])]
    expect(any("conformance_name" in label for label in labels), f"complete was answered with {answer}")
    expect((answer["cursor_start"], answer["cursor_end"]) == (3, len(code)), f"positions are {answer}")
    answer = world.ask(peer, "get_history", pattern=None, n=10, unique=False)
    expect(answer["result"] == "history_result", f"get_history was answered with {answer}")


@rule("7.5", "An update of a display replaces its output in the document and is sent to all", kernel=True)
def display_update(world: World) -> None:
    peer = world.peer()
    world.launch(peer)
    source = (
        "from IPython.display import display\nh = display({'text/plain': 'old'}, raw=True, display_id='conf')\n"
        "h.update({'text/plain': 'new'}, raw=True)"
    )
    _run(world, peer, "c", source)
    updates = peer.of("display_update", display_id="conf")
    expect(updates and updates[-1]["data"] == {"text/plain": "new"}, f"updates sent were {updates}")
    (cell,) = peer.document.cells()
    inline: list[Any] = [json.loads(one) for one in cell["outputs"] if one.startswith("{")]
    if not inline:
        raise Skipped("the outputs lie in blobs")
    expect([one["data"] for one in inline] == [{"text/plain": "new"}], f"the document has {inline}")


@rule("5.12", "shutdown_kernel is broadcast and answered; then there is no kernel", kernel=True)
def shutdown_kernel(world: World) -> None:
    peer = world.peer()
    other = world.peer(peer.notebook_id)
    world.launch(peer)
    answer = world.ask(peer, "shutdown_kernel")
    expect(answer["result"] == "kernel_shutting_down", f"the answer was {answer}")
    world.wait([peer, other], lambda: other.of("kernel_status", status="shutdown"), "kernel_status shutdown")
    expect(world.ask(peer, "get_kernel_info")["status"] == "not_started", "a kernel is left")
    expect(world.ask(peer, "shutdown_kernel")["result"] == "no_kernel", "a kernel is left")


@rule(
    "14.2",
    "A cell whose kernel is shut down gets its end all the same, and a broadcast says that the queue is empty",
    must=False,
    kernel=True,
)
def end_by_shutdown(world: World) -> None:
    peer = world.peer()
    world.launch(peer)
    peer.edit(insert("c", "import time\nwhile True: time.sleep(0.01)"))
    world.ask(peer, "execute_cell", cell_id="c")
    world.wait([peer], lambda: peer.of("execution_started", cell_id="c"), "the start of the cell")
    world.ask(peer, "shutdown_kernel")
    world.wait([peer], lambda: peer.of("execution_done", cell_id="c"), "the end of the cell")
    world.wait([peer], lambda: _short(peer.of("queue_changed")[-1], "c") == "empty", "an empty queue")
