"""``python -m runtimed_ffi daemon ...``: the options of the command line, and the command ``run``.

Storey: daemon (7).  The reference's command line (protocol 2, section 1.3; python-api 1.12) is accepted as it is; no
sub-command means ``run``.  The other commands look at a daemon from outside: ``runtimed_ffi.cli``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from runtimed_ffi.daemon.limits import MAX_PEERS
from runtimed_ffi.daemon.logging_setup import FORMATS
from runtimed_ffi.daemon.options import EVICTION_DELAY, DaemonOptions
from runtimed_ffi.places import IDLE_SECONDS, Layout, layout

COMMANDS = {
    "run": "be the daemon, in the foreground (default)",
    "start": "start one in the background and wait until it is ready",
    "stop": "end the one that runs, and wait until it has ended",
    "restart": "stop, then start with the same options and those given here",
    "status": "say what it does",
    "logs": "print the end of its log",
    "unit": "print a service file: `unit systemd` or `unit launchd`",
    "trust": "approve the dependencies that a notebook lists: `trust NOTEBOOK.ipynb`",
}
KERNEL_POOL_VARIABLE = "RUNTIMED_FFI_KERNEL_POOL_SIZE"
"""Environment variable: the default of ``--kernel-pool-size``, for daemons that nobody starts by hand."""

_PATHS = ("socket", "base_dir", "blob_store_dir", "cache_dir", "settings_dir")
_NOT_LASTING = ("command", "subject", "ready_fd", "exit_with_stdin", "json", "force", "timeout", "lines", "follow")
"""What is about one process or one command; everything else is how the daemon runs."""

STOP_LIMIT = 10.0
"""Seconds ``stop`` waits for the daemon to be gone."""

_EPILOG = """exit status: 0 done; 1 failed, the reason is on standard error; 2 wrong usage; 3 (status) not running;
4 (status) running, but without an answer"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, without the program's name.  Ends the program with status 2 if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m runtimed_ffi daemon",
        description="Host shared notebooks and run their cells.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = "; ".join(f"{name}: {text}" for name, text in COMMANDS.items())
    parser.add_argument("command", nargs="?", choices=COMMANDS, default="run", metavar="command", help=commands)
    parser.add_argument("subject", nargs="?", help=argparse.SUPPRESS)
    _add_places(parser.add_argument_group("which daemon (any command)"))
    _add_run_options(parser.add_argument_group("how it runs (run, start, restart, unit)"))
    _add_command_options(parser.add_argument_group("other commands"))
    # Options may stand before and after the command.
    arguments = parser.parse_intermixed_args(list(argv))
    if (arguments.subject is not None) != (arguments.command in ("unit", "trust")):
        parser.error("`unit` needs a kind, `trust` needs a notebook, and nothing else has either")
    if arguments.command == "unit" and arguments.subject not in ("systemd", "launchd"):
        parser.error("`unit` needs a kind: systemd or launchd")
    return arguments


