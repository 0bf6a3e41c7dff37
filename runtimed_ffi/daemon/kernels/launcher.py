"""From a request to a running kernel: resolve it, get its environment ready, start the kernel, free the environment.

Storey: daemon (7).  Source: protocol 2, sections 9.5, 10.1 to 10.5; texts of section 5.7.  A launch that is cancelled,
at whatever point, leaves nothing behind that is not of use to the next one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable
from typing import Callable

from runtimed_ffi.daemon.environments import conda, deno, plans, requirements, uv
from runtimed_ffi.daemon.environments.diagnosis import BuildError
from runtimed_ffi.daemon.environments.inline import InlineEnvironments
from runtimed_ffi.daemon.environments.plans import Choice, LaunchPlan, LaunchRequest
from runtimed_ffi.daemon.environments.pools import PoolSet
from runtimed_ffi.daemon.environments.tools import ToolMissing
from runtimed_ffi.daemon.ports import KernelListener, KernelPort, LaunchError, Launching, LaunchListener, SettingsView

log = logging.getLogger(__name__)

DEFAULT_PATIENCE = 20.0
"""Seconds a kernel without requirements waits for an environment of the pool before it starts in the daemon's own:
early enough to be answered before clients give up (14.2, item 4)."""

StartKernel = Callable[[LaunchPlan, KernelListener], Awaitable[KernelPort]]


class Launcher:
    """Starts kernels for rooms.

    Args:
        start_kernel: Starts a kernel from a plan.  It calls ``plan.on_end`` when the kernel has ended.
        key_path: The key of ``trust``.
    """

    def __init__(
        self,
        start_kernel: StartKernel,
        pools: PoolSet,
        inline: InlineEnvironments,
        settings: SettingsView,
        key_path: str,
    ) -> None:
        self._start_kernel = start_kernel
        self._pools = pools
        self._inline = inline
        self._settings = settings
        self._key_path = key_path

    def automatic(self, notebook_id: str) -> LaunchRequest | None:
        """The launch for a room that its first peer has entered, or ``None`` (9.5).  Blocks; for a thread."""
        return plans.automatic(notebook_id, self._settings, self._key_path)

    async def __call__(self, request: LaunchRequest, listener: LaunchListener) -> KernelPort:
        """Start the requested kernel.  The listener gets the progress.

        Raises:
            LaunchError: The kernel cannot be started; the text is for the peer.
        """
        choice = await asyncio.get_running_loop().run_in_executor(None, plans.resolve, request)
        launching = Launching(choice.kernel_type, choice.env_source)
        listener.on_progress(launching)

        def progress(text: str) -> None:
            listener.on_progress(launching._replace(text=f"preparing environment: {text}"))

        try:
            plan = await self._plan(choice, progress)
        except ToolMissing as error:
            raise LaunchError(f"{_failure(choice)}: {error}") from error
        except (BuildError, OSError) as error:
            raise LaunchError(f"{_failure(choice)}: {error}") from error
        try:
            return await self._start_kernel(plan, listener)
        except BaseException:
            if plan.on_end is not None:
                plan.on_end()
            raise

    async def _plan(self, choice: Choice, progress: uv.Progress) -> LaunchPlan:
        if choice.needs == "kernelspec":
            return LaunchPlan(choice.kernel_type, choice.env_source, [], choice.cwd, kernel_name=choice.kernel_type)
        if choice.needs == "deno":
            return await asyncio.get_running_loop().run_in_executor(None, deno.plan, choice)
        if choice.needs == "inline":
            assert choice.dependencies is not None
            return await self._from_inline(choice, choice.dependencies, progress)
        if choice.needs == "project":
            assert choice.project is not None
            return await self._from_project(choice, choice.project, progress)
        if choice.needs == "conda":
            return await self._from_pool("conda", choice, progress)
        return await self._default(choice, progress)

    async def _default(self, choice: Choice, progress: uv.Progress) -> LaunchPlan:
        """A kernel without requirements: from the pool if there is one, else, or if it fails, in our own environment.

        Packages in the settings are requirements that our own environment cannot be expected to meet.
        """
        if self._pools.target("uv") == 0:
            return plans.default_plan(choice)
        wanted = bool(self._settings.uv_packages)
        try:
            return await self._from_pool("uv", choice, progress, None if wanted else DEFAULT_PATIENCE)
        except BuildError as error:
            if wanted:
                raise
            log.warning("a kernel starts in the environment of the daemon: %s", error)
            advice = str(error).partition("\n")[0]
            progress(f"the uv pool has none ({advice}); using the environment of the daemon")
            return plans.default_plan(choice)

    async def _from_pool(
        self, kind: str, choice: Choice, progress: uv.Progress, limit: float | None = None
    ) -> LaunchPlan:
        environment = await self._pools.acquire(kind, progress, limit)
        argv = plans.ipykernel_command([environment.python])
        return LaunchPlan(
            choice.kernel_type, choice.env_source, argv, choice.cwd, environment.variables, on_end=environment.end
        )

    async def _from_inline(
        self, choice: Choice, wanted: requirements.Dependencies, progress: uv.Progress
    ) -> LaunchPlan:
        if wanted.kind == "uv":

            async def make(path: str, say: uv.Progress) -> None:
                await uv.make(path, wanted.packages, python=wanted.python, progress=say)

            name, python_of, variables = wanted.directory_name, uv.python_of, uv.kernel_variables
        else:
            tool = conda.find()

            async def make(path: str, say: uv.Progress) -> None:
                await conda.make(
                    tool, path, wanted.packages, channels=wanted.channels, python=wanted.python, progress=say
                )

            name, python_of, variables = wanted.directory_name, tool.python_of, tool.kernel_variables
        lease = await self._inline.obtain(wanted.kind, name, python_of, make, progress)
        argv = plans.ipykernel_command([python_of(lease.path)])
        return LaunchPlan(
            choice.kernel_type, choice.env_source, argv, choice.cwd, variables(lease.path), on_end=lease.release
        )

    async def _from_project(self, choice: Choice, project: requirements.Project, progress: uv.Progress) -> LaunchPlan:
        if project.source == "uv:pyproject":
            command = await uv.prepare_project(os.path.dirname(project.path), progress)
        elif project.source == "conda:pixi":
            command = await conda.prepare_pixi_project(project.path, progress)
        else:
            return await self._from_conda_file(choice, project.path, progress)
        argv = plans.ipykernel_command(command)
        return LaunchPlan(choice.kernel_type, choice.env_source, argv, choice.cwd)

    async def _from_conda_file(self, choice: Choice, file: str, progress: uv.Progress) -> LaunchPlan:
        tool = conda.find()
        if tool.kind == "pixi":
            raise ToolMissing(f"{file} needs micromamba, mamba or conda; pixi has project files of its own")
        name = await asyncio.get_running_loop().run_in_executor(None, conda.file_name, file)

        async def make(path: str, say: uv.Progress) -> None:
            await conda.make_from_file(tool, path, file, say)

        lease = await self._inline.obtain("conda", name, tool.python_of, make, progress)
        argv = plans.ipykernel_command([tool.python_of(lease.path)])
        variables = tool.kernel_variables(lease.path)
        return LaunchPlan(choice.kernel_type, choice.env_source, argv, choice.cwd, variables, on_end=lease.release)


def _failure(choice: Choice) -> str:
    """How the error text of a failed launch begins (5.7)."""
    if choice.needs == "inline":
        inline = "conda inline" if choice.env_source.startswith("conda:") else "inline"
        return f"Failed to prepare {inline} environment"
    if choice.needs == "conda":
        return "Conda pool empty - no environment available"
    if choice.needs == "default":
        return "UV pool empty - no environment available"
    return "Failed to launch kernel"
