"""Starting a kernel."""

import os
import tempfile

from jupyter_client.manager import KernelManager

from .figure import Figure, interleaved, timed
from .raw import RawClient


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
    with tempfile.TemporaryDirectory(prefix="rtd-") as directory:
        manager = KernelManager(transport="ipc", ip=os.path.join(directory, "s"))
        manager.connection_file = os.path.join(directory, "c.json")

        def start() -> RawClient:
            manager.start_kernel()
            client = RawClient(manager.connection_file)
            client.wait_ready()
            return client

        clients = []
        try:
            took = timed(lambda: clients.append(start()))
        finally:
            for client in clients:
                client.close()
            manager.shutdown_kernel(now=True)
    return took
