"""The JSON messages of protocol 2: as they are written, as they may be written, and as they must not.

Storey: testing. Source: protocol 2, sections 3 (handshakes), 4 (pool), 5.6 to 5.8 (notebook), 8.6 (blob), 11.2.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from runtimed_ffi.testing._hypothesis import strategies as st
from runtimed_ffi.testing.strategies.text import json_value, text
from runtimed_ffi.testing.wire import Json, encode

_Members = dict[str, st.SearchStrategy[Any]]

_text, _value = text(4), json_value()
_maybe = st.one_of(st.none(), _text)
_u64 = st.one_of(st.integers(0, 100), st.integers(0, 2**64 - 1))
_i64 = st.one_of(st.integers(-100, 100), st.integers(-(2**63), 2**63 - 1))
_buffers = st.lists(st.lists(st.integers(0, 255), max_size=4), max_size=2)


def _object(members: _Members, optional: _Members | None = None, order: str = "") -> st.SearchStrategy[Json]:
    """An object with members in this order; `optional` ones may be absent.

    `order` names them all where optional ones do not stand at the end.
    """
    names = order.split() if order else [*members, *(optional or {})]
    whole = st.fixed_dictionaries(members, optional=optional or {})
    return whole.map(lambda value: {name: value[name] for name in names if name in value})


_env = _object({"env_type": st.sampled_from(["uv", "conda"]), "venv_path": _text, "python_path": _text})
_pool_error = _object(
    {"message": _text, "consecutive_failures": st.integers(0, 2**32 - 1), "retry_in_secs": _u64},
    {"failed_package": _text},
    order="message failed_package consecutive_failures retry_in_secs",
)
_stats = _object(
    {"uv_available": _u64, "uv_warming": _u64, "conda_available": _u64, "conda_warming": _u64},
    {"uv_error": _pool_error, "conda_error": _pool_error},
)
_room = _object(
    {"notebook_id": _text, "active_peers": _u64, "has_kernel": st.booleans()},
    {"kernel_type": _text, "env_source": _text, "kernel_status": _text},
)
_cell = _object(
    {
        "id": _text,
        "cell_type": _text,
        "source": _text,
        "execution_count": _text,
        "outputs": st.lists(_text, max_size=2),
    }
)
_kernel = _object({"kernel_type": _text, "env_source": _text, "status": _text})
_item = _object({"label": _text, "source": _text}, {"kind": _text, "detail": _text}, order="label kind detail source")
_comm = _object(
    {"comm_id": _text, "target_name": _text, "state": _value},
    {
        "model_module": _text,
        "model_name": _text,
        "buffers": st.lists(st.lists(st.integers(0, 255), max_size=4), min_size=1, max_size=2),
    },
)
_launched: _Members = {"kernel_type": _text, "env_source": _text}

_TABLE: dict[str, tuple[str, dict[str, _Members]]] = {
    "handshake": (
        "channel",
        {
            "pool": {},
            "settings_sync": {},
            "notebook_sync": {"notebook_id": _text, "protocol": st.one_of(st.just("v2"), _text)},
            "blob": {},
            "pool_state_subscribe": {},
        },
    ),
    "capabilities": ("", {"": {"protocol": st.one_of(st.just("v2"), _text)}}),
    "request": (
        "action",
        {
            "launch_kernel": {**_launched, "notebook_path": _maybe},
            "queue_cell": {"cell_id": _text, "code": _text},
            "execute_cell": {"cell_id": _text},
            "clear_outputs": {"cell_id": _text},
            "interrupt_execution": {},
            "shutdown_kernel": {},
            "get_kernel_info": {},
            "get_queue_state": {},
            "run_all_cells": {},
            "send_comm": {"message": _value},
            "get_history": {"pattern": _maybe, "n": st.integers(-(2**31), 2**31 - 1), "unique": st.booleans()},
            "complete": {"code": _text, "cursor_pos": _u64},
            "save_notebook": {"format_cells": st.booleans()},
        },
    ),
    "response": (
        "result",
        {
            "kernel_launched": _launched,
            "kernel_already_running": _launched,
            "cell_queued": {"cell_id": _text},
            "outputs_cleared": {"cell_id": _text},
            "interrupt_sent": {},
            "kernel_shutting_down": {},
            "no_kernel": {},
            "kernel_info": {"kernel_type": _maybe, "env_source": _maybe, "status": _text},
            "queue_state": {"executing": _maybe, "queued": st.lists(_text, max_size=3)},
            "all_cells_queued": {"count": _u64},
            "notebook_saved": {},
            "ok": {},
            "error": {"error": _text},
            "history_result": {
                "entries": st.lists(_object({"session": _i64, "line": _i64, "source": _text}), max_size=2)
            },
            "completion_result": {"items": st.lists(_item, max_size=2), "cursor_start": _u64, "cursor_end": _u64},
        },
    ),
    "broadcast": (
        "event",
        {
            "kernel_status": {"status": _text, "cell_id": _maybe},
            "execution_started": {"cell_id": _text, "execution_count": _i64},
            "output": {"cell_id": _text, "output_type": _text, "output_json": _text},
            "display_update": {"display_id": _text, "data": _value, "metadata": _value},
            "execution_done": {"cell_id": _text},
            "queue_changed": {"executing": _maybe, "queued": st.lists(_text, max_size=3)},
            "kernel_error": {"error": _text},
            "outputs_cleared": {"cell_id": _text},
            "comm": {"msg_type": _text, "content": _value, "buffers": _buffers},
            "comm_sync": {"comms": st.lists(_comm, max_size=2)},
        },
    ),
    "pool_request": (
        "type",
        {
            "ping": {},
            "status": {},
            "take": {"env_type": st.sampled_from(["uv", "conda"])},
            "return": {"env": _env},
            "flush_pool": {},
            "list_rooms": {},
            "inspect_notebook": {"notebook_id": _text},
            "shutdown": {},
        },
    ),
    "pool_response": (
        "type",
        {
            "pong": {},
            "stats": {"stats": _stats},
            "env": {"env": _env},
            "empty": {},
            "returned": {},
            "flushed": {},
            "shutting_down": {},
            "rooms_list": {"rooms": st.lists(_room, max_size=2)},
            "notebook_state": {
                "notebook_id": _text,
                "cells": st.lists(_cell, max_size=2),
                "source": st.sampled_from(["live_room", "persisted_file"]),
                "kernel_info": st.one_of(st.none(), _kernel),
            },
            "error": {"message": _text},
        },
    ),
    "blob_request": ("action", {"store": {"media_type": _text}, "get_port": {}}),
    "blob_response": (
        "",
        {"hash": {"hash": _text}, "port": {"port": st.integers(1, 65535)}, "error": {"error": _text}},
    ),
    "pool_state": (
        "event",
        {
            "pool_state": {
                "uv_error": st.one_of(st.none(), _pool_error),
                "conda_error": st.one_of(st.none(), _pool_error),
            }
        },
    ),
}

KINDS = tuple(_TABLE)
"""The kinds of messages, in the order of the library's ``rtd_message``."""

