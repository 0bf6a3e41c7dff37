"""Deno kernels: where the program is, and how it is started.

Storey: daemon (7).  Source: protocol 2, section 10.1; Deno's documentation of ``deno jupyter``.
"""

from __future__ import annotations

import os
import shutil

from runtimed_ffi.daemon.environments.plans import Choice, LaunchPlan, kernelspecs
from runtimed_ffi.daemon.environments.tools import FINDING, ToolMissing


def find() -> str | None:
    """The deno program: from the wheel ``deno`` (our extra of that name), or on ``PATH``; ``None`` if there is none."""
    try:
        from deno import find_deno_bin

        with FINDING:
            return os.fsdecode(find_deno_bin())
    except (ImportError, FileNotFoundError):
        return shutil.which("deno")


def plan(choice: Choice) -> LaunchPlan:
    """How to start a Deno kernel.  It knows no Unix sockets: its address must be one of the network.

    A kernelspec ``deno`` serves where no program is found.  Raises ``ToolMissing``.
    """
    program = find()
    if program is not None:
        argv = [program, "jupyter", "--kernel", "--conn", "{connection_file}"]
        variables = {"NO_COLOR": "1", "DENO_NO_UPDATE_CHECK": "1"}
        return LaunchPlan(choice.kernel_type, choice.env_source, argv, choice.cwd, variables, transport="tcp")
    if "deno" in kernelspecs():
        return LaunchPlan(choice.kernel_type, choice.env_source, [], choice.cwd, kernel_name="deno", transport="tcp")
    raise ToolMissing(
        "deno is not installed: `pip install 'runtimed-ffi[deno]'` (Python 3.10 or later), or put deno on PATH"
    )
