"""The metadata snapshot: the part of a notebook file's metadata that lives in the document.

Storey: daemon (7).  Source: protocol 2, section 7.4.  Pure functions over JSON values; nothing given is changed.
"""

from __future__ import annotations

from typing import Any

from runtimed_ffi.daemon.ports import Json

_RUNT = ("schema_version", "env_id", "uv", "conda", "deno")


def of_metadata(metadata: Json) -> Json:
    """The snapshot of a file's metadata: ``kernelspec``, ``language_info`` and ``runt``, as far as they can be read.

    Without a readable ``runt`` it is made of the older members ``uv`` and ``conda`` at the top.
    """
    snapshot: Json = {}
    spec = _kernelspec(metadata.get("kernelspec"))
    if spec is not None:
        snapshot["kernelspec"] = spec
    info = _language_info(metadata.get("language_info"))
    if info is not None:
        snapshot["language_info"] = info
    runt = metadata.get("runt")
    if isinstance(runt, dict) and isinstance(runt.get("schema_version"), str):
        snapshot["runt"] = {name: runt[name] for name in _RUNT if runt.get(name) is not None}
    else:
        older = {name: metadata[name] for name in ("uv", "conda") if isinstance(metadata.get(name), dict)}
        snapshot["runt"] = {"schema_version": "1", **older}
    return snapshot


def merged(metadata: Json, snapshot: Json) -> Json:
    """A file's metadata updated from the snapshot; members that a snapshot cannot have stay.

    ``kernelspec`` and ``language_info`` go if the snapshot has none, unless what is there cannot be read: then it was
    never in a snapshot, and was not removed.  A ``runt`` with nothing but its version is not added to a file
    that has none.
    """
    result = dict(metadata)
    known = of_metadata(metadata)
    spec, info, runt = (snapshot.get(name) for name in ("kernelspec", "language_info", "runt"))
    if isinstance(spec, dict):
        if spec != known.get("kernelspec"):
            result["kernelspec"] = spec
    elif "kernelspec" in known:
        del result["kernelspec"]
    if isinstance(info, dict):
        present = metadata.get("language_info")
        result["language_info"] = {**(present if isinstance(present, dict) else {}), **info}
    elif "language_info" in known:
        del result["language_info"]
    if isinstance(runt, dict):
        present = metadata.get("runt")
        if isinstance(present, dict):
            result["runt"] = {**present, **runt}
        elif set(runt) - {"schema_version"}:
            result["runt"] = runt
    return result


def _kernelspec(value: Any) -> Json | None:
    if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in ("name", "display_name")):
        return None
    if value.get("language") is not None and not isinstance(value["language"], str):
        return None
    return {name: value[name] for name in ("name", "display_name", "language") if value.get(name) is not None}


def _language_info(value: Any) -> Json | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    if value.get("version") is not None and not isinstance(value["version"], str):
        return None
    return {name: value[name] for name in ("name", "version") if value.get(name) is not None}
