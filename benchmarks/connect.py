"""Connecting to a room that is open."""

from benchmarks.figure import Figure, interleaved, timed
from benchmarks.world import exchange


def figures(world):
    """``Session.connect()``: handshake, capabilities and the first synchronisation, two round trips."""
    keeper = world.session()

    def ours() -> float:
        session = world.daemon.session(keeper.notebook_id)
        took = timed(session.connect)
        session.disconnect()
        return took

    def plain() -> None:
        with world.plain(b"e") as connection:
            exchange(connection, b"x" * 100)
            exchange(connection, b"x" * 100)

    samples = world.samples(100)
    medians = interleaved(samples, lambda: timed(plain), ours)
    keeper.disconnect()
    yield Figure("connect", *medians, "socket, connect and two echoes", samples, "< 5 ms")
