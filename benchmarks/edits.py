"""An edit of one client, until the callback of another client that waits."""

import contextlib
import threading
import time

from benchmarks.figure import Figure, interleaved

_SIZE = 150
"""Bytes of a sync message for a small edit, about."""


class _Callback:
    """Remembers when it was called; the writer waits for it."""

    def __init__(self) -> None:
        self._called = threading.Event()
        self._at = 0.0

    def __call__(self, *_: object) -> None:
        self._at = time.perf_counter()
        self._called.set()

    def time(self, write) -> float:
        """Seconds from the beginning of `write` to the call."""
        self._called.clear()
        begin = time.perf_counter()
        write()
        if not self._called.wait(30):
            raise TimeoutError("the edit was not seen")
        return self._at - begin


def figures(world):
    """``set_source()`` of one session, until the ``on_change`` callback of another runs on its pump."""
    for cells in (10, 1000):
        with contextlib.ExitStack() as stack:
            floor, ours = _floor(world, stack), _ours(world, stack, cells)
            samples = world.samples(200)
            medians = interleaved(samples, floor, ours)
            name = f"edit seen by another client, {cells:,} cells"
            yield Figure(name, *medians, "a relay, a thread that waits", samples, "< 2 ms")


def _ours(world, stack, cells: int):
    writer = world.session()
    stack.callback(writer.disconnect)
    ids = [writer.create_cell(f"x = {number}") for number in range(cells)]
    writer.sync()
    reader = world.session(writer.notebook_id)
    stack.callback(reader.disconnect)
    callback = _Callback()
    reader.on_change(callback)
    reader.start_pump()
    cell, count = ids[cells // 2], iter(range(10**9))

    def sample() -> float:
        text = f"x = {next(count)}"
        took = callback.time(lambda: writer.set_source(cell, text))
        if reader.get_cell(cell).source != text:
            raise AssertionError("the event came before the edit")
        return took

    return sample


def _floor(world, stack):
    writer, reader = world.plain(b"r"), world.plain(b"r")
    callback = _Callback()

    def listen() -> None:
        while reader.recv(65536):
            callback()

    thread = threading.Thread(target=listen)
    thread.start()

    def close() -> None:
        reader.shutdown(2)
        thread.join()
        reader.close()
        writer.close()

    stack.callback(close)
    return lambda: callback.time(lambda: writer.sendall(b"x" * _SIZE))
