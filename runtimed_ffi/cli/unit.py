"""Service files: a user unit for systemd, a launch agent for launchd.

Storey 8 (command line). They are printed, not installed: where they go is the user's decision (docs/daemon.md).
"""

from __future__ import annotations

import argparse
import os
import plistlib
import sys
from collections.abc import Sequence

from runtimed_ffi.cli.parser import run_options
from runtimed_ffi.places import Layout, daemon_command

LABEL = "io.github.runtimed-ffi"
"""The name of the launch agent."""


def show(paths: Layout, arguments: argparse.Namespace) -> int:
    """Print the service file that ``unit systemd`` or ``unit launchd`` asks for."""
    command = daemon_command(*run_options(arguments))
    if arguments.idle_timeout is None:
        # A user whose service manager starts it wants it to be there.
        command += ["--idle-timeout", "0"]
    if arguments.subject == "systemd":
        sys.stdout.write(systemd(command, os.environ.get("PATH", os.defpath)))
    else:
        sys.stdout.write(launchd(command, os.environ.get("PATH", os.defpath), paths.log))
    return 0


def systemd(command: Sequence[str], path: str) -> str:
    """A user unit.  ``path`` is the search path for ``uv``, ``conda`` and what kernels start.

    ``Type=exec``: no other unit waits for the daemon's readiness, and clients connect by themselves.
    ``KillMode=mixed``: only the daemon is asked to end, since it stops its kernels; what is left of them is killed.
    """
    return f"""\
[Unit]
Description=Shared notebooks (runtimed-ffi)

[Service]
Type=exec
ExecStart={" ".join(_systemd_word(word).replace("$", "$$") for word in command)}
Environment={_systemd_word("PATH=" + path)}
KillMode=mixed
TimeoutStopSec=15
Restart=on-failure
LimitNOFILE=65536

[Install]
WantedBy=default.target
"""


def _systemd_word(word: str) -> str:
    """A word for a unit file: nothing in it is a specifier or ends it."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def launchd(command: Sequence[str], path: str, log: str) -> str:
    """A launch agent: started at login, again after a crash, and not after an orderly end."""
    agent = {
        "Label": LABEL,
        "ProgramArguments": list(command),
        "EnvironmentVariables": {"PATH": path},
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ExitTimeOut": 15,
        "SoftResourceLimits": {"NumberOfFiles": 65536},
        "StandardErrorPath": log,
    }
    return plistlib.dumps(agent, sort_keys=False).decode("utf-8")
