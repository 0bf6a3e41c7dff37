"""Importing libraries late, because the daemon accepts clients before they are there.

Storey: daemon (7).
"""

from __future__ import annotations

import importlib
import threading
from typing import Any

_IMPORTING = threading.Lock()


def load(name: str) -> Any:
    """The module of this name; on any thread, one import at a time.

    Modules that import each other (those of ``jupyter_client`` do) may be seen half made when two threads begin at
    different ones: Python then goes on rather than wait for ever.
    """
    with _IMPORTING:
        return importlib.import_module(name)
