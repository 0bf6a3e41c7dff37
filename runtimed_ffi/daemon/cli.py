"""``python -m runtimed_ffi daemon run|status|stop``: the daemon on the command line.

Storey: daemon (7).  The reference's command line (protocol 2, section 1.3; python-api 1.12) is accepted as it is; no
sub-command means ``run``.
"""

from __future__ import annotations

import argparse
import json
import logging
import logging.handlers
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence

from .state import AlreadyRunning, Layout, is_locked, layout, read_info

COMMANDS = ("run", "status", "stop")
KERNEL_POOL_VARIABLE = "RUNTIMED_FFI_KERNEL_POOL_SIZE"
"""Environment variable: the default of ``--kernel-pool-size``, for daemons that nobody starts by hand."""

IDLE_TIMEOUT = 4 * 3600.0
"""Seconds after which a daemon on the user's default socket ends when nobody needs it."""

STOP_LIMIT = 10.0
"""Seconds ``stop`` waits for the daemon to be gone."""

_LOG_BYTES = 5 * 1024 * 1024
_LEVELS = {"trace": "DEBUG", "debug": "DEBUG", "info": "INFO", "warn": "WARNING", "error": "ERROR"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line (without the program's name) and return the exit status."""
    arguments = _parse(list(sys.argv[1:] if argv is None else argv))
    paths = layout(
        os.environ,
        base=arguments.base_dir,
        socket=arguments.socket,
        blobs=arguments.blob_store_dir,
        environments=arguments.cache_dir,
        settings=arguments.settings_dir,
        dev=arguments.dev,
    )
    if arguments.command == "status":
        return _status(paths)
    if arguments.command == "stop":
        return _stop(paths)
    return _run(paths, arguments)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m runtimed_ffi daemon", description="Host shared notebooks and run their cells."
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=COMMANDS,
        default="run",
        help="run (default): in the foreground; status: print daemon.json of a running one; stop: end it",
    )
    parser.add_argument("--socket", metavar="PATH", help="where to listen; without --base-dir all files go beside it")
    parser.add_argument("--base-dir", metavar="DIR", help="directory for lock, documents, kernels and log")
    parser.add_argument("--blob-store-dir", metavar="DIR", help="directory for large outputs (default: <base>/blobs)")
    parser.add_argument("--cache-dir", metavar="DIR", help="directory for environments (default: <base>/envs)")
    parser.add_argument(
        "--settings-dir",
        metavar="DIR",
        help="directory of settings.json (default: the user's; with --base-dir or --socket: there)",
    )
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
    parser.add_argument("--dev", action="store_true", help="development mode: one daemon per workspace")
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
        default=3600.0,
        help="keep empty rooms and their kernels this long (default: 3600)",
    )
    parser.add_argument("--ready-fd", metavar="N", type=int, help="write one line to this descriptor when ready")
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when standard input ends")
    # Options may stand before and after the command.
    return parser.parse_intermixed_args(argv)


def _run(paths: Layout, arguments: argparse.Namespace) -> int:
    from .. import __version__
    from .service import Options, run

    idle = arguments.idle_timeout
    if idle is None:
        idle = 0.0 if arguments.socket is not None else IDLE_TIMEOUT
    if arguments.dev:
        os.environ["RUNTIMED_DEV"] = "1"
    kernels = arguments.kernel_pool_size
    if kernels is None:
        kernels = _default_kernel_pool(os.environ.get(KERNEL_POOL_VARIABLE, ""), arguments.exit_with_stdin)
    options = Options(
        kernel_pool_size=max(kernels, 0),
        idle_timeout=idle if idle > 0 else None,
        eviction_delay=arguments.eviction_delay,
        ready_fd=arguments.ready_fd,
        uv_pool_size=max(0, arguments.uv_pool_size),
        conda_pool_size=max(0, arguments.conda_pool_size),
        exit_with_stdin=arguments.exit_with_stdin,
    )
    try:
        os.makedirs(paths.base, 0o700, exist_ok=True)
        _start_logging(paths, arguments.log_level)
        run(paths, options, __version__)
    except AlreadyRunning as error:
        print(f"runtimed-ffi: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        logging.getLogger(__name__).debug("the daemon failed", exc_info=True)
        print(f"runtimed-ffi: {error}", file=sys.stderr)
        return 1
    return 0


def _default_kernel_pool(variable: str, private: bool) -> int:
    """What the variable says; else one kernel, but none for a daemon that a test or a script has for itself."""
    try:
        return int(variable)
    except ValueError:
        return 0 if private else 1


def _status(paths: Layout) -> int:
    if not _answers(paths.socket):
        print("not running")
        return 1
    print(json.dumps(read_info(paths.info), indent=2, ensure_ascii=False))
    return 0


def _stop(paths: Layout) -> int:
    """Ask the daemon to end by a signal, and wait until it has given back its lock."""
    pid = read_info(paths.info).get("pid")
    if not _answers(paths.socket):
        print("not running")
        return 0
    if not isinstance(pid, int) or pid <= 0:
        print("runtimed-ffi: a daemon is running, but its process is unknown", file=sys.stderr)
        return 1
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_LIMIT
    while is_locked(paths.lock):
        if time.monotonic() > deadline:
            print(f"runtimed-ffi: the daemon (pid {pid}) did not end in time", file=sys.stderr)
            return 1
        select.select([], [], [], 0.02)
    print("stopped")
    return 0


def _answers(path: str) -> bool:
    """Whether somebody listens on the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _start_logging(paths: Layout, chosen: str | None) -> None:
    level = _LEVELS.get((chosen or os.environ.get("RUST_LOG", "")).lower(), "INFO")
    form = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    mask = os.umask(0o077)
    try:
        to_file = logging.handlers.RotatingFileHandler(paths.log, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8")
    finally:
        os.umask(mask)
    handlers: list[logging.Handler] = [to_file]
    # Who starts the daemon in the background sends its standard error to the log: each line belongs there once.
    if not os.path.samestat(os.stat(paths.log), os.fstat(2)):
        handlers.append(logging.StreamHandler(sys.stderr))
    logger = logging.getLogger("runtimed_ffi")
    logger.setLevel(level)
    for handler in handlers:
        handler.setFormatter(form)
        logger.addHandler(handler)
