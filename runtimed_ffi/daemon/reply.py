"""The answer to one request of a peer.

Storey: daemon (7).  Every request gets exactly one answer, on whichever channel it came.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from runtimed_ffi.daemon.ports import Json

if TYPE_CHECKING:
    from runtimed_ffi.host import Host

log = logging.getLogger(__name__)


class Reply:
    """The answer that a request waits for.  ``token`` is the host's number of the request."""

    __slots__ = ("_host", "_sent", "token")

    def __init__(self, host: Host, token: int) -> None:
        self.token = token
        self._host = host
        self._sent = False

    def send(self, response: Json) -> bool:
        """Send the answer, from any thread; false if the peer has disconnected.  Only the first call does."""
        if self._sent:
            return False
        self._sent = True
        try:
            self._host.respond(self.token, response)
        except Exception as error:
            # The usual reason: the peer has disconnected.
            log.debug("a response was not sent: %s", error)
            return False
        return True
