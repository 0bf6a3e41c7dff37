"""A cell with many displays."""

import contextlib
import time

from benchmarks.figure import Figure, interleaved, timed
from benchmarks.raw import Lost, of_daemon, own_kernel


def figures(world):
    """``execute_cell()`` of a cell that displays 100 and 1,000 values, all of them received in order."""
    with contextlib.ExitStack() as stack:
        session = world.session()
        stack.callback(session.disconnect)
        session.start_kernel()
        stack.callback(session.shutdown_kernel)
        raw = of_daemon(world.daemon)
        stack.callback(raw.close)
        for count, goal in ((100, ""), (1000, "< 1 s")):
            code = f"for number in range({count}):\n    display(number)"
            cell = session.create_cell(code)
            samples = world.samples(20 if count == 100 else 10)
            medians = interleaved(samples, _floor(raw, code, count), _ours(session, cell, count))
            yield Figure(f"{count:,} displays in a cell", *medians, "raw ZeroMQ on the same kernel", samples, goal)
        own = stack.enter_context(own_kernel())
        own.subscribe()
        medians = interleaved(samples, _floor(own, code, count), _ours(session, cell, count))
        yield Figure(f"{count:,} displays, quiet floor", *medians, "on its own kernel", samples, goal)


def _ours(session, cell: str, count: int):
    expected = [str(number) for number in range(count)]

    def work() -> None:
        outputs = session.execute_cell(cell).outputs
        if [output.data["text/plain"] for output in outputs] != expected:
            raise AssertionError(f"{len(outputs)} of {count} outputs arrived, or not in order")

    return lambda: timed(work)


def _floor(raw, code: str, count: int):
    """A raw client that is slow for a moment loses outputs; such a sample is no floor and is taken again."""

    def work() -> bool:
        try:
            return raw.run(code) == count
        except Lost:
            return False

    def sample() -> float:
        for _ in range(10):
            took, complete = _timed_result(work)
            if complete:
                return took
        raise Lost("the raw client lost outputs ten times in a row")

    return sample


def _timed_result(work):
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result
