"""The end of a daemon's log, by the system's ``tail``, which also follows it through its renaming.

Storey 8 (command line).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from runtimed_ffi.places import Layout


def show(paths: Layout, *, lines: int, follow: bool) -> int:
    """Print the last lines of the log; with ``follow`` go on with what is written, until interrupted."""
    if not os.path.exists(paths.log):
        print(f"runtimed-ffi: there is no log at {paths.log}", file=sys.stderr)
        return 1
    command = ["tail", "-n", str(max(lines, 0)), *(["-F"] if follow else []), "--", paths.log]
    try:
        code = subprocess.run(command, check=False).returncode
        # Ctrl-C goes to both, and `tail` may have ended of it before it is noticed here.
        return 0 if code == -signal.SIGINT else code
    except FileNotFoundError:
        print(f"runtimed-ffi: there is no `tail` here to show {paths.log}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0  # The way to end following.
