"""How the environments of the pools are made, kind by kind.

Storey: daemon (7).  Source: protocol 2, section 4.3.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from runtimed_ffi.daemon.environments import conda, uv
from runtimed_ffi.daemon.environments.requirements import checked
from runtimed_ffi.daemon.ports import Json, SettingsView


class Made(NamedTuple):
    """What a recipe has made."""

    python: str
    """Path of the interpreter."""
    variables: Mapping[str, str]
    """Environment variables for a kernel in it."""


class Recipe(Protocol):
    """How environments of one kind are made."""

    def ingredients(self) -> Json:
        """What goes into one now.  Environments with other ingredients are out of date.  Raises ``LaunchError``."""

    async def make(self, path: str, ingredients: Json, progress: uv.Progress, background: bool) -> Made:
        """Make one in ``path``.  Raises ``BuildError`` and ``ToolMissing``."""

    def made(self, path: str) -> Made:
        """The same for one that was made earlier.  Raises ``ToolMissing``."""


class UvRecipe:
    """Environments for ``uv:prewarmed``: the daemon's interpreter, widgets, and the packages of the settings (4.3)."""

    def __init__(self, settings: SettingsView) -> None:
        self._settings = settings

    def ingredients(self) -> Json:
        """See :class:`Recipe`."""
        packages = ["ipywidgets", *(checked(name) for name in self._settings.uv_packages)]
        return {"packages": packages, "interpreter": f"{sys.base_prefix} {sys.version}"}

    async def make(self, path: str, ingredients: Json, progress: uv.Progress, background: bool) -> Made:
        """See :class:`Recipe`."""
        packages = ingredients["packages"]
        await uv.make(path, packages, progress=progress, background=background, defaults=uv.IMPATIENT)
        return self.made(path)

    def made(self, path: str) -> Made:
        """See :class:`Recipe`."""
        return Made(uv.python_of(path), uv.kernel_variables(path))


class CondaRecipe:
    """Environments for ``conda:prewarmed``, from conda-forge, with the packages of the settings (4.3)."""

    def __init__(self, settings: SettingsView) -> None:
        self._settings = settings

    def ingredients(self) -> Json:
        """See :class:`Recipe`."""
        return {"packages": ["ipywidgets", *(checked(name) for name in self._settings.conda_packages)]}

    async def make(self, path: str, ingredients: Json, progress: uv.Progress, background: bool) -> Made:
        """See :class:`Recipe`."""
        tool = conda.find()
        await conda.make(tool, path, ingredients["packages"], progress=progress, background=background)
        return Made(tool.python_of(path), tool.kernel_variables(path))

    def made(self, path: str) -> Made:
        """See :class:`Recipe`."""
        tool = conda.find()
        return Made(tool.python_of(path), tool.kernel_variables(path))
