"""The published vectors that concern the daemon's own modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent.parent / "golden" / "vectors-v2.json"


def derived(prefix: str) -> list[dict[str, Any]]:
    """The vectors of kind ``derived`` whose id begins like this; never none."""
    everything = json.loads(_FILE.read_text(encoding="utf-8"))["vectors"]
    found = [item for item in everything if item["kind"] == "derived" and item["id"].startswith(prefix)]
    assert found, prefix
    return found
