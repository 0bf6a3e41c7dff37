"""Sessions of the C ABI with nothing between: every result is checked against the header."""

from __future__ import annotations

import json
import select
import time
from typing import Any

from properties.documented import call
from runtimed_ffi._binding.events import Event, decode_event, new_event
from runtimed_ffi._binding.ffi import bytes_in, ffi, lib, new_buffer, take_buf, text_in
from runtimed_ffi.testing.wire import Json, encode

LIMIT = 60.0
"""Seconds until a wait for something that must come is a failure."""


def open_session(path: str, notebook_id: str, queue_limit: int | None = None) -> Any:
    options = ffi.new("rtd_session_options *")
    lib.rtd_session_options_init(options, ffi.sizeof("rtd_session_options"))
    options.connect_timeout_ms = -1
    if queue_limit is not None:
        options.queue_limit = queue_limit
    out = ffi.new("rtd_session **")
    code = call("rtd_session_open", *text_in(path), *text_in(notebook_id), options, out)
    assert code == lib.RTD_OK, code
    return out[0]


class Session:
    """One session whose events are judged as they are taken: numbers without a gap, one end for each token."""

    def __init__(self, path: str, notebook_id: str, queue_limit: int | None = None) -> None:
        self.handle = open_session(path, notebook_id, queue_limit)
        self.queue = lib.rtd_session_queue(self.handle)
        self.queue_limit = 67_108_864 if queue_limit is None else queue_limit
        self.seq = 0
        self.events: list[Event] = []
        self.open: dict[int, str] = {}
        """Tokens that have not ended, with the call of each."""
        self.ends: dict[int, Event] = {}
        self.ready = False
        self.closed = False
        """The last event was taken."""
        self.freed = False

    def free(self) -> None:
        if not self.freed:
            self.freed = True
            lib.rtd_session_free(self.handle)

    def fileno(self) -> int:
        return int(lib.rtd_queue_fd(self.queue))

    def take(self, count: int = 1_000_000) -> None:
        event = new_event()
        for _ in range(count):
            code = call("rtd_queue_next", self.queue, event)
            assert (code == lib.RTD_E_CLOSED) == self.closed
            if code != lib.RTD_OK:
                return
            self._judge(decode_event(event))

    def _judge(self, event: Event) -> None:
        assert event.seq == self.seq + 1, f"a gap behind {self.seq}: {event}"
        self.seq = event.seq
        self.events.append(event)
        assert event.token not in self.ends, f"behind the end {self.ends[event.token]}: {event}"
        kind = event.kind
        if kind in (lib.RTD_EV_RESPONSE, lib.RTD_EV_DONE, lib.RTD_EV_SYNCED):
            wanted = {"request": lib.RTD_EV_RESPONSE, "execute": lib.RTD_EV_DONE, "sync": lib.RTD_EV_SYNCED}
            assert wanted[self.open.pop(event.token)] == kind
            self.ends[event.token] = event
        elif event.token:
            assert self.open[event.token] == "execute"
        if kind == lib.RTD_EV_READY:
            assert not self.ready
            self.ready = True
        if kind == lib.RTD_EV_CLOSED:
            assert not self.open, f"closed with {self.open} without an end"
            self.closed = True

    def begin(self, what: str, token: int, code: int) -> bool:
        """Note a call that has a token, if the library took it."""
        if code == lib.RTD_OK:
            self.open[token] = what
        else:
            assert code in (lib.RTD_E_STATE, lib.RTD_E_CLOSED, lib.RTD_E_AGAIN)
        return code == lib.RTD_OK

    def request(self, token: int, message: Json, timeout_ms: int = -1) -> bool:
        code = call("rtd_session_request", self.handle, token, *bytes_in(encode(message)), timeout_ms)
        return self.begin("request", token, code)

    def execute(self, token: int, cell_id: str, timeout_ms: int = -1) -> bool:
        return self.begin(
            "execute", token, call("rtd_session_execute", self.handle, token, *text_in(cell_id), timeout_ms)
        )

    def sync(self, token: int) -> bool:
        return self.begin("sync", token, call("rtd_session_sync", self.handle, token, -1))

    def edit(self, *ops: Json) -> int:
        return call("rtd_doc_edit", lib.rtd_session_doc(self.handle), *bytes_in(encode(ops)))

    def close(self) -> None:
        assert call("rtd_session_close", self.handle) == lib.RTD_OK

    def cells(self) -> list[Json] | None:
        out = new_buffer()
        code = call("rtd_doc_cells", lib.rtd_session_doc(self.handle), out)
        return json.loads(take_buf(out)) if code == lib.RTD_OK else None

    def info(self) -> Json:
        out = new_buffer()
        assert call("rtd_session_info", self.handle, out) == lib.RTD_OK
        info: Json = json.loads(take_buf(out))
        return info


def wait(sources: list[Any], deadline: float) -> None:
    """Until one of these has something, or the deadline has passed, which is a failure."""
    left = deadline - time.monotonic()
    assert left > 0, "not within the limit"
    select.select(sources, [], [], left)
