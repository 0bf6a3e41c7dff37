"""A real ipykernel: start, execution, interrupt, death with its reason, shutdown."""

from __future__ import annotations

import asyncio
import glob
import os
import signal
import sys
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, Callable

import pytest

zmq = pytest.importorskip("zmq", reason="pyzmq is missing")
pytest.importorskip("ipykernel", reason="ipykernel is missing")

from cells import BEGUN, FOREVER, Gate  # noqa: E402

from runtimed_ffi.daemon.environments import plans  # noqa: E402
from runtimed_ffi.daemon.kernels.kernel import Kernel, start  # noqa: E402
from runtimed_ffi.daemon.ports import KernelGone, LaunchError, Message  # noqa: E402
from runtimed_ffi.daemon.processes import describe_exit, watch_process  # noqa: E402

LIMIT = 60.0


class RecordingListener:
    """A kernel's listener that records messages and deaths."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.deaths: list[str] = []
        self.news = asyncio.Event()

    def on_messages(self, kernel: Any, batch: Sequence[Message]) -> None:
        self.messages.extend(batch)
        self.news.set()

    def on_death(self, kernel: Any, reason: str) -> None:
        self.deaths.append(reason)
        self.news.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + LIMIT
        while not condition():
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), max(deadline - time.monotonic(), 0.001))

    def of(self, msg_id: str, msg_type: str) -> list[Message]:
        return [message for message in self.messages if message.parent_id == msg_id and message.msg_type == msg_type]

    def printed(self, msg_id: str) -> str:
        return "".join(message.content["text"] for message in self.of(msg_id, "stream"))

    async def run(self, kernel: Kernel, code: str) -> str:
        msg_id = kernel.execute(code)
        await self.until(lambda: self.finished(msg_id))
        return msg_id

    def finished(self, msg_id: str) -> bool:
        states = [message.content["execution_state"] for message in self.of(msg_id, "status")]
        return bool(self.of(msg_id, "execute_reply")) and "idle" in states


def with_kernel(test: Callable[[Kernel, RecordingListener, Path], Awaitable[None]]) -> Callable[[Path], None]:
    def run(tmp_path: Path) -> None:
        async def body() -> None:
            context, listener = zmq.Context(), RecordingListener()
            kernel = await start(plan(tmp_path), listener, str(tmp_path), context)
            try:
                await asyncio.wait_for(test(kernel, listener, tmp_path), LIMIT)
            finally:
                await kernel.shutdown()
                context.destroy(linger=0)
            assert glob.glob(str(tmp_path / "*")) == [], "files of the kernel were left behind"

        asyncio.run(body())

    run.__name__ = test.__name__
    return run


def plan(directory: Path) -> plans.LaunchPlan:
    request = plans.LaunchRequest("python", "uv:prewarmed", str(directory / "n.ipynb"))
    return plans.default_plan(plans.resolve(request))


@with_kernel
async def test_execution_and_first_output_of_all(kernel: Kernel, listener: RecordingListener, path: Path) -> None:
    msg_id = await listener.run(kernel, "import os, sys; print(sys.executable, os.getcwd()); 6 * 7")
    assert listener.printed(msg_id).split() == [sys.executable, str(path)]
    assert listener.of(msg_id, "execute_result")[0].content["data"]["text/plain"] == "42"
    assert listener.of(msg_id, "execute_input")[0].content["execution_count"] == 1


def test_files_of_the_user_are_not_made_private(tmp_path: Path) -> None:
    async def body() -> str:
        context, listener = zmq.Context(), RecordingListener()
        kernel = await start(plan(tmp_path), listener, str(tmp_path), context, umask=0o027)
        msg_id = await listener.run(kernel, "import os; print(oct(os.umask(0)))")
        await kernel.shutdown()
        context.destroy(linger=0)
        return listener.printed(msg_id)

    assert asyncio.run(asyncio.wait_for(body(), LIMIT)) == "0o27\n"


@with_kernel
async def test_a_thousand_outputs_in_order(kernel: Kernel, listener: RecordingListener, path: Path) -> None:
    code = "from IPython.display import display\nfor i in range(1000): display(i)"
    msg_id = await listener.run(kernel, code)
    numbers = [int(message.content["data"]["text/plain"]) for message in listener.of(msg_id, "display_data")]
    assert numbers == list(range(1000))


@with_kernel
async def test_the_next_cell_after_an_error_is_not_aborted(
    kernel: Kernel, listener: RecordingListener, path: Path
) -> None:
    for _ in range(20):
        failed = await listener.run(kernel, "1/0")
        assert listener.of(failed, "execute_reply")[0].content["ename"] == "ZeroDivisionError"
        good = await listener.run(kernel, "1")
        assert listener.of(good, "execute_reply")[0].content["status"] == "ok"


@with_kernel
async def test_interrupt(kernel: Kernel, listener: RecordingListener, path: Path) -> None:
    await idle_interrupt(kernel)
    msg_id = kernel.execute("import time\nprint('in', flush=True)\ntime.sleep(600)")
    await listener.until(lambda: listener.of(msg_id, "stream"))
    kernel.interrupt()
    await listener.until(lambda: listener.finished(msg_id))
    assert listener.of(msg_id, "execute_reply")[0].content["ename"] == "KeyboardInterrupt"
    assert listener.finished(await listener.run(kernel, "1"))


@with_kernel
async def test_each_cell_gets_its_own_interrupt_when_delivery_is_slow(
    kernel: Kernel, listener: RecordingListener, path: Path
) -> None:
    send, delivered = kernel._provisioned.interrupt, asyncio.Event()

    async def interrupt() -> None:
        await send()
        await delivered.wait()

    kernel._provisioned.interrupt = interrupt  # type: ignore[method-assign]
    for last in (False, True):
        msg_id = kernel.execute(FOREVER)
        await listener.until(lambda msg_id=msg_id: listener.of(msg_id, "stream"))
        kernel.interrupt()
        if last:
            delivered.set()
        await listener.until(lambda msg_id=msg_id: listener.finished(msg_id))
        assert listener.of(msg_id, "execute_reply")[0].content["ename"] == "KeyboardInterrupt"


@with_kernel
async def test_an_interrupt_while_a_cell_is_prepared_ends_the_cell(
    kernel: Kernel, listener: RecordingListener, path: Path
) -> None:
    prepare = BEGUN + "import time\ntime.sleep(600)\n"
    await listener.run(kernel, f"get_ipython().events.register('pre_run_cell', lambda info: exec({prepare!r}))")
    msg_id = kernel.execute("ran = True")
    await listener.until(lambda: listener.of(msg_id, "stream"))
    kernel.interrupt()
    await listener.until(lambda: listener.finished(msg_id))
    assert listener.of(msg_id, "execute_reply")[0].content.get("ename") == "KeyboardInterrupt"


@with_kernel
async def test_input_is_refused(kernel: Kernel, listener: RecordingListener, path: Path) -> None:
    msg_id = await listener.run(kernel, "input()")
    assert listener.of(msg_id, "error")[0].content["ename"] == "StdinNotImplementedError"


@with_kernel
async def test_requests_with_a_deadline(kernel: Kernel, listener: RecordingListener, path: Path) -> None:
    reply = await kernel.request("complete_request", {"code": "prin", "cursor_pos": 4}, LIMIT)
    assert "print" in reply["matches"]
    kernel.execute("import time; time.sleep(600)")
    with pytest.raises(asyncio.TimeoutError):
        await kernel.request("complete_request", {"code": "prin", "cursor_pos": 4}, 0.05)
    waiting = asyncio.ensure_future(kernel.request("complete_request", {"code": "x", "cursor_pos": 1}, LIMIT))
    await asyncio.sleep(0)
    os.kill(kernel.process_id or 0, signal.SIGKILL)
    with pytest.raises(KernelGone):
        await waiting


@with_kernel
async def test_death_reports_exit_code_and_stderr(kernel: Kernel, listener: RecordingListener, path: Path) -> None:
    # A thread of ZeroMQ sends the kernel's output and dies with it, so the cell waits until the output has arrived.
    gate = Gate(path / "gate")
    code = (
        f"{gate.code}import sys\n"
        # ipykernel captures descriptor 2 and keeps the original beside it, except under pytest.
        "os.write(getattr(sys.stderr, '_original_stdstream_copy', 2), b'the last words')\nos._exit(3)"
    )
    msg_id = kernel.execute(code)
    await listener.until(lambda: listener.of(msg_id, "stream"))
    gate.open()
    await listener.until(lambda: listener.deaths)
    assert listener.deaths == ["Kernel died: exit code 3\nthe last words"]
    gate.close()
    os.unlink(path / "gate")
    with pytest.raises(KernelGone):
        kernel.execute("1")
    kernel.interrupt()


@with_kernel
async def test_death_by_signal_is_noticed(kernel: Kernel, listener: RecordingListener, path: Path) -> None:
    kernel.execute("import time; time.sleep(600)")
    os.kill(kernel.process_id or 0, signal.SIGKILL)
    await listener.until(lambda: listener.deaths)
    assert listener.deaths == ["Kernel died: killed by SIGKILL"]


@with_kernel
async def test_children_end_with_the_kernel(kernel: Kernel, listener: RecordingListener, path: Path) -> None:
    msg_id = await listener.run(kernel, "import subprocess\nprint(subprocess.Popen(['sleep', '600']).pid)")
    child = int(listener.printed(msg_id))
    os.kill(child, 0)
    os.kill(kernel.process_id or 0, signal.SIGKILL)
    await listener.until(lambda: listener.deaths)
    await gone(child)


@with_kernel
async def test_a_stubborn_kernel_is_killed(kernel: Kernel, listener: RecordingListener, path: Path) -> None:
    code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint(1, flush=True)\nwhile True: pass"
    msg_id = kernel.execute(code)
    await listener.until(lambda: listener.of(msg_id, "stream"))
    pid = kernel.process_id or 0
    await kernel.shutdown(0.2)
    await gone(pid)
    assert listener.deaths == [], "a requested shutdown is no death"
    await kernel.shutdown()


def start_and_fail(tmp_path: Path, argv: list[str], limit: float = LIMIT) -> str:
    async def body() -> str:
        context = zmq.Context()
        broken = plan(tmp_path)._replace(argv=argv)
        try:
            with pytest.raises(LaunchError) as caught:
                await start(broken, RecordingListener(), str(tmp_path), context, limit)
        finally:
            context.destroy(linger=0)
        assert list(tmp_path.iterdir()) == []
        return str(caught.value)

    return asyncio.run(body())


def test_a_kernel_that_ends_while_starting_says_why(tmp_path: Path) -> None:
    text = start_and_fail(tmp_path, [sys.executable, "-c", "import sys; sys.exit('no module named kernel')"])
    assert text == "Failed to launch kernel: Kernel died: exit code 1\nno module named kernel"


def test_a_kernel_that_ends_the_moment_it_is_ready_is_never_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        context, listener = zmq.Context(), RecordingListener()
        plain = Kernel._until_ready

        async def until_ready(self: Kernel, channels: Any) -> None:
            await plain(self, channels)
            os.kill(self.process_id or 0, signal.SIGKILL)
            await asyncio.wait({self._exited}, timeout=LIMIT)

        monkeypatch.setattr(Kernel, "_until_ready", until_ready)
        with pytest.raises(LaunchError, match="Kernel died: killed by SIGKILL"):
            await start(plan(tmp_path), listener, str(tmp_path), context)
        assert listener.deaths == [], "no death is reported for a kernel that was never handed out"
        context.destroy(linger=0)

    asyncio.run(asyncio.wait_for(body(), LIMIT))
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    assert start_and_fail(tmp_path, [str(tmp_path / "none")]).startswith("Failed to launch kernel: ")


def test_a_kernel_that_never_answers(tmp_path: Path) -> None:
    text = start_and_fail(tmp_path, [sys.executable, "-c", "import time; time.sleep(600)"], 0.3)
    assert text == "Failed to launch kernel: Kernel did not respond within 0.3s"


def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        context = zmq.Context()
        mark = tmp_path.parent / "pid"
        script = f"import os, time\nwith open({str(mark)!r}, 'w') as f: f.write(str(os.getpid()))\ntime.sleep(600)"
        slow = plan(tmp_path)._replace(argv=[sys.executable, "-c", script])
        starting = asyncio.ensure_future(start(slow, RecordingListener(), str(tmp_path), context))
        while not (mark.exists() and mark.read_text()):
            await asyncio.sleep(0.01)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await gone(int(mark.read_text()))
        context.destroy(linger=0)

    asyncio.run(asyncio.wait_for(body(), LIMIT))
    assert list(tmp_path.iterdir()) == []


def test_a_long_directory_gets_a_short_one(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()

    async def body() -> None:
        context, listener = zmq.Context(), RecordingListener()
        kernel = await start(plan(tmp_path), listener, str(long), context)
        await listener.run(kernel, "1")
        await kernel.shutdown()
        context.destroy(linger=0)

    asyncio.run(asyncio.wait_for(body(), LIMIT))
    assert list(long.iterdir()) == []


@pytest.mark.parametrize("libc", [True, False], ids=["libc", "thread"])
def test_processes_are_watched_without_pidfd_too(monkeypatch: pytest.MonkeyPatch, libc: bool) -> None:
    import ctypes
    import subprocess
    import threading

    monkeypatch.delattr(os, "pidfd_open", raising=False)
    if not libc:
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    threads = not libc or not hasattr(ctypes.CDLL(None), "pidfd_open")

    async def body() -> Any:
        exited = asyncio.get_running_loop().create_future()
        program = "import os, sys; sys.stdin.read(); os._exit(7)"
        command = [sys.executable, "-c", program]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        watch_process(process, exited.set_result)
        assert any(thread.name == "kernel-exit" for thread in threading.enumerate()) == threads
        assert process.stdin is not None
        process.stdin.close()
        return await asyncio.wait_for(exited, LIMIT)

    assert asyncio.run(body()) == 7


def test_exit_codes_in_words() -> None:
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(-199) == "killed by signal 199"
    assert describe_exit(None) == "the process has ended"


async def idle_interrupt(kernel: Kernel) -> None:
    """Interrupt a kernel that does nothing, and wait until the signal is sent: one that meets the next request at its
    beginning would cost it its reply (ipykernel; the daemon then asks again, this test does not)."""
    kernel.interrupt()
    assert kernel._interrupting is not None
    await kernel._interrupting


async def gone(pid: int) -> None:
    """Until the process has ended (or is a zombie)."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return
        except OSError:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"process {pid} is still there")
