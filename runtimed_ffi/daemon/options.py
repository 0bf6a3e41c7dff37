"""How a daemon is to run: what a command line, or another program, decides about it.

Storey: daemon (7).  Nothing is imported here that takes time.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtimed_ffi.daemon.limits import MAX_PEERS
from runtimed_ffi.places import Layout

__all__ = ["EVICTION_DELAY", "LOG_FORMATS", "LOG_LEVELS", "MAX_PEERS", "DaemonOptions"]

LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("trace", "debug", "info", "warn", "error")
EVICTION_DELAY = 3600.0
"""Seconds an empty room keeps its kernel (the reference: 30)."""


@dataclass(frozen=True)
class DaemonOptions:
    """All that ``daemon.main.run`` needs to know."""

    paths: Layout
    """Where the files are."""
    development: bool = False
    """One daemon per workspace; kernels and other children see ``RUNTIMED_DEV=1``."""
    log_level: str | None = None
    """``trace``, ``debug``, ``info``, ``warn`` or ``error``; ``None``: what ``RUST_LOG`` says."""
    log_format: str = "text"
    """One of `LOG_FORMATS`."""
    idle_timeout: float | None = None
    """Seconds without peers and work after which it ends; ``None``: never."""
    eviction_delay: float | None = EVICTION_DELAY
    """Seconds an empty room stays; ``None``: for ever."""
    ready_fd: int | None = None
    """A descriptor that gets the line ``ready`` when clients may connect."""
    uv_pool_size: int = 0
    """uv environments kept ready; 0: none, and kernels without requirements start in the daemon's own environment."""
    conda_pool_size: int = 0
    """Conda environments kept ready; 0: none, one is made when a kernel asks for it."""
    exit_with_stdin: bool = False
    """End when standard input ends: a daemon that belongs to a test or a script ends with it."""
    kernel_pool_size: int = 0
    """Kernels started ahead of the next launches."""
    max_peers: int = MAX_PEERS
    """Connections at one time, as far as there are descriptors for them."""
    plain_blob_urls: bool = True
    """Whether blobs are also served without the prefix that cannot be guessed (8.5)."""
    arguments: tuple[str, ...] = ()
    """The command line options that ``restart`` starts it with again."""
