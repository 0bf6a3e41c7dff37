"""Background tasks and replies."""

from __future__ import annotations

import asyncio
import gc

import pytest

from daemon.fakes import FakeHost
from runtimed_ffi.daemon.reply import Reply
from runtimed_ffi.daemon.tasks import Tasks


def test_tasks_are_held_until_they_end_and_failures_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        tasks, gate = Tasks(), asyncio.Event()

        async def wait_and_fail() -> None:
            await gate.wait()
            raise ValueError("odd")

        tasks.spawn(wait_and_fail())
        gc.collect()
        assert len(tasks) == 1 and not caplog.records
        await tasks.settle(0.0)
        assert len(tasks) == 1, "the time limit has passed, the task goes on"
        gate.set()
        await tasks.settle()
        await asyncio.sleep(0)
        assert len(tasks) == 0
        assert "ValueError: odd" in caplog.text

    asyncio.run(body())


def test_closing_cancels_and_waits_for_a_bounded_time(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        tasks, ended, gate = Tasks(), list[str](), asyncio.Event()

        async def work(name: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(name)
                if name == "stubborn":
                    await gate.wait()

        tasks.spawn(work("quick"))
        stubborn = tasks.spawn(work("stubborn"))
        await asyncio.sleep(0)
        await tasks.close(0.01)
        assert sorted(ended) == ["quick", "stubborn"] and list(tasks) == [stubborn]
        gate.set()
        await tasks.settle()
        assert not caplog.records, "being cancelled is no failure"

    asyncio.run(body())


def test_a_request_is_answered_once() -> None:
    host = FakeHost()
    reply = Reply(host, 7)  # type: ignore[arg-type]
    assert reply.send({"result": "ok"})
    assert not reply.send({"result": "error"})
    assert host.responses() == [{"result": "ok", "token": 7}]


def test_an_answer_to_a_peer_that_has_disconnected_is_dropped() -> None:
    class Gone(FakeHost):
        def respond(self, token: int, response: object) -> None:
            raise LookupError("no such request")

    assert not Reply(Gone(), 7).send({"result": "ok"})  # type: ignore[arg-type]
