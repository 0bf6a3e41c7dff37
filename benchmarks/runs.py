"""A small cell on a warm kernel."""

import contextlib

from .figure import Figure, interleaved, timed
from .raw import of_daemon


def figures(world):
    """``run("1+1")``: a new cell, its execution and its end; the floor executes on the same kernel."""
    with contextlib.ExitStack() as stack:
        session = world.session()
        stack.callback(session.disconnect)
        session.start_kernel()
        stack.callback(session.shutdown_kernel)
        raw = of_daemon(world.daemon)
        stack.callback(raw.close)

        def ours() -> None:
            if session.run("1+1").display_data[0].data["text/plain"] != "2":
                raise AssertionError("1+1 is not 2")

        samples = world.samples(100)
        medians = interleaved(samples, lambda: timed(lambda: raw.run("1+1")), lambda: timed(ours), warm_up=5)
    more = f"raw + {(medians[0] - medians[1]) * 1e3:.1f} ms"
    yield Figure('run("1+1")', *medians, "raw ZeroMQ on the same kernel", samples, "< raw + 3 ms", more)
