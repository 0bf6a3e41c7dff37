"""What runs a kernel, wherever that is: a kernelspec and the ``jupyter_client`` provisioner it names.

Storey: daemon (7).  Source: documentation of ``jupyter_client``, "Kernel provisioning".  A local kernel is a child of
the daemon.  Any other provisioner talks to machines that may be slow, unresponsive or gone, and its coroutines may
block.  So each such kernel gets a thread with a loop of its own, on which all calls of its provisioner run, and every
answer has a deadline here.  A provisioner that hangs delays its own room only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Coroutine
from typing import Any, Callable, TypeVar

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.session import Session
from traitlets import Instance

from runtimed_ffi.daemon.environments.plans import LaunchPlan
from runtimed_ffi.daemon.ports import Json, LaunchError
from runtimed_ffi.daemon.processes import watch_process

log = logging.getLogger(__name__)

SIGNAL_LIMIT = 5.0
"""Seconds a provisioner may take to deliver a signal."""

END_LIMIT = 1.0
"""Seconds that the end of a kernel waits for its provisioner to kill and clean up; a slower one goes on by itself."""

_LOCAL = "local-provisioner"
_WATCH_PAUSES = (1.0, 30.0)
"""First and longest pause, in seconds, until a provisioner that failed to watch its kernel is asked again."""

_T = TypeVar("_T")


class _OneSpec(KernelSpecManager):
    """Knows one kernelspec: the one we have chosen."""

    spec = Instance(KernelSpec)

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return self.spec


class _Manager(AsyncKernelManager):
    """Without a control socket of its own: the daemon has one, and this one's loop may end before it is closed."""

    def _connect_control_socket(self) -> None:
        pass


