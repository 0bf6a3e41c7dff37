"""The binding itself: a call that does nothing, and bytes that go through it."""

from benchmarks.figure import Figure, interleaved, timed
from runtimed_ffi._binding.ffi import bytes_in, check, ffi, lib, take_buf

_MEGABYTE = 1 << 20


def figures(world):
    """Calls per second of ``rtd_abi_version()``; bytes per second of ``rtd_frame_encode()``, in and out."""
    # So many also when it is only tried: PyPy interprets a loop for its first thousand rounds, a hundred times slower
    # than what it compiles it to then.
    yield _calls(world, 10_000 if world.quick else 100_000)
    yield _bytes(world)


def _calls(world, count: int) -> Figure:
    nothing, call, empty = len, lib.rtd_abi_version, ()

    def floor() -> None:
        for _ in range(count):
            nothing(empty)

    def ours() -> None:
        for _ in range(count):
            call()

    samples = world.samples(20)
    medians = interleaved(samples, lambda: timed(floor) / count, lambda: timed(ours) / count)
    note = f"{1e-6 / medians[0]:.1f} million calls/s"
    return Figure("call through the binding", *medians, "len(()) in the same loop", samples, note=note)


def _bytes(world) -> Figure:
    data = bytes(_MEGABYTE)
    out = ffi.new("rtd_buf *")

    def ours() -> None:
        check(lib.rtd_frame_encode(lib.RTD_FRAME_UNTYPED, *bytes_in(data), out))
        take_buf(out)

    samples = world.samples(200)
    medians = interleaved(samples, lambda: timed(lambda: bytes(bytearray(data))), lambda: timed(ours))
    note = f"{_MEGABYTE / medians[0] / 1e9:.1f} GB/s"
    return Figure("1 MiB through the binding and back", *medians, "two copies in Python", samples, note=note)
