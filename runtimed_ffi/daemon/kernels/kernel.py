"""One kernel process: start, readiness, requests, interrupt, end.

Storey: daemon (7).  What runs the kernel is ``provisioned``; this module adds what a daemon must know at once: that
the kernel is ready (a reply, and a message on iopub, so that no output can be missed) and that it has ended
(with the exit code and the end of what it wrote to stderr).  No fixed pauses anywhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
from typing import Any

import zmq

from runtimed_ffi.daemon.environments.plans import LaunchPlan
from runtimed_ffi.daemon.kernels import kernel_directory
from runtimed_ffi.daemon.kernels.kernel_directory import KernelDirectory
from runtimed_ffi.daemon.kernels.provisioned import END_LIMIT, Provisioned
from runtimed_ffi.daemon.kernels.sockets import KernelSockets
from runtimed_ffi.daemon.ports import Json, KernelGone, KernelListener, LaunchError, Message
from runtimed_ffi.daemon.processes import StderrTail, describe_exit

log = logging.getLogger(__name__)

START_LIMIT = 60.0
"""Seconds a kernel may take until it is ready."""

HANDOVER_LIMIT = 10.0
"""Seconds a prewarmed kernel may take to be handed over; in them it runs the user's startup files."""

_PROBE_INTERVAL = 0.05
"""Seconds between kernel_info requests that are answered while nothing arrives on iopub: what is published before the
subscription has reached the kernel is lost for ever, so the request is repeated until its status arrives there."""

_PROBE_PATIENCE = (0.5, 8.0)
"""First and longest time, in seconds, until an unanswered request is repeated.  It normally waits in the socket until
the kernel is there; a tunnel to a remote one may have dropped it."""

_ECHO_PATIENCE = 1.0
"""Seconds of answers without a status after which the kernel is assumed to publish nothing about kernel_info."""

_LAST_WORDS = 0.25
"""Seconds to wait for the rest of what a dead kernel had sent, if its sockets outlive it (a forked child)."""


