"""One environment of a pool.

Storey: daemon (7).
"""

from __future__ import annotations

import os
import time

from runtimed_ffi.daemon.environments.leases import Lease
from runtimed_ffi.daemon.environments.recipes import Made
from runtimed_ffi.daemon.environments.removals import Removals


class Environment:
    """An environment that this daemon holds the lease of."""

    def __init__(self, lease: Lease, made: Made, removals: Removals, age: float = 0.0) -> None:
        """Take over the lease of what was built ``age`` seconds ago."""
        self.lease = lease
        self.path = lease.path
        self.python = made.python
        self.variables = made.variables
        self.born = time.monotonic() - age
        """When it was built, on ``time.monotonic``."""
        self._removals = removals
        self._ended = False

    @property
    def usable(self) -> bool:
        """Whether directory and interpreter are (still) there."""
        return os.path.isdir(self.path) and os.access(self.python, os.X_OK)

    def end(self) -> None:
        """Remove it in the background: it was used, or is not wanted.  Idempotent."""
        if not self._ended:
            self._ended = True
            self._removals.begin(self.lease)
