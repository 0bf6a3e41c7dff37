"""Cells that wait for a test, or for an interrupt: they block until it comes and do not poll."""

from __future__ import annotations

import os

BEGUN = "import sys\nsys.stdout.write('begun\\n')\nsys.stdout.flush()\n"
"""Prints ``begun`` in one piece; ``print`` writes the end of the line by itself, so that PyPy may deliver two."""

FOREVER = f"""{BEGUN}import os, signal
# A signal that comes before the wait must end it as well, so it leaves a byte.
signals, writer = os.pipe()
os.set_blocking(writer, False)
before = signal.set_wakeup_fd(writer)
try:
    while True:
        os.read(signals, 1)
finally:
    signal.set_wakeup_fd(before)
    os.close(signals)
    os.close(writer)"""
"""A cell that prints ``begun`` and ends by an interrupt only."""


class Gate:
    """A gate at which cells wait until the test opens it; a named pipe with a byte for each.

    Args:
        path: of the pipe, which must not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        os.mkfifo(path)
        # Open for both directions: then no cell waits for the other end to be opened.
        self._pipe = os.open(path, os.O_RDWR)
        self.wait = f"import os\ngate = os.open({os.fspath(path)!r}, os.O_RDONLY)\nos.read(gate, 1)\nos.close(gate)\n"
        """Code that goes on when the gate is open."""
        self.code = BEGUN + self.wait
        """Prints ``begun`` and goes on when the gate is open."""

    def open(self, cells: int = 100) -> None:
        """Let as many cells through, those that wait and those that come later."""
        os.write(self._pipe, bytes(cells))

    def close(self) -> None:
        """Free the descriptor."""
        os.close(self._pipe)
