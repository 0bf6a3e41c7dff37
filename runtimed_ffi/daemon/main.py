"""The entry point: from options to an exit status.

Storey: daemon (7).  Commands call :func:`run`; nothing of the daemon is imported before they do.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys

from runtimed_ffi._system.permissions import make_base
from runtimed_ffi._version import __version__
from runtimed_ffi.daemon import service
from runtimed_ffi.daemon.logging_setup import open_log
from runtimed_ffi.daemon.options import DaemonOptions
from runtimed_ffi.daemon.state import AlreadyRunning


def run(options: DaemonOptions) -> int:
    """Be the daemon until it ends.  Call it on the main thread: signals end the daemon.

    Returns:
        The exit status: 0, or 1 when the daemon cannot run; the reason is on standard error then.
    """
    if options.development:
        os.environ["RUNTIMED_DEV"] = "1"
    # A fault that kills the interpreter is printed; in the background, standard error is the log.
    faulthandler.enable(2)
    try:
        make_base(options.paths)
        open_log(options.paths.log, options.log_level, options.log_format)
        service.run(options, __version__)
    except AlreadyRunning as error:
        print(f"runtimed-ffi: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        logging.getLogger(__name__).debug("the daemon failed", exc_info=True)
        print(f"runtimed-ffi: {error}", file=sys.stderr)
        return 1
    return 0
