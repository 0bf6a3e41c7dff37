"""The life of the daemon process: lock, socket, readiness, signals, idle time, end.

Storey: daemon (7).  Source: protocol 2, sections 1.5 and 4.3; what the reference gets wrong there (13.6) is done right:
``daemon.json`` follows the bound socket, signals end the daemon cleanly, the first shutdown request does.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import host as hosting
from ..blobs import Blobs
from ..host import ChannelKind, EventKind
from . import trust
from .environments import DEFAULT_SOURCE, LaunchPlan, LaunchRequest, default_plan, resolve
from .inline import InlineEnvironments
from .launcher import Launcher
from .pool import PoolRequests
from .pools import Pools
from .ports import HostEvent, Json, KernelListener, KernelPort
from .recipes import CondaRecipe, UvRecipe
from .requests import NotebookRequests
from .rooms import EVICTION_DELAY, Rooms
from .settings import Settings
from .state import Layout, State

if TYPE_CHECKING:
    from .standby import Standby

log = logging.getLogger(__name__)

KERNELS_END = 3.5
"""Seconds for all kernels to end when the daemon stops; all together it takes less than five."""

ENVIRONMENTS_END = 1.0
"""Seconds for the removal of environments; what is left of them is removed by the next daemon."""

PEERS_END = 1.0
"""Seconds for the peers to take what is written for them."""


class Options(NamedTuple):
    """How a daemon is to run."""

    idle_timeout: float | None = None
    """Seconds without peers and work after which it ends; ``None``: never."""
    eviction_delay: float | None = EVICTION_DELAY
    """Seconds an empty room stays; ``None``: for ever."""
    ready_fd: int | None = None
    """A descriptor that gets the line ``ready`` when clients may connect."""
    uv_pool_size: int = 0
    """uv environments kept ready; 0: none, and kernels without special wishes start in the daemon's own environment."""
    conda_pool_size: int = 0
    """Conda environments kept ready; 0: none, one is made when a kernel asks for it."""
    exit_with_stdin: bool = False
    """End when standard input ends: a daemon that belongs to a test or a script ends with it."""
    kernel_pool_size: int = 0
    """Kernels that stand by for the next launches."""


