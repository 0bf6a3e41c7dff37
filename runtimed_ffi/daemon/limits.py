"""Descriptors: how many this process may have, how many peers that allows, and a warning before they run out.

Storey: daemon (7).  At the limit the host closes further connections at once, and a kernel that cannot be started is an
error of its launch; what is open goes on.
"""

from __future__ import annotations

import logging
import os
import resource

log = logging.getLogger(__name__)

MAX_PEERS = 1024
"""Connections at one time, of all channels together."""

_DESCRIPTOR_LIMIT = 65536
"""Descriptors that the daemon requests. Kernels inherit the limit, and some programs visit every number up to it."""

_NEAR = 0.8
"""Part of the limit from which on the log has a warning."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors as far as allowed, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _DESCRIPTOR_LIMIT
    wanted = _DESCRIPTOR_LIMIT if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTOR_LIMIT)
    if wanted > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
        except (OSError, ValueError) as error:  # macOS refuses more than the system's own limit.
            log.warning("the limit of %d descriptors cannot be raised to %d: %s", soft, wanted, error)
    return soft


class Limits:
    """The bounds of this process.

    Args:
        max_peers: Connections wanted; at most half of the descriptors are given to peers, the other half is for
            kernels.
    """

    def __init__(self, max_peers: int = MAX_PEERS) -> None:
        self.descriptors = raise_descriptor_limit()
        self.peers = max(1, min(max_peers, self.descriptors // 2))
        if self.peers < max_peers:
            log.warning("only %d peers at a time: there are %d descriptors", self.peers, self.descriptors)
        self._warned = False

    def look(self) -> None:
        """Warn in the log, once each time, when the descriptors run short.  Cheap."""
        try:
            # The lowest free number; all below it are in use.
            lowest = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._warn(f"no descriptor is left: {error}")
            return
        os.close(lowest)
        if lowest >= self.descriptors * _NEAR:
            self._warn(f"{lowest} of {self.descriptors} descriptors are in use")
        else:
            self._warned = False

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("%s; close sessions and kernels, or start the daemon with a higher `ulimit -n`", text)
