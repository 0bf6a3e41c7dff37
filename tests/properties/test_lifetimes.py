"""Every handle of the C ABI in any legal order: make, use, close, wake, free, on two threads.

Legal is what the header allows: any function of a live handle from any thread, one consumer of a queue at a time, free
as the last call. So a session may outlive its host, a copy of a document the room it is of, and a room its peers. Each
result must be one that the header names for the function; a crash or a wait that does not end is the failure.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from properties.documented import CODES, call
from properties.handles import LIMIT
from runtimed_ffi._binding.events import decode_event, new_event
from runtimed_ffi._binding.ffi import bytes_in, ffi, lib, new_buffer, take_buf, text_in
from runtimed_ffi.testing.profiles import profile
from runtimed_ffi.testing.replicas import Replica, SyncState
from runtimed_ffi.testing.wire import encode, frame

ROOM, NOTHING = text_in("room"), (ffi.NULL, 0)
_OPS = encode([{"op": "insert_cell", "cell_id": "x", "cell_type": "code", "source": "é"}])
_BROADCASTS = encode([{"event": "queue_changed", "executing": None, "queued": []}])
_REQUEST = encode({"action": "get_queue_state"})
_STATE = encode({"uv_error": None, "conda_error": None})
_OUTPUT = encode({"output_type": "stream", "name": "stdout", "text": "x" * 9000})
_message = SyncState().generate(Replica("room"))
assert _message is not None
MESSAGE: bytes = _message
tokens = itertools.count(1)


@ffi.callback("void(void *, const rtd_event *)")
def _on_event(_: Any, event: Any) -> None:
    decode_event(event)


def _filled(name: str, *arguments: Any) -> int:
    """A call whose last argument is a buffer; what is in it is read to the last byte."""
    out = new_buffer()
    code = call(name, *arguments, out)
    take_buf(out)
    return code


Use = Callable[[Any], int]


def _next(queue: Any) -> int:
    event = new_event()
    code = call("rtd_queue_next", queue, event)
    if code == lib.RTD_OK:
        decode_event(event)
    return code


QUEUE: dict[str, Use] = {
    "next": _next,
    "dispatch": lambda q: call("rtd_queue_dispatch", q, _on_event, ffi.NULL, 3, ffi.new("size_t *")),
    "wait": lambda q: call("rtd_queue_wait", q, 3),
    "wake": lambda q: call("rtd_queue_wake", q),
    "clear wakeup": lambda q: call("rtd_queue_set_wakeup", q, ffi.NULL, ffi.NULL, ffi.NULL),
}
DOC: dict[str, Use] = {
    "cells": lambda d: _filled("rtd_doc_cells", d),
    "cell": lambda d: _filled("rtd_doc_cell", d, *text_in("x")),
    "metadata": lambda d: _filled("rtd_doc_metadata", d),
    "heads": lambda d: _filled("rtd_doc_heads", d),
    "save": lambda d: _filled("rtd_doc_save", d),
    "save_since": lambda d: _filled("rtd_doc_save_since", d, *NOTHING),
    "contains": lambda d: call("rtd_doc_contains", d, *bytes_in(bytes(32)), ffi.new("int32_t *")),
    "create_cell": lambda d: _filled("rtd_doc_create_cell", d, *text_in("code"), *text_in("1"), -1),
    "set_source": lambda d: call("rtd_doc_set_source", d, *text_in("x"), *text_in("é😀")),
    "delete_cell": lambda d: call("rtd_doc_delete_cell", d, *text_in("x")),
    "edit": lambda d: call("rtd_doc_edit", d, *bytes_in(_OPS)),
}


def _of(part: Callable[[Any], Any], uses: dict[str, Use]) -> dict[str, Use]:
    """Calls on a queue or document borrowed from a session or host."""
    return {name: lambda handle, use=use: use(part(handle)) for name, use in uses.items()}  # type: ignore[misc]


def _in_room(use: Use) -> Use:
    """A call of a room's document, through a handle that lives as long as the call."""

    def run(host: Any) -> int:
        out = ffi.new("rtd_doc **")
        code = call("rtd_host_doc", host, *ROOM, out)
        if code != lib.RTD_OK:
            assert out[0] == ffi.NULL
            return code
        try:
            return use(out[0])
        finally:
            lib.rtd_doc_free(out[0])

    return run