class Kernel:
    """A running kernel.  Use :func:`start`.  Everything on the loop's thread.  See ``ports.KernelPort``."""

    def __init__(self, plan: LaunchPlan, listener: KernelListener, directory: KernelDirectory) -> None:
        self.kernel_type = plan.kernel_type
        self.env_source = plan.env_source
        self._plan = plan
        self._listener = listener
        self._directory = directory
        self._loop = asyncio.get_running_loop()
        self._provisioned = Provisioned(plan, directory.path)
        self._sockets: KernelSockets | None = None
        self._exited: asyncio.Future[int | None] = self._loop.create_future()
        self._ready = False
        self._ending = False
        self._ended: asyncio.Task[None] | None = None
        self._replies: dict[str, asyncio.Future[Json]] = {}
        self._own: set[str] = set()
        """Requests of the daemon itself; the listener does not get what they cause."""
        self._heard = False
        self._answered = asyncio.Event()
        self._proven: asyncio.Future[None] = self._loop.create_future()
        self._stderr = StderrTail(self._loop)
        self._executed = ""
        """The last execution that was requested."""
        self._interrupt_target = ""
        """The last execution when an interrupt was requested."""
        self._interrupting: asyncio.Task[None] | None = None

    # -- start

    async def _start(self, context: zmq.Context[Any], umask: int) -> None:
        stderr = self._stderr.open()
        null = subprocess.DEVNULL
        try:
            await self._provisioned.start(stdin=null, stdout=null, stderr=stderr, umask=umask)
        finally:
            os.close(stderr)
        self._provisioned.watch(self._on_exit)
        connection = self._provisioned.connection()
        self._sockets = KernelSockets(context, connection, self._provisioned.session, self._on_batch)
        await self._until_ready(self._sockets)

    async def _until_ready(self, sockets: KernelSockets) -> None:
        patience, longest = _PROBE_PATIENCE
        first_answer: float | None = None
        while True:
            self._answered.clear()
            self._own.add(sockets.send("shell", "kernel_info_request", {}))
            answered = self._loop.create_task(self._answered.wait())
            try:
                if await self._is_proven({answered}, patience):
                    return
                if not answered.done():
                    patience = min(2 * patience, longest)
                    continue
            finally:
                answered.cancel()
            # What it published may come behind its answer.
            if await self._is_proven(set(), _PROBE_INTERVAL):
                return
            now = self._loop.time()
            first_answer = first_answer or now
            if now - first_answer > _ECHO_PATIENCE:
                log.warning("a %s kernel answers, but publishes nothing about it", self.kernel_type)
                return

    async def _is_proven(self, others: set[asyncio.Task[Any]], timeout: float) -> bool:
        """Wait for the proof, the kernel's end, the others or the time; whether the proof is there."""
        either: set[asyncio.Future[Any]] = {self._proven, self._exited, *others}
        await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if self._exited.done():
            raise LaunchError(f"Failed to launch kernel: {self._death_reason()}")
        return self._proven.done()

    def _open_up(self) -> None:
        """From here on the listener gets every message.  Raises ``LaunchError`` if the kernel has just ended."""
        if self._exited.done():
            raise LaunchError(f"Failed to launch kernel: {self._death_reason()}")
        self._ready = True

    async def hand_over(self, plan: LaunchPlan, listener: KernelListener) -> None:
        """Make a prewarmed kernel (see ``kernel_main``) the one of a plan: in its directory, with its listener.

        Raises:
            LaunchError: The kernel refuses.
            KernelGone: It has ended.
            asyncio.TimeoutError: It does not answer.  In each case the kernel is of no use.
        """
        self._stderr.clear()
        msg_id = self._send("rtd_handover_request", {"cwd": plan.cwd})
        self._own.add(msg_id)
        reply = await self._reply(msg_id, HANDOVER_LIMIT)
        if reply.get("status") != "ok":
            raise LaunchError(f"Failed to launch kernel: {reply.get('evalue')}")
        if self._exited.done():
            raise KernelGone("the kernel has ended")
        self.kernel_type, self.env_source = plan.kernel_type, plan.env_source
        self._plan, self._listener = plan, listener

    # -- talk

    def execute(self, code: str) -> str:
        """Send an ``execute_request`` and return its message id."""
        self._executed = self._send(
            "execute_request",
            {
                "code": code,
                "silent": False,
                "store_history": True,
                "user_expressions": {},
                "allow_stdin": False,
                # The queue is ours and one request is out at a time.  With True, ipykernel would also abort what
                # arrives in the moment after an error, for instance the next cell of another peer.
                "stop_on_error": False,
            },
        )
        return self._executed

    def fence(self) -> str:
        """Send a ``kernel_info_request`` and return its message id."""
        return self._send("kernel_info_request", {})

    async def request(self, msg_type: str, content: Json, timeout: float) -> Json:
        """Send a request on shell and wait for the content of its reply."""
        return await self._reply(self._send(msg_type, content), timeout)

    async def _reply(self, msg_id: str, timeout: float) -> Json:
        reply: asyncio.Future[Json] = self._loop.create_future()
        self._replies[msg_id] = reply
        try:
            return await asyncio.wait_for(reply, timeout)
        finally:
            self._replies.pop(msg_id, None)

    def send_comm(self, message: Json) -> None:
        """Send a client's Jupyter message on shell."""
        if self._sockets is None or self._exited.done():
            raise KernelGone("the kernel has ended")
        header = dict(message["header"], session=self._provisioned.session.session)
        whole = {
            "header": header,
            "msg_id": header["msg_id"],
            "msg_type": header["msg_type"],
            "parent_header": message.get("parent_header") or {},
            "metadata": message.get("metadata") or {},
            "content": message["content"],
        }
        buffers = [bytes(buffer) for buffer in message.get("buffers") or ()]
        self._sockets.send_message("shell", whole, buffers)

    def interrupt(self) -> None:
        """Interrupt the kernel; harmless on an idle or dead one."""
        if self._exited.done() or self._sockets is None:
            return
        if self._provisioned.interrupted_by_message:
            self._sockets.send("control", "interrupt_request", {})
            return
        self._interrupt_target = self._executed
        if self._interrupting is None or self._interrupting.done():
            self._interrupting = self._loop.create_task(self._interrupt())

    async def _interrupt(self) -> None:
        while True:
            target = self._interrupt_target
            try:
                await self._provisioned.interrupt()
            except asyncio.TimeoutError:
                log.warning("the provisioner of a kernel does not deliver an interrupt")
            except Exception as error:
                # The process may end at any moment; ``_on_exit`` reports that.
                log.warning("interrupting the kernel failed: %s", error)
            # The signal may have ended its cell, and the next may have begun and be unwanted too, before it is known
            # that it was sent.  One more for the same cell would meet whatever comes after it.
            if self._interrupt_target == target or self._interrupt_target != self._executed:
                return

    def _send(self, msg_type: str, content: Json) -> str:
        if self._sockets is None or self._exited.done():
            raise KernelGone("the kernel has ended")
        return self._sockets.send("shell", msg_type, content)

    def _on_batch(self, batch: list[Message]) -> None:
        for message in batch:
            # Any message on iopub proves that the subscription is in force.
            self._heard = self._heard or message.channel == "iopub"
            if message.channel == "shell":
                self._answered.set()
                reply = self._replies.pop(message.parent_id, None)
                if reply is not None and not reply.done():
                    reply.set_result(message.content)
        if not self._ready:
            if self._heard and self._answered.is_set() and not self._proven.done():
                self._proven.set_result(None)
            return
        batch = [message for message in batch if message.parent_id not in self._own]
        if batch and not self._ending:
            self._listener.on_messages(self, batch)

    # -- end

    def shutdown(self, deadline: float = 2.0) -> asyncio.Task[None]:
        """End the kernel, by force after ``deadline`` seconds."""
        self._ending = True
        if self._ended is None:
            self._ended = self._loop.create_task(self._shut_down(deadline))
        return self._ended

    async def _shut_down(self, deadline: float) -> None:
        provisioned, sockets = self._provisioned, self._sockets
        try:
            if provisioned.begun and not self._exited.done():
                provisioned.watch(self._on_exit)  # A start cancelled half-way has not come to it.
                if sockets is not None:
                    sockets.send("control", "shutdown_request", {"restart": False})
                    self.interrupt()
                    await asyncio.wait({self._exited}, timeout=deadline)
                if not self._exited.done():
                    await provisioned.kill()
                    await asyncio.wait({self._exited}, timeout=END_LIMIT)
        except Exception:
            log.exception("ending a kernel failed")
        finally:
            await self._release()

    def _on_exit(self, code: int | None) -> None:
        if self._exited.done():
            return
        self._exited.set_result(code)
        if not self._ending and self._ready:
            self._ended = self._loop.create_task(self._die())

    async def _die(self) -> None:
        sockets = self._sockets
        assert sockets is not None
        # The kernel's last messages are still on their way through its sockets; the end of iopub comes behind them.
        await asyncio.wait({sockets.disconnected}, timeout=_LAST_WORDS)
        sockets.drain()
        self._ending = True
        reason = self._death_reason()
        await self._release()
        self._listener.on_death(self, reason)

    async def _release(self) -> None:
        """Close everything, remove the files, fail the requests that wait for a reply."""
        for reply in list(self._replies.values()):
            if not reply.done():
                reply.set_exception(KernelGone("the kernel has ended"))
        self._replies.clear()
        if self._sockets is not None:
            self._sockets.close()
        self._stderr.close()
        if self._interrupting is not None:
            self._interrupting.cancel()
        await self._provisioned.release()
        kernel_directory.remove(self._directory)
        if self._plan.on_end is not None:
            self._plan.on_end()

    def _death_reason(self) -> str:
        code = self._exited.result() if self._exited.done() else None
        text = f"Kernel died: {describe_exit(code)}"
        tail = self._stderr.text()
        return f"{text}\n{tail}" if tail else text

    @property
    def process_id(self) -> int | None:
        """The process, or ``None`` if it is not on this machine."""
        return self._provisioned.process_id

    @property
    def publishes_late(self) -> bool:
        """Whether outputs may come behind both halves of the end of an execution."""
        return self.kernel_type == "deno"

    @property
    def alive(self) -> bool:
        """Whether its end is not known yet."""
        return not self._exited.done() and not self._ending


async def start(
    plan: LaunchPlan,
    listener: KernelListener,
    kernels_directory: str,
    context: zmq.Context[Any],
    limit: float = START_LIMIT,
    umask: int = -1,
) -> Kernel:
    """Start a kernel and return it when it is ready.

    ``kernels_directory`` gets a private subdirectory with connection file and sockets.  ``umask`` is that of the
    kernel (-1: ours).

    Raises:
        LaunchError: The process has ended, or the kernel is not ready after ``limit`` seconds.  Nothing is left of a
            failed or cancelled start.
    """
    kernel = Kernel(plan, listener, kernel_directory.make(kernels_directory))
    try:
        await asyncio.wait_for(kernel._start(context, umask), limit)
        kernel._open_up()
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
