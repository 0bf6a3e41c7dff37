"""Rules of the channels that are not rooms: pool, blobs, settings, pool state.

Storey: testing. Source: protocol 2, sections 4, 8 and 11.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import uuid

from runtimed_ffi.testing.conformance.rules import Skipped, World, expect, insert, rule
from runtimed_ffi.testing.replicas import announced_heads
from runtimed_ffi.testing.wire import encode, frame


@rule("4", "A pool connection answers any number of requests, in order")
def pool_in_order(world: World) -> None:
    link = world.pool()
    for kind in ("ping", "status", "list_rooms", "ping"):
        link.send_json({"type": kind})
    answers = [link.json()["type"] for _ in range(4)]
    expect(answers == ["pong", "stats", "rooms_list", "pong"], f"the answers were {answers}")


@rule("4", "A pool request that does not parse ends the connection without an answer")
def bad_pool_requests(world: World) -> None:
    for body in (
        b"",
        b"{",
        b'{"type":"restart"}',
        b'{"type":"take"}',
        b'{"action":"ping"}',
        b'{"type":"take","env_type":"UV"}',
    ):
        link = world.pool()
        link.send(frame(body))
        link.end(repr(body))
    world.alive()


@rule("4.2", "Unknown members of requests are ignored")
def unknown_members_of_pool_requests(world: World) -> None:
    expect(world.ask_pool({"type": "ping", "id": 9})["type"] == "pong", "ping is not answered by pong")


@rule("4.2", "status has four numbers, and an error only while a pool fails")
def status(world: World) -> None:
    stats = world.ask_pool({"type": "status"})["stats"]
    for name in ("uv_available", "uv_warming", "conda_available", "conda_warming"):
        expect(isinstance(stats[name], int) and stats[name] >= 0, f"{name} is {stats[name]!r}")
    for name in ("uv_error", "conda_error"):
        expect(name not in stats or "consecutive_failures" in stats[name], f"{name} is {stats.get(name)}")


@rule("4.2", "list_rooms counts the peers of a room, and names no kernel where none runs")
def list_rooms(world: World) -> None:
    one = world.peer()
    other = world.peer(one.notebook_id)
    rooms = {room["notebook_id"]: room for room in world.ask_pool({"type": "list_rooms"})["rooms"]}
    expect(one.notebook_id in rooms, "the room is not listed")
    room = rooms[one.notebook_id]
    expect(room["active_peers"] == 2, f"active_peers is {room['active_peers']}, not 2")
    expect(room["has_kernel"] is False, f"has_kernel is {room['has_kernel']}")
    expect(not {"kernel_type", "env_source", "kernel_status"} & set(room), f"a kernel is mentioned: {room}")
    other.close()


@rule("4.2", "inspect_notebook has the cells of a live room, counts and outputs as the document's strings")
def inspect_live_room(world: World) -> None:
    peer = world.peer()
    peer.edit(insert("c", "x = 1\n"), {"op": "set_execution_count", "cell_id": "c", "execution_count": 5})
    peer.edit(insert("d"), {"op": "append_outputs", "cell_id": "c", "outputs": ["{}"]})
    world.settle(peer)
    state = world.ask_pool({"type": "inspect_notebook", "notebook_id": peer.notebook_id})
    expect(state["type"] == "notebook_state" and state["notebook_id"] == peer.notebook_id, f"the answer was {state}")
    expect(state["source"] == "live_room" and state["kernel_info"] is None, f"the answer was {state}")
    first = {"id": "c", "cell_type": "code", "source": "x = 1\n", "execution_count": "5", "outputs": ["{}"]}
    expect(state["cells"][0] == first, f"the first cell was {state['cells'][0]}")
    expect(state["cells"][1]["execution_count"] == "null", f"no count was {state['cells'][1]['execution_count']!r}")


@rule("4.2", "inspect_notebook of an unknown notebook is an error that says so")
def inspect_unknown(world: World) -> None:
    answer = world.ask_pool({"type": "inspect_notebook", "notebook_id": world.room()})
    expect(answer["type"] == "error", f"the answer was {answer}")
    expect(
        answer["message"].startswith("Notebook not found: no active room and no persisted file at "), answer["message"]
    )


def _blob_port(world: World) -> int:
    link = world.link(frame(encode({"channel": "blob"})))
    link.send_json({"action": "get_port"})
    answer = link.json("the answer to get_port")
    if "error" in answer:
        raise Skipped(f"no blob server: {answer['error']}")
    port: int = answer["port"]
    expect(1 <= port <= 65535, f"the port is {port}")
    return port


def _store(world: World, data: bytes, media_type: str) -> str:
    link = world.link(frame(encode({"channel": "blob"})))
    link.send(frame(encode({"action": "store", "media_type": media_type})) + frame(data))
    answer = link.json("the answer to store")
    expect(answer.get("hash") == hashlib.sha256(data).hexdigest(), f"the answer to store was {answer}")
    name: str = answer["hash"]
    return name


@rule("8.6", "The blob channel stores the frame behind a store request and answers the SHA-256 of it")
def store_blob(world: World) -> None:
    for data in (b"", b'{"action":"get_port"}', os.urandom(100_000)):
        _store(world, data, "application/octet-stream")
        _store(world, data, "text/plain")


@rule("8.6", "A request of the blob channel that does not parse ends the connection without an answer")
def bad_blob_requests(world: World) -> None:
    for body in (b"{", b'{"action":"store"}', b'{"action":"nothing"}'):
        link = world.link(frame(encode({"channel": "blob"})))
        link.send(frame(body))
        link.end(repr(body))


def _get(world: World, path: str, method: str = "GET") -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", _blob_port(world), timeout=max(0.1, world.left()))
    world.at_end(connection.close)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, answer.read(), headers
    except http.client.HTTPException as problem:
        raise OSError(f"no HTTP: {problem!r}") from problem


@rule("8.5", "GET /blob/<hash> serves the bytes with their media type, to be kept for ever")
def blob_over_http(world: World) -> None:
    data = str(uuid.uuid4()).encode()
    code, body, headers = _get(world, f"/blob/{_store(world, data, 'text/x-conformance')}")
    expect(code == 200 and body == data, f"status {code} with {body[:80]!r}")
    expect(headers.get("content-type", "").partition(";")[0] == "text/x-conformance", f"headers were {headers}")
    expect("immutable" in headers.get("cache-control", ""), f"headers were {headers}")


@rule("8.5", "An unknown or malformed hash, and any other path, is 404; another method 405")
def blob_not_found(world: World) -> None:
    for path in (f"/blob/{'0' * 64}", "/blob/x", "/blob/../daemon.json", "/", "/blob/"):
        code, _, _ = _get(world, path)
        expect(code == 404, f"{path}: status {code}")
    code, _, _ = _get(world, f"/blob/{'0' * 64}", "POST")
    expect(code == 405, f"POST: status {code}")


@rule("14.2", "/blobs/<hash> is served as well, because the reference's client asks for it", must=False)
def blobs_route(world: World) -> None:
    data = str(uuid.uuid4()).encode()
    code, body, _ = _get(world, f"/blobs/{_store(world, data, 'text/plain')}")
    expect(code == 200 and body == data, f"status {code}")


@rule("11.1", "On the settings channel the daemon speaks first, in raw sync frames")
def settings_speak_first(world: World) -> None:
    first = world.link(frame(encode({"channel": "settings_sync"}))).frame("the first sync message")
    expect(first[:1] in (b"\x42", b"\x43"), f"the first frame begins with {first[:1]!r}")
    announced_heads(first)


@rule("11.2", "A subscriber of the pool state gets the present one at once, with both members")
def pool_state(world: World) -> None:
    state = world.link(frame(encode({"channel": "pool_state_subscribe"}))).json("the pool state")
    expect(state["event"] == "pool_state", f"the event was {state}")
    for name in ("uv_error", "conda_error"):
        expect(name in state, f"{name} is missing")
        expect(state[name] is None or "retry_in_secs" in state[name], f"{name} is {state[name]}")
