"""The command line of ``runtimed``: its commands, what each takes, and what values it takes.

Storey 8 (command line). The reference's command line (protocol 2, section 1.3; python-api 1.12) is accepted as it is:
no command means ``run``, and ``--dev`` and ``--log-level`` may stand before or behind the command. All other options
stand behind it. A wrong value, or an option of another command, ends the program with status 2 and a sentence.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from typing import Any

from runtimed_ffi._version import __version__
from runtimed_ffi.daemon.options import EVICTION_DELAY, LOG_FORMATS, LOG_LEVELS, MAX_PEERS, DaemonOptions
from runtimed_ffi.places import IDLE_SECONDS, Layout, layout

COMMANDS = {
    "run": "be the daemon, in the foreground (default)",
    "start": "start a daemon in the background and wait until it is ready",
    "stop": "end the running daemon, and wait until it has ended",
    "restart": "stop, then start with the same options and those given here",
    "status": "show what the daemon does",
    "logs": "print the end of its log",
    "unit": "print a service file for systemd or launchd",
    "trust": "approve the dependencies that a notebook lists",
}

KERNEL_POOL_VARIABLE = "RUNTIMED_FFI_KERNEL_POOL_SIZE"
"""Environment variable: the default of ``--kernel-pool-size``, for daemons that start by themselves."""

STOP_SECONDS = 10.0
"""How long ``stop`` waits for the daemon's end."""

_PATHS = ("socket", "base_dir", "blob_store_dir", "cache_dir", "settings_dir")
_LASTING = (
    *_PATHS,
    "dev",
    "uv_pool_size",
    "conda_pool_size",
    "kernel_pool_size",
    "log_level",
    "log_format",
    "idle_timeout",
    "eviction_delay",
    "max_peers",
    "blob_urls",
)
"""What is about how a daemon runs; the other options are about one process or one command."""

_EPILOG = "exit status: 0 done; 1 failed, the reason is on standard error; 2 wrong usage"
_STATUS_EPILOG = "exit status: 0 the daemon answers; 2 wrong usage; 3 not running; 4 running, but without an answer"


