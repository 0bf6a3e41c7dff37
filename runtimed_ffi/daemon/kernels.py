"""One kernel process: start, readiness, requests, interrupt, end.

Storey: daemon (7).  Kernels are started by ``jupyter_client`` managers and provisioners from a kernelspec; this module
adds what a daemon must know at once and ``jupyter_client`` learns by polling: that the kernel is ready (a reply, and a
message on iopub that our request caused, so that no output can be missed) and that its process has ended (with the
exit code and the end of what it wrote to stderr).  No fixed pauses anywhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import subprocess
import tempfile
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Instance

from .channels import Channels
from .environments import LaunchPlan
from .ports import Json, KernelGone, KernelListener, LaunchError, Message
from .processes import StderrTail, describe_exit, watch_process

log = logging.getLogger(__name__)

START_LIMIT = 60.0
"""Seconds a kernel may take until it is ready."""

_PROBE_INTERVAL = 0.05
"""Seconds between kernel_info requests while iopub is not proven: a message sent before the subscription has reached
the kernel is lost for ever, so the question is repeated until its echo is heard."""

_LAST_WORDS = 0.25
"""Seconds to wait for the rest of what a dead kernel had sent, if its sockets outlive it (a forked child)."""

_SOCKET_PATH_LIMIT = 103
"""Bytes of a socket path that every platform takes (Linux 107, macOS 103)."""


class _OneSpec(KernelSpecManager):
    """Knows one kernelspec: ours.  The kernel runs on the interpreter we name, not on whatever is installed."""

    spec = Instance(KernelSpec)

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return self.spec


class Kernel:
    """A running kernel.  Use :func:`start`.  Everything on the loop's thread.  See ``ports.KernelPort``."""

    def __init__(self, plan: LaunchPlan, listener: KernelListener, directory: str) -> None:
        self.kernel_type = plan.kernel_type
        self.env_source = plan.env_source
        self._plan = plan
        self._listener = listener
        self._directory = directory
        self._loop = asyncio.get_running_loop()
        self._manager: AsyncKernelManager | None = None
        self._channels: Channels | None = None
        self._exited: asyncio.Future[int | None] = self._loop.create_future()
        self._ready = False
        self._watched = False
        self._ending = False
        self._ended: asyncio.Task[None] | None = None
        self._replies: dict[str, asyncio.Future[Json]] = {}
        self._probes: set[str] = set()
        self._probe_reply = self._probe_echo = False
        self._proven: asyncio.Future[None] = self._loop.create_future()
        self._stderr = StderrTail(self._loop)
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- start

    async def _start(self, context: zmq.Context[Any], umask: int) -> None:
        spec = KernelSpec(argv=list(self._plan.argv), display_name="Python", language="python")
        manager = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=_OneSpec(spec=spec),
            transport="ipc",
            ip=os.path.join(self._directory, "s"),
            connection_file=os.path.join(self._directory, "c.json"),
            context=zmq.asyncio.Context(context),
        )
        self._manager = manager
        stderr = self._stderr.open()
        try:
            await manager.start_kernel(
                cwd=self._plan.cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                umask=umask,
            )
        finally:
            os.close(stderr)
        self._watch(manager)
        info = dict(manager.get_connection_info())
        self._channels = Channels(context, info, manager.session, self._on_batch)
        await self._until_ready(self._channels)
        self._ready = True

    async def _until_ready(self, channels: Channels) -> None:
        either: set[asyncio.Future[Any]] = {self._proven, self._exited}
        while True:
            self._probes.add(channels.send("shell", "kernel_info_request", {}))
            await asyncio.wait(either, timeout=_PROBE_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
            if self._exited.done():
                raise LaunchError(f"Failed to launch kernel: {self._obituary()}")
            if self._proven.done():
                return
            if self._probe_echo:
                # iopub works; the reply is on its way, asking again would only delay it.
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)

    def _watch(self, manager: AsyncKernelManager) -> None:
        if self._watched or manager.provisioner is None:
            return
        self._watched = True
        process = getattr(manager.provisioner, "process", None)
        if isinstance(process, subprocess.Popen):
            watch_process(process, self._on_exit)
        else:
            self._spawn(self._watch_remote(manager.provisioner))

    async def _watch_remote(self, provisioner: KernelProvisionerBase) -> None:
        """A provisioner without a local process: its own ``wait`` tells."""
        self._on_exit(await provisioner.wait())

    # -- talk

    def execute(self, code: str) -> str:
        return self._send(
            "execute_request",
            {
                "code": code,
                "silent": False,
                "store_history": True,
                "user_expressions": {},
                "allow_stdin": False,
                # The queue is ours and one request is out at a time.  With True, ipykernel would also abort what
                # arrives in the moment after an error, the next cell of somebody else for instance.
                "stop_on_error": False,
            },
        )

    def fence(self) -> str:
        return self._send("kernel_info_request", {})

    async def request(self, msg_type: str, content: Json, timeout: float) -> Json:
        msg_id = self._send(msg_type, content)
        reply: asyncio.Future[Json] = self._loop.create_future()
        self._replies[msg_id] = reply
        try:
            return await asyncio.wait_for(reply, timeout)
        finally:
            self._replies.pop(msg_id, None)

    def send_comm(self, message: Json) -> None:
        if self._channels is None or self._manager is None:
            raise KernelGone("the kernel has ended")
        header = dict(message["header"], session=self._manager.session.session)
        whole = {
            "header": header,
            "msg_id": header["msg_id"],
            "msg_type": header["msg_type"],
            "parent_header": message.get("parent_header") or {},
            "metadata": message.get("metadata") or {},
            "content": message["content"],
        }
        buffers = [bytes(buffer) for buffer in message.get("buffers") or ()]
        self._channels.send_message("shell", whole, buffers)

    def interrupt(self) -> None:
        if not self._exited.done() and self._manager is not None:
            self._spawn(self._interrupt(self._manager))

    async def _interrupt(self, manager: AsyncKernelManager) -> None:
        try:
            await manager.interrupt_kernel()
        except Exception as error:
            # The process may end at any moment; its death is told elsewhere.
            log.warning("interrupting the kernel failed: %s", error)

    def _send(self, msg_type: str, content: Json) -> str:
        if self._channels is None or self._exited.done():
            raise KernelGone("the kernel has ended")
        return self._channels.send("shell", msg_type, content)

    def _on_batch(self, batch: list[Message]) -> None:
        if not self._ready:
            for message in batch:
                if message.parent_id in self._probes or message.msg_type == "iopub_welcome":
                    self._probe_reply = self._probe_reply or message.channel == "shell"
                    self._probe_echo = self._probe_echo or message.channel == "iopub"
            if self._probe_reply and self._probe_echo and not self._proven.done():
                self._proven.set_result(None)
            return
        if self._probes:
            batch = [message for message in batch if message.parent_id not in self._probes]
        for message in batch:
            if message.channel == "shell":
                reply = self._replies.pop(message.parent_id, None)
                if reply is not None and not reply.done():
                    reply.set_result(message.content)
        if batch and not self._ending:
            self._listener.on_messages(self, batch)

    # -- end

    def shutdown(self, deadline: float = 2.0) -> asyncio.Task[None]:
        self._ending = True
        if self._ended is None:
            self._ended = self._loop.create_task(self._shut_down(deadline))
        return self._ended

    async def _shut_down(self, deadline: float) -> None:
        manager, channels = self._manager, self._channels
        try:
            if manager is not None and manager.provisioner is not None and not self._exited.done():
                self._watch(manager)  # A start cancelled half-way has not come to it.
                if channels is not None:
                    channels.send("control", "shutdown_request", {"restart": False})
                    await self._interrupt(manager)
                    await asyncio.wait({self._exited}, timeout=deadline)
                if not self._exited.done():
                    await manager.provisioner.kill()
                    await asyncio.wait({self._exited}, timeout=1.0)
        except Exception:
            log.exception("ending a kernel failed")
        finally:
            await self._release()

    def _on_exit(self, code: int | None) -> None:
        if self._exited.done():
            return
        self._exited.set_result(code)
        if not self._ending and self._ready:
            self._ending = True
            self._ended = self._loop.create_task(self._die())

    async def _die(self) -> None:
        channels = self._channels
        assert channels is not None
        # The kernel's last messages are still on their way through its sockets; the end of iopub comes behind them.
        await asyncio.wait({channels.disconnected}, timeout=_LAST_WORDS)
        self._ending = False
        channels.drain()
        self._ending = True
        reason = self._obituary()
        await self._release()
        self._listener.on_death(self, reason)

    async def _release(self) -> None:
        """Close everything, remove the files, end whoever waits for a reply."""
        for reply in list(self._replies.values()):
            if not reply.done():
                reply.set_exception(KernelGone("the kernel has ended"))
        self._replies.clear()
        if self._channels is not None:
            self._channels.close()
        self._stderr.close()
        for task in list(self._tasks):
            if task is not asyncio.current_task():
                task.cancel()
        if self._manager is not None:
            try:
                await self._manager.cleanup_resources()
            except Exception:
                log.exception("cleaning up after a kernel failed")
        shutil.rmtree(self._directory, ignore_errors=True)
        if self._plan.on_end is not None:
            self._plan.on_end()

    def _obituary(self) -> str:
        code = self._exited.result() if self._exited.done() else None
        text = f"Kernel died: {describe_exit(code)}"
        tail = self._stderr.text()
        return f"{text}\n{tail}" if tail else text

    def _spawn(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def process_id(self) -> int | None:
        """The process, or ``None`` if it is not on this machine."""
        pid = getattr(getattr(self._manager, "provisioner", None), "pid", None)
        return pid if isinstance(pid, int) else None


async def start(
    plan: LaunchPlan,
    listener: KernelListener,
    kernels_directory: str,
    context: zmq.Context[Any],
    limit: float = START_LIMIT,
    umask: int = -1,
) -> Kernel:
    """Start a kernel and return it when it is ready.

    ``kernels_directory`` gets a private subdirectory (0700) with connection file and sockets; if its path is too long
    for sockets, a temporary directory is taken.  ``umask`` is that of the kernel (-1: ours).

    Raises ``LaunchError`` after ``limit`` seconds, or as soon as the process ends.  A cancelled start leaves nothing
    behind.
    """
    kernel = Kernel(plan, listener, _private_directory(kernels_directory))
    try:
        await asyncio.wait_for(kernel._start(context, umask), limit)
    except asyncio.TimeoutError:
        await kernel.shutdown(0.0)
        raise LaunchError(f"Failed to launch kernel: Kernel did not respond within {limit:g}s") from None
    except LaunchError:
        await kernel.shutdown(0.0)
        raise
    except Exception as error:
        await kernel.shutdown(0.0)
        raise LaunchError(f"Failed to launch kernel: {error}") from error
    except asyncio.CancelledError:
        await kernel.shutdown(0.0)
        raise
    return kernel


def _private_directory(parent: str) -> str:
    directory = os.path.join(parent, secrets.token_hex(4))
    if len(os.fsencode(os.path.join(directory, "s-55"))) <= _SOCKET_PATH_LIMIT:
        os.mkdir(directory, 0o700)
        return directory
    return tempfile.mkdtemp(prefix="rtd-")
