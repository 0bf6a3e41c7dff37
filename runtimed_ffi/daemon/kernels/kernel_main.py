"""What a Python kernel of ours runs: ipykernel, with a few differences.

Storey: daemon (7), but in the kernel's process and environment: imports ipykernel and nothing of this package.

Its publishing socket does not drop messages that the daemon is slow to read.  By default ZeroMQ drops messages for a
subscriber that is 1,000 of them behind: a cell that prints quickly on a busy machine would lose outputs, and even its
idle status.

An interrupt that meets the kernel while it prepares a cell ends the cell: IPython reports it as an error of a callback,
and runs the cell all the same.

It ends when its daemon has ended, with what it has started: at once where the system reports the end (Linux, but not on
PyPy); elsewhere it checks once a second, as every ipykernel does.

With ``--prewarm`` as its last argument it starts, but does nothing yet that depends on the notebook: what
IPython does last in a start (matplotlib, extensions, startup files and lines of the user's profile) waits for the
``rtd_handover_request``, which names the working directory.  Nothing has been executed in it by then; so its history is
empty, its counters are at one, and its random numbers were seeded from the system for it alone.
"""

import functools
import json
import os
import select
import signal
import sys
import threading
import time
from importlib import import_module
from typing import Any, Callable

HIGH_WATER_MARK = 1_000_000
"""Messages kept in the kernel for a subscriber that does not read."""

PREWARM = "--prewarm"
"""The argument that makes it wait for its handover."""

_LAST_STEPS = ("init_gui_pylab", "init_extensions", "init_code")
"""The end of ``IPKernelApp.initialize``: everything in it that runs code of the user."""

_NEEDED_SOON = ("IPython.core.completer", "IPython.extensions.storemagic", "ipykernel.comm")
"""Modules that IPython imports with the last steps and the first cell."""


def main() -> None:
    """Be ``python -m ipykernel_launcher``."""
    # A script has its own directory in front; user code must not find it there.
    del sys.path[0]
    prewarmed = sys.argv[-1] == PREWARM
    if prewarmed:
        del sys.argv[-1]
    from ipykernel import kernelapp

    app: Any = kernelapp.IPKernelApp
    _keep_all_messages(app)
    _send_any_text(app)
    _interrupt_preparations(app)
    _end_with_parent(app)
    if prewarmed:
        _wait_for_handover(app)
    app.launch_instance()


def _keep_all_messages(app: Any) -> None:
    plain = app.init_iopub

    def init_iopub(self: Any, context: Any) -> None:
        # The default of the sockets that this context makes from here on.
        context.sndhwm = HIGH_WATER_MARK
        plain(self, context)

    app.init_iopub = init_iopub


def _send_any_text(app: Any) -> None:
    plain = app.init_sockets

    def init_sockets(self: Any) -> None:
        plain(self)
        usual = self.session.pack

        def pack(message: Any) -> Any:
            try:
                return usual(message)
            except UnicodeEncodeError:
                # Half of a surrogate pair has no UTF-8. The text would be lost, and the thread that publishes would
                # forget the flush that waits for it, which then takes its ten seconds.
                return json.dumps(message, default=json_default).encode("ascii")

        self.session.pack = pack

    from jupyter_client.jsonutil import json_default

    app.init_sockets = init_sockets


def _interrupt_preparations(app: Any) -> None:
    plain = app.init_kernel

    def init_kernel(self: Any) -> None:
        plain(self)
        events = self.kernel.shell.events
        usual, shell, strict = events.trigger, events.shell, _Strict(events.shell)

        def trigger(event: str, *args: Any, **kwargs: Any) -> None:
            # Behind the cell it is too late: it would cost the cell its reply.
            events.shell = strict if event.startswith("pre_") else shell
            usual(event, *args, **kwargs)

        events.trigger = trigger

    app.init_kernel = init_kernel


class _Strict:
    """Stands in for the shell that IPython reports errors of callbacks to: an interrupt is not one of these."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def showtraceback(self) -> None:
        if isinstance(sys.exc_info()[1], KeyboardInterrupt):
            raise
        self._shell.showtraceback()


def _end_with_parent(app: Any) -> None:
    def init_poller(self: Any) -> None:
        parent = self.parent_handle
        try:
            descriptor = os.pidfd_open(parent)  # type: ignore[attr-defined,unused-ignore]
            wait = functools.partial(_wait_for, descriptor)
        except ProcessLookupError:
            os._exit(1)
        except (AttributeError, OSError):
            wait = functools.partial(_look_for, parent)
        # The application starts it together with its loop.
        self.poller = _ParentWatch(wait)

    app.init_poller = init_poller


class _ParentWatch(threading.Thread):
    """Ends everything of this kernel when a wait for the end of its parent is over.

    A class with a ``run`` of its own: ipykernel 6 replaces that of ``Thread``, and the replacement fails in threads
    that were made before it.
    """

    def __init__(self, wait: Callable[[], None]) -> None:
        super().__init__(name="parent-watch", daemon=True)
        self._wait = wait

    def run(self) -> None:
        self._wait()
        # The daemon has made the group for this kernel; its children are in it.
        os.killpg(os.getpgrp(), signal.SIGKILL)


def _wait_for(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()


def _look_for(process: int) -> None:
    while True:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(1.0)


def _wait_for_handover(app: Any) -> None:
    steps: dict[str, Callable[[Any], None]] = {name: getattr(app, name) for name in _LAST_STEPS}
    for name in _LAST_STEPS:
        setattr(app, name, _not_yet)
    plain = app.init_kernel

    def init_kernel(self: Any) -> None:
        plain(self)
        handlers = self.kernel.shell_handlers

        def handed_over(stream: Any, ident: Any, parent: Any) -> None:
            del handlers["rtd_handover_request"]
            try:
                _settle(self, parent["content"]["cwd"])
                for step in steps.values():
                    step(self)
                content = {"status": "ok"}
            except Exception as error:
                content = {"status": "error", "ename": type(error).__name__, "evalue": str(error)}
            sys.stdout.flush()
            sys.stderr.flush()
            self.kernel.session.send(stream, "rtd_handover_reply", content, parent, ident=ident)

        handlers["rtd_handover_request"] = handed_over
        for name in _NEEDED_SOON:
            import_module(name)

    app.init_kernel = init_kernel


def _not_yet(_: Any) -> None:
    """A step that is done at the handover."""


def _settle(app: Any, directory: str) -> None:
    """Be in a directory as if started there: IPython remembers it in two places."""
    os.chdir(directory)
    app.shell.starting_dir = os.getcwd()
    visited = app.shell.history_manager.dir_hist
    visited[:] = [type(visited[0])(os.getcwd())]


if __name__ == "__main__":
    main()
