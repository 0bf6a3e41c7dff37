"""What a daemon does, in words and numbers for people, or as JSON for programs.

Storey 8 (command line).
"""

from __future__ import annotations

import json
from typing import Any

from runtimed_ffi.cli.observe import Observation, observe
from runtimed_ffi.places import Layout, read_info

NOT_RUNNING = 3
NO_ANSWER = 4


def show(paths: Layout, *, as_json: bool) -> int:
    """Print the state of the daemon; 0 if it answers, else :data:`NOT_RUNNING` or :data:`NO_ANSWER`."""
    seen = observe(paths)
    if as_json:
        print(json.dumps(_members(paths, seen), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(paths, seen)))
    if not seen.running:
        return NOT_RUNNING
    return 0 if seen.report is not None else NO_ANSWER


def _members(paths: Layout, seen: Observation) -> dict[str, Any]:
    known = {"running": seen.running, "answers": seen.report is not None, "pid": seen.pid}
    places = {"socket": paths.socket, "log": paths.log}
    return {**known, **places, **(seen.report or read_info(paths.info) if seen.running else {}), "pools": seen.stats}


def _lines(paths: Layout, seen: Observation) -> list[str]:
    if not seen.running:
        return ["not running", f"socket: {paths.socket}"]
    if seen.report is None:
        what = "no daemon accepts at the socket" if not seen.accepts else "the daemon does not answer"
        return [f"{what}, but its lock is held (pid {seen.pid or 'unknown'})", f"log: {paths.log}"]
    facts = seen.report
    lines = [
        f"running: pid {seen.pid or 'unknown'}, version {facts.get('version', 'unknown')}"
        + (f", up {_duration(facts['uptime_seconds'])}" if "uptime_seconds" in facts else ""),
        f"socket: {paths.socket}",
        f"log: {facts.get('log', paths.log)}",
    ]
    if facts.get("blob_port"):
        lines.append(f"blobs: http://127.0.0.1:{facts['blob_port']}, {facts.get('blobs')}")
    rooms = facts.get("rooms", [])
    kernels = [room["kernel"] for room in rooms if room.get("kernel")]
    if "memory_bytes" in facts:
        total = sum(kernel.get("memory_bytes") or 0 for kernel in kernels)
        lines.append(f"memory: {_size(facts['memory_bytes'])}, kernels {_size(total)}")
    if "descriptors" in facts:
        lines.append(f"descriptors: {facts['descriptors'].get('open')} of {facts['descriptors'].get('limit')}")
    if "peers" in facts:
        lines.append(f"peers: {facts['peers'].get('in_rooms')} in rooms, at most {facts['peers'].get('limit')}")
    lines.append("pools: " + "; ".join(_pool(name, seen.stats) for name in ("uv", "conda")))
    lines.append(f"rooms: {len(rooms)}, kernels: {len(kernels)}")
    lines.extend(_room(room) for room in rooms)
    return lines


def _room(room: dict[str, Any]) -> str:
    text = f"  {room['notebook_id']!r}: {room['peers']} peers"
    kernel = room.get("kernel")
    if not kernel:
        return text + ", no kernel"
    where = f"pid {kernel['pid']}, {_size(kernel.get('memory_bytes'))}" if kernel.get("pid") else "no process here"
    return f"{text}, {kernel['kernel_type']} ({kernel['env_source']}) {kernel['status']}, {where}"


def _pool(name: str, stats: dict[str, Any]) -> str:
    text = f"{name} {stats.get(name + '_available', 0)} ready, {stats.get(name + '_warming', 0)} being made"
    error = stats.get(name + "_error")
    return f"{text}, failing: {error.get('message')}" if isinstance(error, dict) else text


def _size(count: int | None) -> str:
    """A number of bytes for people: ``61.4 MiB``."""
    if count is None:
        return "unknown"
    return f"{count / 2**20:.1f} MiB"


def _duration(seconds: float) -> str:
    """A time for people, in its two largest units: ``3 h 12 min``."""
    parts: list[str] = []
    rest = int(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
