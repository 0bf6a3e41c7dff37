"""A small cell on a warm kernel.

While the raw client measures, the daemon also listens to that kernel and sends its state to the room; so the floor is
measured once more on a kernel of its own.
"""

import contextlib

from benchmarks.figure import Figure, interleaved, timed
from benchmarks.raw import of_daemon, own_kernel


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

        own = stack.enter_context(own_kernel())
        own.subscribe()

        floors = (
            (raw, 'run("1+1")', "raw ZeroMQ on the same kernel"),
            (own, 'run("1+1"), quiet floor', "on its own kernel"),
        )
        for client, name, floor_name in floors:
            samples = world.samples(100)
            floor = _floor(client)
            medians = interleaved(samples, floor, lambda: timed(ours), warm_up=5)
            more = f"raw + {(medians[0] - medians[1]) * 1e3:.1f} ms"
            yield Figure(name, *medians, floor_name, samples, "< raw + 3 ms", more)


def _floor(client):
    return lambda: timed(lambda: client.run("1+1"))