def _add_places(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--socket", metavar="PATH", help="where to listen; without --base-dir all files go beside it")
    parser.add_argument("--base-dir", metavar="DIR", help="directory for lock, documents, kernels and log")
    parser.add_argument("--blob-store-dir", metavar="DIR", help="directory for large outputs (default: <base>/blobs)")
    parser.add_argument("--cache-dir", metavar="DIR", help="directory for environments (default: <base>/envs)")
    parser.add_argument(
        "--settings-dir",
        metavar="DIR",
        help="directory of settings.json (default: the user's; with --base-dir or --socket: there)",
    )
    parser.add_argument("--dev", action="store_true", help="development mode: one daemon per workspace")


def _add_run_options(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--uv-pool-size", metavar="N", type=int, default=0, help="uv environments kept ready (default: 0)"
    )
    parser.add_argument(
        "--conda-pool-size", metavar="N", type=int, default=0, help="conda environments kept ready (default: 0)"
    )
    parser.add_argument(
        "--kernel-pool-size",
        metavar="N",
        type=int,
        help="keep N kernels running for the next launches, 0 for none (default: 1, with --exit-with-stdin 0; "
        f"the environment variable {KERNEL_POOL_VARIABLE} sets another default)",
    )
    parser.add_argument("--log-level", metavar="LEVEL", help="trace, debug, info, warn or error (default: RUST_LOG)")
    parser.add_argument("--log-format", choices=FORMATS, default="text", help="json: one object a line")
    parser.add_argument(
        "--idle-timeout",
        metavar="SECONDS",
        type=float,
        help="end after this time without peers and work; 0 for never (default: 14400, never with --socket)",
    )
    parser.add_argument(
        "--eviction-delay",
        metavar="SECONDS",
        type=float,
        default=EVICTION_DELAY,
        help=f"keep empty rooms and their kernels this long (default: {EVICTION_DELAY:g})",
    )
    parser.add_argument(
        "--max-peers",
        metavar="N",
        type=int,
        default=MAX_PEERS,
        help=f"connections at one time; further ones are closed at once (default: {MAX_PEERS})",
    )
    parser.add_argument(
        "--blob-urls",
        choices=("plain", "secret"),
        default="plain",
        help="secret: serve blobs only below the prefix in daemon.json (default: plain, below / as well)",
    )
    parser.add_argument("--ready-fd", metavar="N", type=int, help="write one line to this descriptor when ready")
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when standard input ends")


def _add_command_options(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--json", action="store_true", help="status: everything, for programs")
    parser.add_argument("--force", action="store_true", help="stop, restart: kill a daemon that does not end in time")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=STOP_LIMIT,
        help=f"stop, restart: wait this long for its end (default: {STOP_LIMIT:g})",
    )
    parser.add_argument("-n", "--lines", metavar="N", type=int, default=50, help="logs: as many lines (default: 50)")
    parser.add_argument("-f", "--follow", action="store_true", help="logs: go on with what is written")


def paths_of(arguments: argparse.Namespace) -> Layout:
    """Where the files of the daemon are that a command line means."""
    return layout(
        os.environ,
        base=arguments.base_dir,
        socket=arguments.socket,
        blobs=arguments.blob_store_dir,
        environments=arguments.cache_dir,
        settings=arguments.settings_dir,
        dev=arguments.dev,
    )


def run_options(arguments: argparse.Namespace) -> list[str]:
    """The options with which ``run`` does what this command line says, paths made absolute.

    Without those that belong to one process: ``--ready-fd`` and ``--exit-with-stdin``.
    """
    default, options = parse([]), []
    for name, value in vars(arguments).items():
        if name in _NOT_LASTING or value == getattr(default, name):
            continue
        options.append("--" + name.replace("_", "-"))
        if value is not True:
            options.append(os.path.abspath(value) if name in _PATHS else str(value))
    return options


def daemon_options(paths: Layout, arguments: argparse.Namespace) -> DaemonOptions:
    """How the daemon runs that a command line means."""
    idle = arguments.idle_timeout
    if idle is None:
        idle = 0.0 if arguments.socket is not None else IDLE_SECONDS
    kernels = arguments.kernel_pool_size
    if kernels is None:
        kernels = _default_kernel_pool(os.environ.get(KERNEL_POOL_VARIABLE, ""), arguments.exit_with_stdin)
    return DaemonOptions(
        paths,
        development=arguments.dev,
        log_level=arguments.log_level,
        log_format=arguments.log_format,
        idle_timeout=idle if idle > 0 else None,
        eviction_delay=arguments.eviction_delay,
        ready_fd=arguments.ready_fd,
        uv_pool_size=max(0, arguments.uv_pool_size),
        conda_pool_size=max(0, arguments.conda_pool_size),
        exit_with_stdin=arguments.exit_with_stdin,
        kernel_pool_size=max(0, kernels),
        max_peers=arguments.max_peers,
        plain_blob_urls=arguments.blob_urls == "plain",
        arguments=tuple(run_options(arguments)),
    )


def run(paths: Layout, arguments: argparse.Namespace) -> int:
    """Be the daemon until it ends, and return the exit status."""
    options = daemon_options(paths, arguments)
    # The other commands do without what the daemon imports.
    from runtimed_ffi.daemon import main

    return main.run(options)


def _default_kernel_pool(variable: str, private: bool) -> int:
    """What the variable says; else one kernel, but none for a daemon that a test or a script has for itself."""
    try:
        return int(variable)
    except ValueError:
        return 0 if private else 1
