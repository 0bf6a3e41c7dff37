"""A cell with many displays."""

import contextlib

from .figure import Figure, interleaved, timed
from .raw import of_daemon


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
            yield Figure(f"{count:,} displays in a cell", *medians, "raw ZeroMQ draining iopub", samples, goal)


def _ours(session, cell: str, count: int):
    expected = [str(number) for number in range(count)]

    def work() -> None:
        outputs = session.execute_cell(cell).outputs
        if [output.data["text/plain"] for output in outputs] != expected:
            raise AssertionError(f"{len(outputs)} of {count} outputs arrived, or not in order")

    return lambda: timed(work)


def _floor(raw, code: str, count: int):
    def work() -> None:
        if raw.run(code) != count:
            raise AssertionError("the raw client missed outputs")

    return lambda: timed(work)