class Service:
    """One daemon.  ``await run()`` is its whole life; ``stop`` ends it, from the loop's thread."""

    def __init__(self, paths: Layout, options: Options, version: str) -> None:
        self._paths = paths
        self._options = options
        self._version = version
        self._stopping: asyncio.Future[str] | None = None
        self._last_activity = time.monotonic()
        self._context: Any = None
        self._standby: Standby | None = None
        self._umask = -1

    def stop(self, reason: str) -> None:
        """End the daemon soon, in order.  Idempotent."""
        if self._stopping is not None and not self._stopping.done():
            self._stopping.set_result(reason)

    async def run(self) -> None:
        """Live until somebody stops it.

        Raises ``AlreadyRunning`` if the lock is taken and the host's error if the socket cannot be bound; nothing is
        left behind then.
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
        with hosting.Host(self._paths.socket, capabilities) as host:
            settings = Settings(host, self._paths.settings_document, self._paths.settings)
            settings.open()
            pools = Pools(
                self._paths.environments,
                {"uv": self._options.uv_pool_size, "conda": self._options.conda_pool_size},
                host.announce_pool_state,
                {"uv": UvRecipe(settings), "conda": CondaRecipe(settings)},
            )
            settings.on_change(lambda _: pools.settings_changed())
            inline = InlineEnvironments(self._paths.environments)
            launcher = Launcher(self._start_kernel, pools, inline, settings, trust.key_path(os.environ))
            # Notebook files are the user's, not ours: a new one gets the mode his own programs would give it.
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
            pool = PoolRequests(host, rooms, pools, hosting.read_document, self.stop, self._kernel_pool)
            dispatch = Dispatch(host, rooms, notebook, pool, blobs, settings)
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
                state.announce(self._version)
                self._ready()
                settings.watch()
                log.info("listening on %s", self._paths.socket)
                warm_up = loop.create_task(self._warm_up())
                environments = loop.create_task(_prepare_environments(pools, inline))
                self._watch_idleness(rooms)
                reason = await self._stopping
                log.info("stopping: %s", reason)
                await asyncio.wait({warm_up, environments}, timeout=KERNELS_END)
                environments.cancel()
                notebook.close()
                waiting = loop.create_task(self._standby.close(KERNELS_END)) if self._standby is not None else None
                await settings.close()
                await rooms.close("the daemon was stopped", KERNELS_END)
                await pools.close(ENVIRONMENTS_END)
                if waiting is not None:
                    await waiting
                host.stop()
                await asyncio.wait({ended}, timeout=PEERS_END)
            finally:
                if not ended.done():
                    loop.remove_reader(host.fileno())
                if self._context is not None:
                    self._context.destroy(linger=0)
        log.info("stopped")

    # -- parts

    async def _start_kernel(self, plan: LaunchPlan, listener: KernelListener) -> KernelPort:
        return await (await self._kernels()).launch(plan, listener)

    async def _kernels(self) -> Standby:
        # Imported late: jupyter_client takes longer than everything else before the first client can connect.
        await asyncio.get_running_loop().run_in_executor(None, _import_kernels)
        if self._standby is None:
            import zmq

            from . import kernels, standby

            directory, context, umask = self._paths.kernels, zmq.Context(), self._umask

            async def start(plan: LaunchPlan, listener: KernelListener) -> kernels.Kernel:
                return await kernels.start(plan, listener, directory, context, umask=umask)

            self._context = context
            self._standby = standby.Standby(start, directory, self._options.kernel_pool_size)
        return self._standby

    async def _warm_up(self) -> None:
        """Have everything ready for the first launch that can be had before it."""
        kernels = await self._kernels()
        if self._options.kernel_pool_size:
            try:
                kernels.open(default_plan(resolve(LaunchRequest("python", DEFAULT_SOURCE))))
            except Exception:
                log.exception("no kernels are started ahead")

    def _kernel_pool(self) -> Json:
        if self._standby is not None:
            return self._standby.facts()
        return {"ready": 0, "starting": 0, "size": self._options.kernel_pool_size, "memory": 0}

    def _listen_for_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, signal.Signals(number).name)
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
            log.warning("nobody listens on descriptor %d: %s", descriptor, error)

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
        # While somebody works, look often enough to know the end of the work to a tenth of the limit.
        delay = min(rest, limit / 10) if rooms.active else rest
        asyncio.get_running_loop().call_later(delay, self._watch_idleness, rooms)


class Dispatch:
    """Hands each event of the host to whom it concerns.  Never raises: one bad event costs its sender only."""

    def __init__(
        self,
        host: hosting.Host,
        rooms: Rooms,
        notebook: NotebookRequests,
        pool: PoolRequests,
        blobs: Blobs,
        settings: Settings,
    ) -> None:
        self._host = host
        self._rooms = rooms
        self._notebook = notebook
        self._pool = pool
        self._blobs = blobs
        self._settings = settings

    def __call__(self, event: HostEvent) -> None:
        try:
            if event.kind == EventKind.REQUEST:
                self._request(event)
            elif event.kind == EventKind.ROOM_WANTED:
                self._rooms.wanted(event.id)
            elif event.kind == EventKind.PEER_JOINED:
                self._rooms.joined(event.id, event.peer, event.number)
            elif event.kind == EventKind.PEER_LEFT:
                self._rooms.left(event.id, event.peer)
            elif event.kind == EventKind.ROOM_FAILED:
                self._rooms.failed(event.id, event.code, event.text)
            elif event.kind == EventKind.SETTINGS_CHANGED:
                self._settings.changed()
            elif event.kind == EventKind.SETTINGS_FAILED:
                self._settings.failed(event.code, event.text)
        except Exception:
            log.exception("an event of kind %d failed", event.kind)

    def _request(self, event: HostEvent) -> None:
        if event.code == ChannelKind.NOTEBOOK:
            self._notebook.handle(event.id, event.token, event.peer, event.payload)
        elif event.code == ChannelKind.POOL:
            self._pool.handle(event.token, event.peer, event.payload)
        elif event.code == ChannelKind.BLOB:
            self._host.respond(event.token, self._blob(event))
        else:
            self._host.disconnect(event.peer)

    def _blob(self, event: HostEvent) -> Json:
        """The blob channel (8.6).  A request to store carries its media type as the id of the event."""
        if not event.id:
            return {"error": "blob server not running"}
        try:
            return {"hash": self._blobs.put(event.payload, event.id)}
        except Exception as error:
            return {"error": str(error)}


async def _prepare_environments(pools: Pools, inline: InlineEnvironments) -> None:
    """Begin with what a daemon before has left, in the background."""
    try:
        await pools.start()
        await asyncio.get_running_loop().run_in_executor(None, inline.prune)
    except Exception:
        log.exception("the environments of an earlier daemon cannot be looked at")


def _import_kernels() -> None:
    importlib.import_module(__package__ + ".standby")


def run(paths: Layout, options: Options, version: str) -> None:
    """Run a daemon until it ends, on this thread (signals need the main one)."""
    asyncio.run(Service(paths, options, version).run())
