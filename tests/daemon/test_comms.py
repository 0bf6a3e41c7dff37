"""Widgets: messages of the kernel go to all peers, and the state is kept for peers that join later."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.fakes import idle, iopub, reply, stream
from daemon.stage import LAUNCH, Stage, staged, turn, until
from runtimed_ffi.daemon.ports import Message
from runtimed_ffi.daemon.rooms import comms
from runtimed_ffi.daemon.rooms.comms import Comms
from runtimed_ffi.daemon.rooms.outputs import Publication

MODEL = {"_model_module": "@jupyter-widgets/controls", "_model_name": "IntSliderModel", "value": 1}


def opened(comm_id: str, state: Any = None, buffers: list[bytes] | None = None) -> Message:
    data = {} if state is None else {"state": state}
    return iopub("comm_open", "x", buffers or [], comm_id=comm_id, target_name="jupyter.widget", data=data)


def updated(comm_id: str, **state: Any) -> Message:
    return iopub("comm_msg", "x", comm_id=comm_id, data={"method": "update", "state": state})


def closed(comm_id: str) -> Message:
    return iopub("comm_close", "x", comm_id=comm_id, data={})


def sent_on_join(s: Stage, peer: int) -> list[Any]:
    """The comms sent to a peer that joins now."""
    s.host.log.clear()
    s.rooms.joined("nb", peer, peer)
    return [item["comms"] for kind, item in s.host.log if kind == "sent" and item["peer"] == peer]


@staged
async def test_a_peer_that_joins_late_gets_the_open_widgets(s: Stage) -> None:
    """protocol 2, sections 5.2 step 6, 5.8 and 5.13; golden widgets"""
    assert sent_on_join(s, 3) == []
    await s.launch()
    s.kernel.say(opened("c1", MODEL, [b"\x09"]), opened("c2"), opened("c3", {"value": 1}))
    s.kernel.say(updated("c1", value=5, extra={"deep": [1]}), updated("unknown", value=1), closed("c3"))
    s.kernel.say(iopub("comm_msg", "x", comm_id="c2", data={"method": "custom", "content": 1}))
    assert len(s.host.take("comm")) == 7, "everything is forwarded"
    first = {
        "comm_id": "c1",
        "target_name": "jupyter.widget",
        "state": {**MODEL, "value": 5, "extra": {"deep": [1]}},
        "model_module": "@jupyter-widgets/controls",
        "model_name": "IntSliderModel",
        "buffers": [[9]],
    }
    assert sent_on_join(s, 4) == [[first, {"comm_id": "c2", "target_name": "jupyter.widget", "state": {}}]]


@staged
async def test_widgets_go_with_their_kernel(s: Stage) -> None:
    await s.launch()
    s.kernel.say(opened("c1"))
    s.ask("shutdown_kernel")
    assert sent_on_join(s, 3) == []
    await s.launch()
    s.kernel.say(opened("c1"))
    s.kernel.die()
    assert sent_on_join(s, 4) == []
    s.ask(**LAUNCH)
    await until(lambda: len(s.factory.kernels) == 3)
    await turn()
    assert sent_on_join(s, 5) == []


@staged
async def test_a_widget_too_large_to_keep_is_forgotten_and_no_other(s: Stage) -> None:
    await s.launch()
    large = "x" * (comms.STATE_LIMIT - 2000)
    s.kernel.say(
        opened("small", {"value": 1}), opened("large", {"value": large}), opened("third", {"value": "y" * 4000})
    )
    assert [entry["comm_id"] for entry in sent_on_join(s, 3)[0]] == ["small", "large"]
    s.kernel.say(updated("small", text="z" * 4000), updated("large", value=""), opened("fourth", {"value": large}))
    assert [entry["comm_id"] for entry in sent_on_join(s, 4)[0]] == ["large", "fourth"]
    s.host.log.clear()
    s.kernel.say(updated("small", text="more"))
    assert len(s.host.take("comm")) == 1, "what is not kept is still broadcast"
    assert s.rooms.get("nb").comms.size <= comms.STATE_LIMIT


@staged
async def test_a_message_larger_than_a_frame_costs_no_connection(
    s: Stage,
) -> None:
    await s.launch()
    s.execute("a")
    s.host.log.clear()
    s.kernel.say(opened("c", {}, [bytes(9 << 20)]), updated("c", value=1), stream("m1", "x"))
    assert [item["msg_type"] for item in s.host.take("comm")] == ["comm_msg"]
    s.kernel.say(
        iopub("update_display_data", "m1", data={"text/plain": "x" * (33 << 20)}, transient={"display_id": "d"})
    )
    assert s.host.take("display_update") == []
    s.kernel.say(idle("m1"), reply("m1"))
    assert s.host.brief()[-2:] == ["done a ok", "queue - []"]


@staged
async def test_odd_messages_cost_nothing_else(s: Stage) -> None:
    await s.launch()
    s.kernel.say(
        iopub("comm_open", "x"),
        iopub("comm_open", "x", comm_id=5, data=7),
        iopub("comm_open", "x", comm_id="odd", target_name=None, data={"state": [1]}),
        iopub("comm_msg", "x", comm_id="odd", data={"method": "update", "state": "text"}),
        iopub("comm_msg", "x", comm_id="odd", data=None),
        iopub("comm_close", "x", comm_id="never"),
        opened("fine"),
    )
    assert len(s.host.take("comm")) == 7
    assert [entry["comm_id"] for entry in sent_on_join(s, 3)[0]] == ["odd", "fine"]


@staged
async def test_a_peer_that_left_at_once_does_no_harm(s: Stage) -> None:
    await s.launch()
    s.kernel.say(opened("c"))

    def gone(peer: int, broadcast: Any) -> None:
        raise OSError("no such peer")

    s.host.send = gone  # type: ignore[method-assign]
    assert sent_on_join(s, 3) == []
    s.ask("get_queue_state")
    assert s.host.responses()[0]["result"] == "queue_state"


@staged
async def test_outputs_of_widget_callbacks_belong_to_no_cell(s: Stage) -> None:
    """protocol 2, section 5.13: their parent is the client's message, not an execution"""
    await s.launch()
    s.execute("a")
    s.play(1)
    header = {"msg_id": "w1", "username": "u", "session": "s", "msg_type": "comm_msg", "version": "5.3"}
    s.ask("send_comm", message={"header": header, "content": {"comm_id": "c", "data": {}}, "buffers": [[1, 255]]})
    assert s.kernel.comms[0]["header"]["msg_id"] == "w1" and s.kernel.comms[0]["buffers"] == [[1, 255]]
    s.host.log.clear()
    s.kernel.say(iopub("status", "w1", execution_state="busy"), stream("w1", "printed"), idle("w1"))
    assert s.host.brief() == ["status busy -", "status idle -"]
    assert s.host.outputs("nb", "a") == []