class Provisioned:
    """One kernel as its provisioner sees it.  Everything on the daemon's loop.

    Args:
        plan: What to start.
        directory: A private directory for the connection file and, with ``ipc``, the sockets.
    """

    def __init__(self, plan: LaunchPlan, directory: str) -> None:
        self._plan = plan
        self._directory = directory
        self._manager: _Manager | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """The provisioner's own loop; ``None`` for a local kernel."""
        self._spec: KernelSpec | None = None
        self._watched = False
        self._finishing: list[asyncio.Future[None]] = []

    # -- start

    async def start(self, **options: Any) -> None:
        """Start the kernel; ``options`` are those of a process (``stdin``, ``stdout``, ``stderr``, ``umask``).

        Raises:
            LaunchError: There is no such kernelspec.
            Exception: Whatever the provisioner raises.
        """
        spec = self._spec = await asyncio.get_running_loop().run_in_executor(None, _find_spec, self._plan)
        if _provisioner_name(spec) != _LOCAL:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=_serve, args=(self._loop,), name="kernel-provisioner", daemon=True).start()
        environment = {**os.environ, **self._plan.env}
        # No limit of its own: the start as a whole has one.
        await self._call(lambda: self._start(spec, cwd=self._plan.cwd, env=environment, **options), None)

    async def _start(self, spec: KernelSpec, **options: Any) -> None:
        # A Unix socket does not leave this machine.
        local = self._loop is None and self._plan.transport == "ipc"
        self._manager = manager = _Manager(
            kernel_name=self._plan.kernel_name or "python3",
            kernel_spec_manager=_OneSpec(spec=spec),
            connection_file=os.path.join(self._directory, "c.json"),
            transport="ipc" if local else "tcp",
        )
        if local:
            manager.ip = os.path.join(self._directory, "s")
        await manager.start_kernel(**options)

    # -- facts of a kernel that has been started

    @property
    def begun(self) -> bool:
        """Whether there is something to end."""
        return self._manager is not None and self._manager.provisioner is not None

    @property
    def session(self) -> Session:
        """Signs messages with the kernel's key."""
        assert self._manager is not None
        session: Session = self._manager.session
        return session

    def connection(self) -> Json:
        """Transport, address and ports.  Raises ``LaunchError`` if other machines or users could connect to them."""
        assert self._manager is not None
        info = dict(self._manager.get_connection_info())
        if info["transport"] != "ipc" and not info["key"]:
            raise LaunchError("Failed to launch kernel: its provisioner set no key, so any user could run code in it")
        return info

    @property
    def interrupted_by_message(self) -> bool:
        """Whether the kernel wants an ``interrupt_request`` instead of a signal (kernelspec, ``interrupt_mode``)."""
        return self._spec is not None and self._spec.interrupt_mode == "message"

    @property
    def process_id(self) -> int | None:
        """The process, or ``None`` if it is not a child of this one."""
        process = self._process
        return process.pid if process is not None else None

    @property
    def _process(self) -> subprocess.Popen[Any] | None:
        process = getattr(getattr(self._manager, "provisioner", None), "process", None)
        return process if isinstance(process, subprocess.Popen) and self._loop is None else None

    # -- what can be done to it

    def watch(self, on_exit: Callable[[int | None], None]) -> None:
        """Call ``on_exit(exit code)`` when the kernel has ended: a child at once, others when their provisioner knows.

        Only the first call counts.
        """
        if self._watched or not self.begun:
            return
        self._watched = True
        process = self._process
        if process is not None:
            watch_process(process, on_exit)
            return

        def ended(code: asyncio.Future[int | None]) -> None:
            if not code.cancelled():
                on_exit(code.result())

        asyncio.ensure_future(self._call(self._wait, None)).add_done_callback(ended)

    async def _wait(self) -> int | None:
        assert self._manager is not None and self._manager.provisioner is not None
        provisioner = self._manager.provisioner
        pause, longest = _WATCH_PAUSES
        while True:
            try:
                return await provisioner.wait()
            except Exception as error:
                log.warning("a provisioner cannot watch its kernel, asking again in %g s: %s", pause, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def interrupt(self) -> None:
        """Send SIGINT.  Raises what the provisioner raises, and ``asyncio.TimeoutError`` after ``SIGNAL_LIMIT``."""
        assert self._manager is not None and self._manager.provisioner is not None
        provisioner = self._manager.provisioner
        await self._call(lambda: provisioner.send_signal(signal.SIGINT), SIGNAL_LIMIT)

    async def kill(self) -> None:
        """Kill it.  Returns after ``END_LIMIT`` seconds at the latest; a provisioner that needs longer goes on."""
        if self.begun:
            await self._finish(self._kill)

    async def _kill(self) -> None:
        assert self._manager is not None and self._manager.provisioner is not None
        await self._manager.provisioner.kill()

    async def _clean_up(self) -> None:
        assert self._manager is not None
        await self._manager.cleanup_resources()

    async def release(self) -> None:
        """Give back what the provisioner holds; nothing can be done with the kernel afterwards.

        Returns after ``END_LIMIT`` seconds at the latest; a provisioner that needs longer goes on.
        """
        if self._manager is not None:
            await self._finish(self._clean_up)
        if self._loop is not None:
            ended = asyncio.gather(*self._finishing, return_exceptions=True)
            ended.add_done_callback(lambda _: self._stop_loop())

    async def _finish(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.ensure_future(self._call(work, None))
        self._finishing.append(task)
        task.add_done_callback(_report)
        await asyncio.wait({task}, timeout=END_LIMIT)

    def _stop_loop(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)

    async def _call(self, work: Callable[[], Coroutine[Any, Any, _T]], limit: float | None) -> _T:
        if self._loop is None:
            return await asyncio.wait_for(work(), limit)
        there = asyncio.run_coroutine_threadsafe(work(), self._loop)
        return await asyncio.wait_for(asyncio.wrap_future(there), limit)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()


def _report(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.warning("a provisioner failed to end its kernel: %s", task.exception())


def _find_spec(plan: LaunchPlan) -> KernelSpec:
    """The kernelspec of a plan.  Reads files."""
    if plan.kernel_name is None:
        metadata = {"kernel_provisioner": {"provisioner_name": _LOCAL}}
        return KernelSpec(argv=list(plan.argv), display_name="Python", language="python", metadata=metadata)
    manager = KernelSpecManager()
    try:
        return manager.get_kernel_spec(plan.kernel_name)
    except NoSuchKernel:
        text = f"no kernelspec is installed as {plan.kernel_name!r}"
        if plan.kernel_name in manager.find_kernel_specs():
            text = f"the kernelspec {plan.kernel_name!r} names a provisioner that is not installed"
        raise LaunchError(f"Failed to launch kernel: {text}") from None


def _provisioner_name(spec: KernelSpec) -> str:
    named = spec.metadata.get("kernel_provisioner")
    name = named.get("provisioner_name") if isinstance(named, dict) else None
    return str(name or KernelProvisionerFactory.instance().default_provisioner_name)
