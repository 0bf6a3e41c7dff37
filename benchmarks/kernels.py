"""Starting a kernel."""

import time

from .figure import Figure, interleaved, timed
from .raw import own_kernel


def figures(world):
    """``start_kernel()`` in a new room, until the kernel has answered and can be heard."""
    samples = world.samples(5)

    def ours() -> float:
        session = world.session()
        took = timed(session.start_kernel)
        session.shutdown_kernel()
        session.disconnect()
        return took

    medians = interleaved(samples, _floor, ours, warm_up=1)
    yield Figure("start a kernel", *medians, "jupyter_client, until kernel_info is answered", samples)


def _floor() -> float:
    begin = time.perf_counter()
    with own_kernel():
        return time.perf_counter() - begin
