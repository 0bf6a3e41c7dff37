"""``python -m runtimed_ffi``: build flags for C programs, versions, and the daemon (storey 8: command line).

Imports what it needs when it needs it: flags must be printed even where the daemon cannot run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata

from runtimed_ffi._binding import config

# Option -> (what prints it, help). The order here is the order of the output, whatever the command line's.
_FLAGS = {
    "cflags": (config.cflags, "compiler flags for programs that use the C library"),
    "libs": (config.libs, "linker flags"),
    "include": (config.get_include, "directory of runtimed_ffi.h"),
    "library": (config.get_library, "path of the shared library"),
    "pkgconfigdir": (config.get_pkgconfig_dir, "directory of runtimed_ffi.pc"),
}


def _version() -> str:
    try:
        return metadata.version("runtimed-ffi")
    except metadata.PackageNotFoundError:
        return "0.0.0-dev"


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description="Live, shared notebooks from any interpreter.")
    parser.add_argument("--version", action="version", version=f"runtimed-ffi {_version()}")
    for name, (_, text) in _FLAGS.items():
        parser.add_argument(f"--{name}", action="store_true", help=f"print the {text}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("daemon", help="start, stop, ask or be the daemon (see `daemon --help`)", add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The console script ``runtimed-ffi``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["daemon"]:
        # Everything behind it belongs to the daemon's own parser.
        return daemon_main(arguments[1:], "runtimed-ffi daemon")
    parser = _parser("runtimed-ffi")
    options = parser.parse_args(arguments)
    wanted = [print_it for name, (print_it, _) in _FLAGS.items() if getattr(options, name)]
    if not wanted:
        parser.print_help()
        return 2
    try:
        # On one line, so that `cc x.c $(python -m runtimed_ffi --cflags --libs)` works.
        print(" ".join(print_it() for print_it in wanted))
    except FileNotFoundError as error:
        print(f"runtimed-ffi: {error}", file=sys.stderr)
        return 1
    return 0


def daemon_main(argv: Sequence[str] | None = None, program: str = "runtimed") -> int:
    """The console script ``runtimed``: takes the reference daemon's command line."""
    from runtimed_ffi.cli.main import main as run_command

    return run_command(argv, program)


if __name__ == "__main__":
    sys.exit(main())