USES: dict[str, dict[str, Use]] = {
    "session": {
        **_of(lib.rtd_session_queue, QUEUE),
        **_of(lib.rtd_session_doc, DOC),
        "watch": lambda s: call("rtd_session_watch", s, 1),
        "request": lambda s: call("rtd_session_request", s, next(tokens), *bytes_in(_REQUEST), 5),
        "execute": lambda s: call("rtd_session_execute", s, next(tokens), *text_in("x"), -1),
        "sync": lambda s: call("rtd_session_sync", s, next(tokens), 5),
        "info": lambda s: _filled("rtd_session_info", s),
        "close": lambda s: call("rtd_session_close", s),
    },
    "host": {
        **_of(lib.rtd_host_queue, QUEUE),
        **{name: _in_room(use) for name, use in DOC.items()},
        "open_room": lambda h: call("rtd_host_open_room", h, *ROOM, *NOTHING),
        "prepare_room": lambda h: call("rtd_host_prepare_room", h, *ROOM, *NOTHING),
        "admit": lambda h: call("rtd_host_admit", h, *ROOM),
        "refuse_room": lambda h: call("rtd_host_refuse_room", h, *ROOM),
        "close_room": lambda h: call("rtd_host_close_room", h, *ROOM),
        "evict_room": lambda h: call("rtd_host_evict_room", h, *ROOM),
        "publish": lambda h: call("rtd_host_publish", h, *ROOM, *bytes_in(_OPS), *bytes_in(_BROADCASTS), 0),
        "send": lambda h: call("rtd_host_send", h, 1, *bytes_in(_BROADCASTS[1:-1])),
        "respond": lambda h: call("rtd_host_respond", h, 1, *bytes_in(b'{"result":"ok"}')),
        "announce": lambda h: call("rtd_host_announce_pool_state", h, *bytes_in(_STATE)),
        "disconnect": lambda h: call("rtd_host_disconnect", h, 1),
        "rooms": lambda h: _filled("rtd_host_rooms", h),
        "open_settings": lambda h: call("rtd_host_open_settings", h, *NOTHING),
        "settings": lambda h: _filled("rtd_host_settings", h),
        "change_settings": lambda h: call("rtd_host_change_settings", h, *bytes_in(b'{"theme":"dark"}')),
        "close": lambda h: call("rtd_host_close", h),
    },
    "doc": DOC,
    "sync": {},
    "conn": {
        "receive": lambda c: call("rtd_conn_receive", c, *bytes_in(frame(MESSAGE))),
        "eof": lambda c: call("rtd_conn_eof", c),
        "request": lambda c: call("rtd_conn_request", c, 1, *bytes_in(_REQUEST)),
        "join": lambda c: call("rtd_conn_join", c, *NOTHING),
        "broadcast": lambda c: call("rtd_conn_broadcast", c, *bytes_in(_BROADCASTS[1:-1])),
        "respond": lambda c: call("rtd_conn_respond", c, 1, *bytes_in(b"{}")),
    },
    "decoder": {
        "push": lambda d: call("rtd_decoder_push", d, *bytes_in(frame(b"x")[:3])),
        "next": lambda d: _filled("rtd_decoder_next", d),
        "finish": lambda d: call("rtd_decoder_finish", d),
    },
    "blobs": {
        "put": lambda b: _filled("rtd_blobs_put", b, *bytes_in(b"x"), *text_in("text/plain")),
        "get": lambda b: _filled("rtd_blobs_get", b, *text_in("a" * 64)),
        "store": lambda b: _filled("rtd_output_store", b, *bytes_in(_OUTPUT)),
        "resolve": lambda b: _filled("rtd_output_resolve", b, *bytes_in(b"a" * 64)),
    },
}
"""Calls that need one handle."""