IDS = st.sampled_from(["a", "b", "c"])
TEXT = st.text("xé🐍", max_size=30)
EVENTS = st.lists(
    st.one_of(
        st.builds(lambda i, v: opened(i, {"v": v}), IDS, TEXT),
        st.builds(lambda i, k, v: updated(i, **{k: v}), IDS, st.sampled_from("uvw"), TEXT),
        st.builds(closed, IDS),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(EVENTS)
def test_state_is_that_of_a_plain_model(events: list[Message]) -> None:
    kept, model = Comms(), dict[str, Any]()
    for event in events:
        kept.on_message(event, Publication())
        comm_id, state = event.content["comm_id"], event.content["data"].get("state", {})
        if event.msg_type == "comm_open":
            model.pop(comm_id, None)
            model[comm_id] = dict(state)
        elif event.msg_type == "comm_close":
            model.pop(comm_id, None)
        elif comm_id in model:
            model[comm_id].update(state)
    sync = kept.sync()
    assert {entry["comm_id"]: entry["state"] for entry in (sync or {"comms": []})["comms"]} == model
    assert (sync is None) == (not model) and len(kept) == len(model)
    assert kept.size >= len(json.dumps(list(model.values()), ensure_ascii=False).encode()) - 4
    for comm_id in list(model):
        kept.on_message(closed(comm_id), Publication())
    assert kept.size == 0


@pytest.mark.parametrize("limit", [0, 300, 700])
def test_the_bound_holds(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(comms, "STATE_LIMIT", limit)
    kept = Comms()
    for number in range(20):
        kept.on_message(opened(str(number), {"v": "x" * 20}), Publication())
        kept.on_message(updated("0", v="y" * number), Publication())
        assert kept.size <= limit
