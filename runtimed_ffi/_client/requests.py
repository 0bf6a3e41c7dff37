"""The requests of a session: their texts, limits, and what their responses mean. No I/O.

Storey 6 (client). Source: protocol 2, sections 5.5 and 5.6; python-api, section 1.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Generic, NamedTuple, TypeVar

from runtimed_ffi import errors
from runtimed_ffi._binding.events import Event, EventKind
from runtimed_ffi._binding.ffi import IO, OK, PROTOCOL, TIMEOUT, error

REQUEST_SECONDS = 30.0
"""Limit for the answer to a request."""
LAUNCH_SECONDS = 600.0
"""Limit for the start of a kernel; building an environment takes minutes."""

Response = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Ask(Generic[T]):
    """A request and the reading of its response."""

    message: dict[str, Any]
    read: Callable[[Response], T]
    """What the response says. Raises the exception for a refusal."""
    seconds: float = REQUEST_SECONDS
    """Limit for the response."""


class Kernel(NamedTuple):
    """The kernel a session works with."""

    env_source: str
    launched: bool
    """True when this session launched it, false when it joined the one that ran."""


def launch_kernel(kernel_type: str, env_source: str) -> Ask[Kernel]:
    """Launch the room's kernel, or join the one that runs."""

    def read(response: Response) -> Kernel:
        result, source = response.get("result"), str(response.get("env_source"))
        if result == "kernel_launched":
            return Kernel(source, True)
        if result != "kernel_already_running":
            raise _unexpected(response, errors.LaunchFailedError)
        running = response.get("kernel_type")
        if running != kernel_type:
            raise errors.KernelMismatchError(
                f"Kernel type mismatch: requested '{kernel_type}' but '{running}' is already running"
            )
        return Kernel(source, False)

    message = {
        "action": "launch_kernel",
        "kernel_type": kernel_type,
        "env_source": env_source,
        "notebook_path": None,
    }
    return Ask(message, read, LAUNCH_SECONDS)


def _interrupted(response: Response) -> None:
    if response.get("result") == "no_kernel":
        raise errors.NoKernelError("No kernel running")
    _expect(response, "interrupt_sent")


def _shut_down(response: Response) -> None:
    if response.get("result") != "no_kernel":
        _expect(response, "kernel_shutting_down")


def _kernel_info(response: Response) -> dict[str, Any]:
    _expect(response, "kernel_info")
    return {key: response.get(key) for key in ("kernel_type", "env_source", "status")}


def _queue_state(response: Response) -> dict[str, Any]:
    _expect(response, "queue_state")
    return {"executing": response.get("executing"), "queued": list(response.get("queued") or ())}


def _saved(response: Response) -> None:
    _expect(response, "notebook_saved")


def _queued(response: Response) -> int:
    return int(_expect(response, "all_cells_queued").get("count") or 0)


def connect_error(event: Event) -> errors.RuntimedError:
    """The exception for a connection whose first event is its last one."""
    if event.code == TIMEOUT:
        return errors.TimeoutError_("Connection timeout")
    if event.code == IO:
        return errors.ConnectError(f"Failed to connect: {event.text}")
    if event.code == PROTOCOL:
        return errors.ProtocolError(f"Sync protocol error: {event.text}")
    return errors.DisconnectedError("Disconnected")


def request_error(event: Event) -> errors.RuntimedError | None:
    """The exception for the event that ended a request, if it says that there is no response."""
    if event.kind == EventKind.CLOSED:
        return errors.DisconnectedError("Disconnected")
    if event.code == OK:
        return None
    if event.code == TIMEOUT:
        return errors.TimeoutError_("Connection timeout")
    if event.code == PROTOCOL:
        return errors.ProtocolError(f"Sync protocol error: {event.text}")
    known = error(event.code, event.text)
    return errors.DisconnectedError("Disconnected") if isinstance(known, errors.DisconnectedError) else known


def response_of(event: Event) -> Response:
    """The response that an event carries. Raises `ProtocolError` when it is no object."""
    response = event.json()
    if not isinstance(response, dict):
        raise errors.ProtocolError("Sync protocol error: the response is not an object")
    return response


INTERRUPT = Ask({"action": "interrupt_execution"}, _interrupted)
SHUTDOWN_KERNEL = Ask({"action": "shutdown_kernel"}, _shut_down)
KERNEL_INFO = Ask({"action": "get_kernel_info"}, _kernel_info)
QUEUE_STATE = Ask({"action": "get_queue_state"}, _queue_state)
SAVE = Ask({"action": "save_notebook", "format_cells": False}, _saved)
RUN_ALL = Ask({"action": "run_all_cells"}, _queued)


def _expect(response: Response, result: str) -> Response:
    if response.get("result") != result:
        raise _unexpected(response, errors.DaemonError)
    return response


def _unexpected(response: Response, kind: Callable[[str], errors.RuntimedError]) -> errors.RuntimedError:
    if response.get("result") == "error":
        return kind(str(response.get("error")))
    if response.get("result") == "no_kernel":
        return errors.NoKernelError("Unexpected response: NoKernel")
    return errors.DaemonError(f"Unexpected response: {response}")