WITH_DOC: dict[str, dict[str, Callable[[Any, Any], int]]] = {
    "sync": {
        "generate": lambda s, d: _filled("rtd_sync_generate", s, d),
        "receive": lambda s, d: call("rtd_sync_receive", s, d, *bytes_in(MESSAGE)),
        "converged": lambda s, d: call("rtd_sync_converged", s, d, ffi.new("int32_t *")),
    },
    "conn": {
        "next_event": lambda c, d: call("rtd_conn_next_event", c, d, 0, new_event()),
        "output": lambda c, d: _filled("rtd_conn_output", c, d, 1, 0),
    },
    "doc": {"merge": lambda one, other: call("rtd_doc_merge", one, other)},
    "session": {"merge": lambda s, d: call("rtd_doc_merge", lib.rtd_session_doc(s), d)},
    "host": {"merge": lambda h, d: _in_room(lambda room: call("rtd_doc_merge", room, d))(h)},
}
"""Calls that need a document as well."""

CONSUMERS = {"next", "next_event", "dispatch"}
KINDS = sorted(USES)
FREE = {kind: getattr(lib, f"rtd_{kind}_free") for kind in KINDS}


@dataclass
class Handle:
    kind: str
    pointer: Any
    waiting: Future[int] | None = field(default=None)
    """A wait without limit on the other thread."""


def queue_of(handle: Handle) -> Any:
    return getattr(lib, f"rtd_{handle.kind}_queue")(handle.pointer)


