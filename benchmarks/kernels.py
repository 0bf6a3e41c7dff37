"""Starting a kernel: in a new process, from those that stand by, and by a fork."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time

from jupyter_client.connect import write_connection_file

import runtimed_ffi
from benchmarks.figure import Figure, interleaved, timed
from benchmarks.raw import RawClient, own_kernel
from benchmarks.world import ROOT, ask_pool

READY_LIMIT = 120.0
"""Seconds for kernels to stand by."""


def figures(world):
    """``start_kernel()`` in a new room, until the kernel answers and its output arrives; and until its first result."""
    samples = world.samples(5)

    def ours() -> float:
        session = world.session()
        took = timed(session.start_kernel)
        session.shutdown_kernel()
        session.disconnect()
        return took

    medians = interleaved(samples, _cold, ours, warm_up=1)
    yield Figure("start a kernel", *medians, "jupyter_client, until kernel_info is answered", samples)
    yield from _standing_by(world.samples(3))


def _standing_by(samples):
    # Both figures and their calls that do not count.
    size = 2 * (samples + 1)
    with runtimed_ffi.Daemon(arguments=["--kernel-pool-size", str(size)]) as daemon, _forking() as forked:

        def ours() -> float:
            _until_ready(daemon)
            session = daemon.session()
            session.connect()
            begin = time.perf_counter()
            session.start_kernel()
            session.run("1+1")
            took = time.perf_counter() - begin
            session.shutdown_kernel()
            session.disconnect()
            return took

        name, goal = "kernel asked for to first result", "< 50 ms"
        medians = interleaved(samples, _cold_result, ours, warm_up=1)
        yield Figure(name, *medians, "jupyter_client and a raw client, cold", samples, goal)
        medians = interleaved(samples, forked, ours, warm_up=1)
        yield Figure(name + ", fork", *medians, "a fork of a prepared process and a raw client", samples, goal)


def _until_ready(daemon) -> None:
    """Until a kernel stands by and none is being started, which would slow down what is measured."""
    deadline = time.monotonic() + READY_LIMIT
    while True:
        kernels = ask_pool(daemon.socket_path, "status")["stats"]["kernels"]
        if kernels["ready"] and not kernels["starting"]:
            return
        if time.monotonic() > deadline:
            raise TimeoutError("no kernel stands by")
        time.sleep(0.02)


def _cold() -> float:
    begin = time.perf_counter()
    with own_kernel():
        return time.perf_counter() - begin


def _cold_result() -> float:
    begin = time.perf_counter()
    with own_kernel() as client:
        client.subscribe()
        client.run("1+1")
        return time.perf_counter() - begin


@contextlib.contextmanager
def _forking():
    """A function that forks a kernel and returns the seconds until its first result."""
    with (
        tempfile.TemporaryDirectory(prefix="rtd-") as directory,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.forking"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        ) as process,
    ):
        process.stdout.readline()
        count = 0

        def forked() -> float:
            nonlocal count
            count += 1
            begin = time.perf_counter()
            path, _ = write_connection_file(
                os.path.join(directory, f"{count}.json"),
                ip=os.path.join(directory, f"s{count}"),
                transport="ipc",
                key=os.urandom(16).hex().encode(),
            )
            process.stdin.write(path + "\n")
            process.stdout.readline()
            client = RawClient(path)
            try:
                client.subscribe()
                client.run("1+1")
                return time.perf_counter() - begin
            finally:
                client.close()

        try:
            yield forked
        finally:
            process.stdin.close()
            process.wait()
