"""Creating a cell: the call alone, and with the daemon's confirmation."""

from benchmarks.figure import Figure, interleaved, timed
from benchmarks.world import exchange


def figures(world):
    """``create_cell()``, and ``create_cell()`` with ``sync()``."""
    samples = world.samples(100)
    session = world.session()
    connection = world.plain(b"e")

    def floor() -> float:
        return timed(lambda: exchange(connection, b"x" * 200))

    def confirmed() -> None:
        session.create_cell("x = 1")
        session.sync()

    medians = interleaved(samples, floor, lambda: timed(lambda: session.create_cell("x = 1")))
    yield Figure("create a cell", *medians, "an echo", samples, note="local, and sent at once")
    medians = interleaved(samples, floor, lambda: timed(confirmed))
    yield Figure("create a cell, confirmed by the daemon", *medians, "an echo", samples)
    connection.close()
    session.disconnect()