class Lives(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="rtd-")
        self.handles: list[Handle] = []
        self.sockets: dict[int, str] = {}
        self.names = itertools.count()
        self.other = ThreadPoolExecutor(1)
        self.waiter = ThreadPoolExecutor(1)
        self.path = os.path.join(self.directory.name, "none")

    def pick(self, which: int) -> Handle:
        return self.handles[which % len(self.handles)]

    def document(self, which: int) -> Any:
        documents = [handle.pointer for handle in self.handles if handle.kind == "doc"]
        return documents[which % len(documents)] if documents else ffi.NULL

    @rule(kind=st.sampled_from([*KINDS, "session", "host", "session", "doc"]))
    def make(self, kind: str) -> None:
        """Make a handle; a session of the newest host."""
        if kind == "session":
            out = ffi.new("rtd_session **")
            if call("rtd_session_open", *text_in(self.path), *ROOM, ffi.NULL, out) != lib.RTD_OK:
                # No socket listens. A session is made anyway: drawn values must not depend on the host's speed.
                assert out[0] == ffi.NULL
                kind, pointer = "decoder", self._made("rtd_decoder", "rtd_decoder_new", 10)
            else:
                pointer = out[0]
        elif kind == "host":
            self.path = os.path.join(self.directory.name, str(next(self.names)))
            pointer = self._made("rtd_host", "rtd_host_open", *text_in(self.path), ffi.NULL)
        elif kind == "doc":
            hosts = [handle.pointer for handle in self.handles if handle.kind == "host"]
            if hosts and len(self.handles) % 2:  # of a room; it may outlive the host
                pointer = self._made("rtd_doc", "rtd_host_doc", hosts[-1], *ROOM)
            else:
                pointer = self._made("rtd_doc", "rtd_doc_create", *ROOM)
        elif kind == "blobs":
            pointer = self._made("rtd_blobs", "rtd_blobs_open", *text_in(os.path.join(self.directory.name, "b")))
        elif kind == "conn":
            pointer = self._made("rtd_conn", "rtd_conn_client", *ROOM)
        elif kind == "decoder":
            pointer = self._made("rtd_decoder", "rtd_decoder_new", 10)
        else:
            pointer = self._made("rtd_sync", "rtd_sync_new")
        self.handles.append(Handle(kind, pointer))

    def _made(self, kind: str, name: str, *arguments: Any) -> Any:
        out = ffi.new(f"{kind} **")
        assert call(name, *arguments, out) == lib.RTD_OK
        return out[0]

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 99), use=st.integers(0, 99), document=st.integers(0, 9))
    def use(self, which: int, use: int, document: int) -> None:
        handle = self.pick(which)
        self._use(handle, use, document, set())

    def _use(self, handle: Handle, use: int, document: int, but: set[str]) -> int:
        uses: dict[str, Use] = {name: one for name, one in USES[handle.kind].items() if name not in but}
        for name, two in WITH_DOC.get(handle.kind, {}).items():
            uses[name] = lambda pointer, two=two: two(pointer, self.document(document))  # type: ignore[misc]
        return uses[sorted(uses)[use % len(uses)]](handle.pointer)

    @precondition(lambda self: self.handles)
    @rule(
        which=st.integers(0, 99), uses=st.lists(st.integers(0, 99), min_size=2, max_size=8), document=st.integers(0, 9)
    )
    def use_on_two_threads(self, which: int, uses: list[int], document: int) -> None:
        """The events are taken on one of them."""
        handle = self.pick(which)

        def here(some: list[int], but: set[str]) -> None:
            for use in some:
                self._use(handle, use, document, but)

        there = self.other.submit(here, uses[1::2], CONSUMERS)
        here(uses[::2], set())
        there.result(LIMIT)

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 99))
    def wait_on_another_thread(self, which: int) -> None:
        handle = self.pick(which)
        busy = any(each.waiting is not None for each in self.handles)
        if handle.kind in ("session", "host") and not busy:
            handle.waiting = self.waiter.submit(call, "rtd_queue_wait", queue_of(handle), -1)

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 99), how=st.sampled_from(["wake", "close"]))
    def end_the_wait(self, which: int, how: str) -> None:
        for handle in self.handles:
            if handle.waiting is not None:
                ended = (
                    call("rtd_queue_wake", queue_of(handle))
                    if how == "wake"
                    else USES[handle.kind]["close"](handle.pointer)
                )
                assert ended == lib.RTD_OK
                self._await(handle)

    def _await(self, handle: Handle) -> None:
        assert handle.waiting is not None
        assert handle.waiting.result(LIMIT) in (lib.RTD_OK, lib.RTD_E_AGAIN, lib.RTD_E_CLOSED)
        handle.waiting = None

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 99), elsewhere=st.booleans())
    def free(self, which: int, elsewhere: bool) -> None:
        handle = self.handles.pop(which % len(self.handles))
        if handle.waiting is not None:
            # A wait under way is a call under way: it has to end first.
            assert call("rtd_queue_wake", queue_of(handle)) == lib.RTD_OK
            self._await(handle)
        if elsewhere:
            self.other.submit(FREE[handle.kind], handle.pointer).result(LIMIT)
        else:
            FREE[handle.kind](handle.pointer)

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 99))
    def copy_a_document(self, which: int) -> None:
        """The copy needs neither the document nor its session or host."""
        handle = self.pick(which)
        if handle.kind not in ("doc", "session"):
            return
        document = handle.pointer if handle.kind == "doc" else lib.rtd_session_doc(handle.pointer)
        out = ffi.new("rtd_doc **")
        if call("rtd_doc_fork", document, *NOTHING, out) == lib.RTD_OK:
            self.handles.append(Handle("doc", out[0]))
        else:
            assert out[0] == ffi.NULL

    @rule(kind=st.sampled_from(KINDS))
    def free_nothing(self, kind: str) -> None:
        FREE[kind](ffi.NULL)

    @invariant()
    def descriptors_tell_of_events(self) -> None:
        for handle in self.handles:
            if handle.kind in ("session", "host"):
                assert lib.rtd_queue_fd(queue_of(handle)) >= 0

    def teardown(self) -> None:
        try:
            while self.handles:
                self.free(len(self.handles) * 7 + 3, False)
        finally:
            self.other.shutdown()
            self.waiter.shutdown()
            self.directory.cleanup()


@pytest.mark.timeout(900)
def test_handles_in_any_order_on_two_threads() -> None:
    run_state_machine_as_test(Lives, settings=profile())


def _uses() -> Iterator[tuple[str, Use]]:
    for kind, uses in USES.items():
        for name, use in uses.items():
            yield f"{kind} {name}", use


@pytest.mark.parametrize(("name", "use"), list(_uses()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_handle_that_is_null_is_an_error(name: str, use: Use) -> None:
    assert use(ffi.NULL) == (lib.RTD_E_NOT_FOUND if name == "blobs resolve" else lib.RTD_E_NULL)


def test_every_function_with_a_result_is_used_somewhere_here() -> None:
    """Each function of the ABI is used by the state machine, or named here with its test."""
    elsewhere = {
        *("rtd_last_error", "rtd_frame_encode", "rtd_message_check"),  # test_frames, test_messages
        *(f"rtd_doc_{name}" for name in ("new", "load")),  # test_documents
        "rtd_conn_server",  # test_connections
    }
    used = Path(__file__).read_text(encoding="utf-8").partition("elsewhere = {")[0]
    assert {name for name in CODES if f'"{name}"' not in used} == elsewhere
