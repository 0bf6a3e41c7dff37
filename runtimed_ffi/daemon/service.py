"""The life of the daemon process: lock, socket, readiness, signals, idle time, end.

Storey: daemon (7).  Source: protocol 2, sections 1.5 and 4.3; what the reference gets wrong there (13.6) is done right:
``daemon.json`` is written after the socket is bound, signals end the daemon cleanly, and so does the first shutdown
request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
import weakref
from typing import TYPE_CHECKING, Any

from runtimed_ffi import host as hosting
from runtimed_ffi.blobs import Blobs
from runtimed_ffi.daemon import logging_setup
from runtimed_ffi.daemon.channels.blob_requests import BlobRequests
from runtimed_ffi.daemon.channels.blob_server import BlobServer
from runtimed_ffi.daemon.channels.pool_requests import PoolRequests
from runtimed_ffi.daemon.channels.settings import Settings
from runtimed_ffi.daemon.dispatch import Dispatch
from runtimed_ffi.daemon.environments import trust
from runtimed_ffi.daemon.environments.inline import InlineEnvironments
from runtimed_ffi.daemon.environments.plans import DEFAULT_SOURCE, LaunchPlan, LaunchRequest, default_plan, resolve
from runtimed_ffi.daemon.environments.pools import PoolSet
from runtimed_ffi.daemon.environments.recipes import CondaRecipe, UvRecipe
from runtimed_ffi.daemon.environments.removals import Removals
from runtimed_ffi.daemon.kernels.launcher import Launcher
from runtimed_ffi.daemon.lazy_import import load
from runtimed_ffi.daemon.limits import Limits
from runtimed_ffi.daemon.options import DaemonOptions
from runtimed_ffi.daemon.ports import Json, KernelListener, KernelPort
from runtimed_ffi.daemon.processes import kill_group
from runtimed_ffi.daemon.report import Report
from runtimed_ffi.daemon.rooms.requests import NotebookRequests
from runtimed_ffi.daemon.rooms.rooms import Rooms
from runtimed_ffi.daemon.state import State

if TYPE_CHECKING:
    from runtimed_ffi.daemon.kernels.prewarmed import PrewarmedKernels

log = logging.getLogger(__name__)

KERNELS_END = 3.5
"""Seconds for all kernels to end when the daemon stops; all together it takes less than five."""

ENVIRONMENTS_END = 1.0
"""Seconds for the removal of environments; what is left of them is removed by the next daemon."""

PEERS_END = 1.0
"""Seconds for the peers to take what is written for them."""


class Service:
    """One daemon.  ``await run()`` is its whole life; ``stop`` ends it, from the loop's thread."""

    def __init__(self, options: DaemonOptions, version: str) -> None:
        self._paths = options.paths
        self._options = options
        self._version = version
        self._stopping: asyncio.Future[str] | None = None
        self._last_activity = time.monotonic()
        self._context: Any = None
        self._prewarmed: PrewarmedKernels | None = None
        self._umask = -1
        self._launched: weakref.WeakSet[KernelPort] = weakref.WeakSet()

    def stop(self, reason: str) -> None:
        """Begin the orderly end of the daemon.  Idempotent."""
        if self._stopping is not None and not self._stopping.done():
            self._stopping.set_result(reason)

    def _on_signal(self, name: str) -> None:
        """End the daemon on the first signal; kill the kernels at once on every further one."""
        if self._stopping is not None and self._stopping.done():
            log.warning("%s again: kernels are killed", name)
            for kernel in list(self._launched):
                if kernel.process_id is not None:
                    kill_group(kernel.process_id)
        self.stop(name)

    async def run(self) -> None:
        """Run until ``stop`` is called.

        Raises:
            AlreadyRunning: The lock is taken.
            RuntimedError: The socket cannot be bound.  Nothing is left behind.
        """
        loop = asyncio.get_running_loop()
        self._stopping = loop.create_future()
        self._umask = os.umask(0o077)
        state = State(self._paths)
        try:
            state.prepare()
            with Blobs(self._paths.blobs) as blobs:
                await self._serve(state, blobs)
        finally:
            state.close()

    async def _serve(self, state: State, blobs: Blobs) -> None:
        loop = asyncio.get_running_loop()
        assert self._stopping is not None
        capabilities = {
            "daemon": f"runtimed-ffi {self._version}",
            "pid": os.getpid(),
            "blobs": self._paths.blobs,
        }
        limits = Limits(self._options.max_peers)
        with hosting.Host(self._paths.socket, capabilities, max_peers=limits.peers) as host:
            server = self._blob_server()
            settings = Settings(host, self._paths.settings_document, self._paths.settings)
            settings.open()
            removals = Removals()
            pools = PoolSet(
                self._paths.environments,
                {"uv": self._options.uv_pool_size, "conda": self._options.conda_pool_size},
                host.announce_pool_state,
                {"uv": UvRecipe(settings), "conda": CondaRecipe(settings)},
                removals,
            )
            settings.on_change(lambda _: pools.settings_changed())
            inline = InlineEnvironments(self._paths.environments, removals)
            launcher = Launcher(self._start_kernel, pools, inline, settings, trust.key_path(os.environ))
            # Notebook files are the user's: a new one gets the mode that other programs would give it.
            rooms = Rooms(
                host,
                blobs,
                launcher,
                self._paths.documents,
                self._options.eviction_delay,
                launcher.automatic,
                new_mode=0o666 & ~self._umask,
            )
            notebook = NotebookRequests(host, rooms)
            facts: Json = {}
            report = Report(host, rooms, limits, facts)
            pool = PoolRequests(host, rooms, pools, hosting.read_document, self.stop, self._kernel_pool, report.collect)
            channel = BlobRequests(host, blobs, None if server is None else server.address)
            dispatch = Dispatch(host, rooms, notebook, pool, channel, settings, limits)
            ended = loop.create_future()

            def readable() -> None:
                self._last_activity = time.monotonic()
                try:
                    events = host.drain()
                except Exception as error:  # The queue itself is broken: without it there is no service.
                    log.exception("the events of the host cannot be read")
                    loop.remove_reader(host.fileno())
                    self.stop(f"the host has failed: {error}")
                    return
                for event in events:
                    dispatch(event)
                if host.ended:
                    loop.remove_reader(host.fileno())
                    if not ended.done():
                        ended.set_result(None)

            loop.add_reader(host.fileno(), readable)
            try:
                self._listen_for_signals(loop)
                info = state.announce(self._version, None if server is None else server.address.members)
                facts.update(self._facts(), **info)
                self._ready()
                settings.watch()
                if server is not None:
                    server.start()
                log.info("listening on %s", self._paths.socket)
                warm_up = loop.create_task(self._warm_up())
                environments = loop.create_task(_prepare_environments(pools, inline))
                self._watch_idleness(rooms)
                reason = await self._stopping
                log.info("stopping: %s", reason)
                await asyncio.wait({warm_up, environments}, timeout=KERNELS_END)
                environments.cancel()
                notebook.close()
                waiting = loop.create_task(self._prewarmed.close(KERNELS_END)) if self._prewarmed is not None else None
                await settings.close()
                await rooms.close("the daemon was stopped", KERNELS_END)
                await pools.close(ENVIRONMENTS_END)
                await removals.close(ENVIRONMENTS_END)
                if waiting is not None:
                    await waiting
                await channel.close()
                host.stop()
                await asyncio.wait({ended}, timeout=PEERS_END)
            finally:
                if not ended.done():
                    loop.remove_reader(host.fileno())
                if server is not None:
                    await server.close()
                if self._context is not None:
                    self._context.destroy(linger=0)
        log.info("stopped")

    # -- parts

    def _blob_server(self) -> BlobServer | None:
        """The port for blobs; a daemon without one serves everything else (1.5: ``blob_port`` is absent then)."""
        try:
            return BlobServer(self._paths.blobs, self._options.plain_blob_urls)
        except OSError as error:
            log.error("blobs are not served over HTTP: %s", error)
            return None

    def _facts(self) -> Json:
        """What :class:`Report` adds to ``daemon.json``."""
        paths = self._paths
        return {
            "socket": paths.socket,
            "base": paths.base,
            "blobs": paths.blobs,
            "log": paths.log,
            "arguments": list(self._options.arguments),
        }

    async def _start_kernel(self, plan: LaunchPlan, listener: KernelListener) -> KernelPort:
        # Tasks and watches that the kernel starts inherit this mapping; its process id is added below.
        fields = logging_setup.about(**logging_setup.subject())
        kernel = await (await self._kernels()).launch(plan, listener)
        self._launched.add(kernel)
        fields["kernel"] = kernel.process_id
        log.info("a %s kernel from %s runs (pid %s)", plan.kernel_type, plan.env_source, kernel.process_id)
        return kernel

    async def _kernels(self) -> PrewarmedKernels:
        # Imported late: jupyter_client takes longer than everything else before the first client can connect.
        await asyncio.get_running_loop().run_in_executor(None, _import_kernels)
        if self._prewarmed is None:
            import zmq

            from runtimed_ffi.daemon.kernels import prewarmed
            from runtimed_ffi.daemon.kernels.kernel import Kernel, start

            directory, context, umask = self._paths.kernels, zmq.Context(), self._umask

            async def start_here(plan: LaunchPlan, listener: KernelListener) -> Kernel:
                return await start(plan, listener, directory, context, umask=umask)

            self._context = context
            self._prewarmed = prewarmed.PrewarmedKernels(start_here, directory, self._options.kernel_pool_size)
        return self._prewarmed

    async def _warm_up(self) -> None:
        """Import what the first launch needs, and start kernels ahead."""
        kernels = await self._kernels()
        if self._options.kernel_pool_size:
            try:
                kernels.open(default_plan(resolve(LaunchRequest("python", DEFAULT_SOURCE))))
            except Exception:
                log.exception("kernels cannot be started ahead")

    def _kernel_pool(self) -> Json:
        if self._prewarmed is not None:
            return self._prewarmed.facts()
        return {"ready": 0, "starting": 0, "size": self._options.kernel_pool_size, "memory": 0}

    def _listen_for_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, signal.Signals(number).name)
        if self._options.exit_with_stdin:
            try:
                loop.add_reader(0, self._on_stdin, loop)
            except OSError:  # A file or /dev/null cannot be watched; there is nothing to wait for in it.
                self.stop("standard input has ended")

    def _on_stdin(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            data = os.read(0, 4096)
        except OSError:
            data = b""
        if not data:
            loop.remove_reader(0)
            self.stop("standard input has ended")

    def _ready(self) -> None:
        descriptor = self._options.ready_fd
        if descriptor is None:
            return
        try:
            os.write(descriptor, b"ready\n")
            os.close(descriptor)
        except OSError as error:
            log.warning("descriptor %d cannot be written: %s", descriptor, error)

    def _watch_idleness(self, rooms: Rooms) -> None:
        limit = self._options.idle_timeout
        if limit is None:
            return
        now = time.monotonic()
        if rooms.active:
            self._last_activity = now
        rest = self._last_activity + limit - now
        if rest <= 0:
            self.stop(f"idle for {limit:g} seconds")
            return
        # While there is work, check often enough to notice its end within a tenth of the limit.
        delay = min(rest, limit / 10) if rooms.active else rest
        asyncio.get_running_loop().call_later(delay, self._watch_idleness, rooms)


async def _prepare_environments(pools: PoolSet, inline: InlineEnvironments) -> None:
    """Adopt or remove the environments of an earlier daemon, in the background."""
    try:
        await pools.start()
        await inline.prune()
    except Exception:
        log.exception("the environments of an earlier daemon cannot be read")


def _import_kernels() -> None:
    load(__package__ + ".kernels.prewarmed")


def run(options: DaemonOptions, version: str) -> None:
    """Run a daemon until it ends, on this thread (signals need the main one)."""
    asyncio.run(Service(options, version).run())