_NULLABLE = {"notebook_path", "pattern", "cell_id", "kernel_type", "env_source", "executing", "kernel_info", "protocol"}
_NULLABLE |= {"uv_error", "conda_error"}
_ANY = {"message", "data", "metadata", "content"}
"""Members that may be any JSON value somewhere."""


@dataclass(frozen=True)
class Sloppy:
    """A message that every reader must accept although no correct writer makes it."""

    sent: bytes
    meaning: Json
    """Its meaning: the defined members in the order of the specification, then the unknown ones in the order sent."""


@st.composite
def message(draw: st.DrawFn, kind: str, variant: str | None = None) -> Json:
    """A message with its defined members in the order of the specification.

    Args:
        draw: given by Hypothesis.
        kind: one of `KINDS`.
        variant: the value of the member that names the variant; any if `None`.
    """
    tag, variants = _TABLE[kind]
    chosen = variant if variant is not None else draw(st.sampled_from(sorted(variants)))
    head: Json = {tag: chosen} if tag else {}
    return {**head, **{name: draw(value) for name, value in variants[chosen].items()}}


@st.composite
def sloppy_message(draw: st.DrawFn, kind: str) -> Sloppy:
    """A message with members in any order, unknown ones among them, white space and escapes (sections 3 and 14.4)."""
    meaning = draw(message(kind))
    unknown = draw(st.dictionaries(text(3).map("x-{}".format), json_value(), max_size=2))
    mixed = draw(st.permutations([*meaning.items(), *unknown.items()]))
    indent: Any = draw(st.sampled_from([None, 1, "\t"]))
    sent = json.dumps(dict(mixed), ensure_ascii=draw(st.booleans()), indent=indent)
    behind = {name: value for name, value in mixed if name in unknown}
    return Sloppy(sent.encode(), {**meaning, **behind})


@st.composite
def broken_message(draw: st.DrawFn, kind: str) -> bytes:
    """Bytes that every reader must refuse as a message of this kind (section 3: strict JSON, no duplicates).

    The array form of the reference is not among them: readers may take it or not.
    """
    tag, _ = _TABLE[kind]
    good = draw(message(kind))
    sent = encode(good)
    needed = [name for name in good if name not in _NULLABLE and not (kind == "broadcast" and name == "buffers")]
    typed = [name for name in needed if name not in _ANY]
    ways = ["cut", "behind", "bom", "bytes", "surrogate", "twice"]
    ways += ["tag"] * bool(tag) + ["missing"] * bool(needed) + ["mistyped"] * bool(typed)
    way = draw(st.sampled_from(ways))
    if way == "cut":
        return sent[: draw(st.integers(0, len(sent) - 1))]
    if way == "behind":
        return sent + draw(st.sampled_from([b"x", b"{}", b"\0", b","]))
    if way == "bom":
        return b"\xef\xbb\xbf" + sent
    if way == "bytes":
        return sent[:-1] + b',"x":"\xff"}'
    if way == "surrogate":
        return sent[:-1] + b',"x":"\\ud83d"}'
    if way == "twice":
        name = draw(st.sampled_from(sorted(good)))
        return sent[:-1] + b"," + encode(name) + b":" + encode(good[name]) + b"}"
    if way == "tag":
        wrong = draw(st.sampled_from(["", "restart", str(good[tag]).upper(), None, 7, [good[tag]]]))
        return encode({**good, tag: wrong})
    if way == "missing":
        gone = draw(st.sampled_from(needed))
        return encode({name: value for name, value in good.items() if name != gone})
    name = draw(st.sampled_from(typed))
    return encode({**good, name: {"": 0}})
