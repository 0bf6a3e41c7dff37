"""A room for tests: a recording host, a scripted kernel, timers that a test lets expire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any, Callable

from daemon.fakes import (
    FakeBlobs,
    FakeHost,
    KernelFactory,
    ScriptedKernel,
    busy,
    idle,
    reply,
    started,
)
from runtimed_ffi.daemon.channels.settings import Values
from runtimed_ffi.daemon.environments.plans import LaunchRequest, automatic
from runtimed_ffi.daemon.ports import Message
from runtimed_ffi.daemon.rooms.requests import NotebookRequests
from runtimed_ffi.daemon.rooms.rooms import Rooms

LAUNCH = {"action": "launch_kernel", "kernel_type": "python", "env_source": "uv:prewarmed", "notebook_path": None}


def by_default(notebook_id: str) -> LaunchRequest | None:
    return automatic(notebook_id, Values(), "/nonexistent")


class Stage:
    """One room ``nb`` with cells ``a`` to ``e`` (code) and ``md``; peers 1 and 2."""

    def __init__(self, eviction_delay: float | None = None) -> None:
        self.host = FakeHost()
        self.blobs = FakeBlobs()
        self.factory = KernelFactory()
        self.rooms = Rooms(self.host, self.blobs, self.factory, None, eviction_delay)
        self.requests = NotebookRequests(self.host, self.rooms)
        self.rooms.wanted("nb")
        self.rooms.joined("nb", 1, 1)
        self.rooms.joined("nb", 2, 2)
        for name in "abcde":
            self.host.add_cell("nb", name, f"code {name}")
        self.host.add_cell("nb", "md", "# text", "markdown")
        self._token = 0

    @property
    def kernel(self) -> ScriptedKernel:
        return self.factory.kernels[-1]

    def ask(self, action: str, peer: int = 1, **members: Any) -> int:
        self._token += 1
        payload = json.dumps({"action": action, **members}).encode()
        self.requests.handle("nb", self._token, peer, payload)
        return self._token

    def execute(self, *cells: str, peer: int = 1) -> None:
        for cell in cells:
            self.ask("execute_cell", peer, cell_id=cell)

    async def launch(self) -> None:
        self.ask(**LAUNCH)
        await until(lambda: bool(self.factory.kernels))
        await turn()
        self.host.log.clear()

    def play(self, number: int, *middle: Message, status: str = "ok", **content: Any) -> None:
        """A whole execution in one batch."""
        m = f"m{number}"
        self.kernel.say(busy(m), started(m, number), *middle, idle(m), reply(m, status, **content))


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen")


async def settled() -> None:
    """Wait until no task is running."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:  # type: ignore[arg-type]
        _, open_ones = await asyncio.wait(others, timeout=60.0)
        assert not open_ones


def staged(test: Callable[[Stage], Awaitable[None]]) -> Callable[[], None]:
    """Run a coroutine test with a stage."""

    def run() -> None:
        async def body() -> None:
            await asyncio.wait_for(test(Stage()), 30)

        asyncio.run(body())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


class Evictions:
    """The timers of an hour on a loop: they expire when the test calls."""

    DELAY = 3600.0

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._set: list[tuple[asyncio.TimerHandle, Callable[[], None]]] = []
        real = loop.call_later

        def call_later(delay: float, callback: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
            timer = real(delay, callback, *args)
            if delay == self.DELAY:
                self._set.append((timer, lambda: callback(*args)))
            return timer

        loop.call_later = call_later  # type: ignore[method-assign,assignment]

    def expire(self) -> int:
        """Let all of these timers expire; returns their number."""
        due = [(timer, call) for timer, call in self._set if not timer.cancelled()]
        self._set.clear()
        for timer, call in due:
            timer.cancel()
            call()
        return len(due)