def parse(argv: Sequence[str], program: str = "runtimed") -> argparse.Namespace:
    """Read a command line, which begins behind the program's name.

    Raises:
        SystemExit: status 2 if it is wrong; 0 after ``--help`` or ``--version``.
    """
    parser = argparse.ArgumentParser(
        prog=program,
        description="Host shared notebooks and run their cells.",
        epilog=f"Without a command: run. `{program} COMMAND --help` shows the options of a command.\n{_EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"runtimed-ffi {__version__}")
    _add_global_options(parser, None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=_STATUS_EPILOG if name == "status" else _EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _fill(command, name)
    return parser.parse_args(_with_command(parser, list(argv)))


def paths_of(arguments: argparse.Namespace) -> Layout:
    """Where the files of the daemon are that a command line means."""
    return layout(
        os.environ,
        base=arguments.base_dir,
        socket=arguments.socket,
        blobs=getattr(arguments, "blob_store_dir", None),
        environments=getattr(arguments, "cache_dir", None),
        settings=getattr(arguments, "settings_dir", None),
        dev=arguments.dev,
    )


def run_options(arguments: argparse.Namespace) -> list[str]:
    """The options with which ``run`` does what this command line says, paths made absolute.

    Without those that belong to one process: ``--ready-fd`` and ``--exit-with-stdin``.
    """
    default, options = parse(["run"]), []
    for name in _LASTING:
        value = getattr(arguments, name)
        if value == getattr(default, name):
            continue
        options.append("--" + name.replace("_", "-"))
        if value is not True:
            options.append(os.path.abspath(value) if name in _PATHS else str(value))
    return options


def daemon_options(paths: Layout, arguments: argparse.Namespace) -> DaemonOptions:
    """How the daemon runs that a command line of ``run`` means."""
    idle = arguments.idle_timeout
    if idle is None:
        idle = 0.0 if arguments.socket is not None else IDLE_SECONDS
    kernels = arguments.kernel_pool_size
    if kernels is None:
        kernels = default_kernel_pool(os.environ.get(KERNEL_POOL_VARIABLE, ""), arguments.exit_with_stdin)
    return DaemonOptions(
        paths,
        development=arguments.dev,
        log_level=arguments.log_level,
        log_format=arguments.log_format,
        idle_timeout=idle if idle > 0 else None,
        eviction_delay=arguments.eviction_delay,
        ready_fd=arguments.ready_fd,
        uv_pool_size=arguments.uv_pool_size,
        conda_pool_size=arguments.conda_pool_size,
        exit_with_stdin=arguments.exit_with_stdin,
        kernel_pool_size=kernels,
        max_peers=arguments.max_peers,
        plain_blob_urls=arguments.blob_urls == "plain",
        arguments=tuple(run_options(arguments)),
    )


def default_kernel_pool(variable: str, private: bool) -> int:
    """The number the variable gives; else one kernel, but none for a daemon that one test or script has for itself."""
    try:
        return max(0, int(variable))
    except ValueError:
        return 0 if private else 1


def _with_command(parser: argparse.ArgumentParser, argv: list[str]) -> list[str]:
    """The command line with its command written out."""
    position = 0
    while position < len(argv) and argv[position].split("=")[0] in ("--dev", "--log-level"):
        position += 2 if argv[position] == "--log-level" else 1
    first = argv[position] if position < len(argv) else ""
    if first in ("-h", "--help", "--version") or (first and not first.startswith("-")):
        return argv
    for word in argv[position:]:
        if word in COMMANDS:
            parser.error(f"{first} must stand behind the command: {parser.prog} {word} {first} ...")
    return [*argv[:position], "run", *argv[position:]]


def _fill(parser: argparse.ArgumentParser, command: str) -> None:
    """Add what one command takes."""
    runs = command in ("run", "start", "restart", "unit")
    if command == "unit":
        parser.add_argument("subject", metavar="KIND", choices=("systemd", "launchd"), help="systemd or launchd")
    if command == "trust":
        parser.add_argument("subject", metavar="NOTEBOOK", help="the notebook file")
    if command != "trust":
        parser.add_argument(
            "--socket", metavar="PATH", help="the daemon's socket; without --base-dir all its files are beside it"
        )
        parser.add_argument("--base-dir", metavar="DIR", help="directory for lock, documents, kernels and log")
    _add_global_options(parser, "how detailed the log is (default: RUST_LOG)" if runs else argparse.SUPPRESS)
    if runs:
        _add_run_options(parser)
    if command == "run":
        parser.add_argument(
            "--ready-fd", metavar="N", type=_whole(), help="write one line to this descriptor when ready"
        )
        parser.add_argument("--exit-with-stdin", action="store_true", help="end when standard input ends")
    if command in ("stop", "restart"):
        parser.add_argument("--force", action="store_true", help="kill a daemon that does not end in time")
        parser.add_argument(
            "--timeout",
            metavar="SECONDS",
            type=_seconds,
            default=STOP_SECONDS,
            help=f"wait this long for its end (default: {STOP_SECONDS:g})",
        )
    if command == "status":
        parser.add_argument("--json", action="store_true", help="print everything as JSON")
    if command == "logs":
        parser.add_argument(
            "-n", "--lines", metavar="N", type=_whole(), default=50, help="number of lines (default: 50)"
        )
        parser.add_argument("-f", "--follow", action="store_true", help="go on with what is written")


def _add_global_options(parser: argparse.ArgumentParser, level_help: str | None) -> None:
    """Add the options that may stand before or behind the command: a sub-parser must not reset what stood before."""
    of_command = level_help is not None
    defaults: dict[str, Any] = {"default": argparse.SUPPRESS} if of_command else {}
    parser.add_argument("--dev", action="store_true", help="development mode: one daemon per workspace", **defaults)
    parser.add_argument(
        "--log-level",
        metavar="LEVEL",
        type=str.lower,
        choices=LOG_LEVELS,
        help=level_help if level_help in (None, argparse.SUPPRESS) else f"{level_help}: one of {', '.join(LOG_LEVELS)}",
        **defaults,
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--blob-store-dir", metavar="DIR", help="directory for large outputs (default: <base>/blobs)")
    add("--cache-dir", metavar="DIR", help="directory for environments (default: <base>/envs)")
    add(
        "--settings-dir",
        metavar="DIR",
        help="directory of settings.json (default: the user's; with --base-dir or --socket: there)",
    )
    add("--uv-pool-size", metavar="N", type=_whole(), default=0, help="uv environments kept ready (default: 0)")
    add("--conda-pool-size", metavar="N", type=_whole(), default=0, help="conda environments kept ready (default: 0)")
    add(
        "--kernel-pool-size",
        metavar="N",
        type=_whole(),
        help="keep N kernels running for the next launches, 0 for none (default: 1, with --exit-with-stdin 0; "
        f"the environment variable {KERNEL_POOL_VARIABLE} sets another default)",
    )
    add("--log-format", choices=LOG_FORMATS, default="text", help="json: one object a line (default: text)")
    add(
        "--idle-timeout",
        metavar="SECONDS",
        type=_seconds,
        help="end after this time without peers and work; 0 for never "
        f"(default: {IDLE_SECONDS:g}, never with --socket)",
    )
    add(
        "--eviction-delay",
        metavar="SECONDS",
        type=_seconds,
        default=EVICTION_DELAY,
        help=f"keep empty rooms and their kernels this long (default: {EVICTION_DELAY:g})",
    )
    add(
        "--max-peers",
        metavar="N",
        type=_whole(1),
        default=MAX_PEERS,
        help=f"connections at one time; further ones are closed at once (default: {MAX_PEERS})",
    )
    add(
        "--blob-urls",
        choices=("plain", "secret"),
        default="plain",
        help="secret: serve blobs only below the prefix in daemon.json (default: plain, below / as well)",
    )


def _whole(least: int = 0) -> Any:
    """A reader of whole numbers from `least` on."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"must be a whole number, {least} or more, not {text!r}")
        return number

    return read


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not (math.isfinite(seconds) and seconds >= 0):
        raise argparse.ArgumentTypeError(f"must be a number of seconds, 0 or more, not {text!r}")
    return seconds
