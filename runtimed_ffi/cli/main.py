"""The entry point of ``runtimed``: from a command line to an exit status.

Storey 8 (command line). Each command imports what it needs when it runs: a daemon starts without what only the others
need.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from runtimed_ffi.cli.parser import daemon_options, parse, paths_of


def main(argv: Sequence[str] | None = None, program: str = "runtimed") -> int:
    """Carry out a command line.

    Args:
        argv: the command line without the program's name; default: this process's.
        program: the program's name, for messages.

    Returns:
        The exit status: 0 done, 1 failed; of ``status`` also 3 not running, 4 running without an answer.

    Raises:
        SystemExit: the command line is wrong (2), or asked for help or the version (0).
    """
    arguments = parse(sys.argv[1:] if argv is None else argv, program)
    if arguments.command == "trust":
        from runtimed_ffi.cli import trust

        return trust.approve(arguments.subject)
    paths = paths_of(arguments)
    if arguments.command == "run":
        from runtimed_ffi.daemon.main import run

        return run(daemon_options(paths, arguments))
    from runtimed_ffi.cli import control, logs, status, unit

    if arguments.command == "start":
        return control.start(paths, arguments)
    if arguments.command == "stop":
        return control.stop(paths, limit=arguments.timeout, force=arguments.force)
    if arguments.command == "restart":
        return control.restart(paths, arguments)
    if arguments.command == "status":
        return status.show(paths, as_json=arguments.json)
    if arguments.command == "logs":
        return logs.show(paths, lines=arguments.lines, follow=arguments.follow)
    return unit.show(paths, arguments)
