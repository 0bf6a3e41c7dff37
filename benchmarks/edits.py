"""An edit of one client, until another one that waits has been told of it."""

import contextlib
import threading
import time

from .figure import Figure, interleaved

_SIZE = 150
"""Bytes of a sync message for a small edit, about."""


class _Ear:
    """Remembers when it was called; the writer waits for it."""

    def __init__(self) -> None:
        self._heard = threading.Event()
        self._at = 0.0

    def __call__(self, *_: object) -> None:
        self._at = time.perf_counter()
        self._heard.set()

    def time(self, write) -> float:
        """Seconds from the beginning of `write` to the call."""
        self._heard.clear()
        begin = time.perf_counter()
        write()
        if not self._heard.wait(30):
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
    ear = _Ear()
    reader.on_change(ear)
    reader.start_pump()
    cell, count = ids[cells // 2], iter(range(10**9))

    def sample() -> float:
        text = f"x = {next(count)}"
        took = ear.time(lambda: writer.set_source(cell, text))
        if reader.get_cell(cell).source != text:
            raise AssertionError("the event came before the edit")
        return took

    return sample


def _floor(world, stack):
    writer, reader = world.plain(b"r"), world.plain(b"r")
    ear = _Ear()

    def listen() -> None:
        while reader.recv(65536):
            ear()

    thread = threading.Thread(target=listen)
    thread.start()

    def close() -> None:
        reader.shutdown(2)
        thread.join()
        reader.close()
        writer.close()

    stack.callback(close)
    return lambda: ear.time(lambda: writer.sendall(b"x" * _SIZE))
