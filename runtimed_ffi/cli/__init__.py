"""The commands that look at a daemon from outside: start, stop, restart, status, logs, unit; and trust.

Storey: face (7), above the daemon and the client: a command finds out where a daemon is as the daemon does, and talks
to it as a client does.  Exit statuses: 0 done, 1 failed, 2 wrong usage; of ``status`` also 3 not running, 4 running
without an answer.

===========  =========================================
module       noun
===========  =========================================
``observe``  what can be known about a daemon
``control``  its start and its end
``status``   the words and numbers for people
``logs``     the end of its log
``unit``     service files
``trust``    the dependencies of a notebook
===========  =========================================
"""

from __future__ import annotations

import argparse

from runtimed_ffi.cli import control, logs, status, trust, unit
from runtimed_ffi.places import Layout


def perform(paths: Layout, arguments: argparse.Namespace) -> int:
    """Carry out the command of a parsed command line (``daemon.cli.parse``), and return the exit status."""
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
    if arguments.command == "trust":
        return trust.approve(arguments.subject)
    return unit.show(paths, arguments)
