"""Kernels of a daemon that was killed: they end by themselves or with the next start, and no other process does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("psutil", reason="psutil is missing")

from runtimed_ffi.daemon.kernels import kernel_directory

LIMIT = 60.0
SLEEPER = "import sys, time; print(1, flush=True); time.sleep(600)"
STUBBORN = "import signal; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; " + SLEEPER


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen]]:  # type: ignore[type-arg]
    started: list[subprocess.Popen] = []  # type: ignore[type-arg]
    yield started
    for process in started:
        process.kill()
        process.communicate()


def sleeper(processes: list, *arguments: str, code: str = SLEEPER, leader: bool = True) -> subprocess.Popen:  # type: ignore[type-arg]
    """A process that runs, with further arguments on its command line."""
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=leader)
    processes.append(process)
    assert process.stdout is not None and process.stdout.readline()
    return process


def test_what_carries_the_path_is_ended_with_its_group_and_nothing_else(
    tmp_path: Path,
    processes: list,  # type: ignore[type-arg]
) -> None:
    parent = tmp_path / "kernels"
    parent.mkdir()
    first, second = (kernel_directory.make(str(parent)) for _ in range(2))
    child = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]).pid, flush=True)\n"
    kernel = sleeper(processes, "-f", f"{first.path}/c.json", code=STUBBORN)
    shell = sleeper(processes, f"exec kernel --file={second.path}/c.json", leader=False)
    beside = sleeper(processes, "-f", f"{tmp_path}/other/c.json", f"{first.path}0/c.json", first.path)
    group = subprocess.Popen(
        [sys.executable, "-c", child + "import time; time.sleep(600)", f"{second.path}/c.json"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    processes.append(group)
    assert group.stdout is not None
    grandchild = int(group.stdout.readline())
    ended = kernel_directory.clear(str(parent))
    assert sorted(ended) == sorted([kernel.pid, shell.pid, group.pid])
    assert [process.wait(LIMIT) for process in (kernel, shell, group)] == [-signal.SIGKILL] * 3
    until_gone(grandchild)
    assert beside.poll() is None
    assert not parent.exists()


def test_nothing_is_searched_where_nothing_was_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    (tmp_path / "kernels").mkdir()
    assert kernel_directory.clear(str(tmp_path / "kernels")) == []
    assert kernel_directory.clear(str(tmp_path / "none")) == []


def test_a_long_path_is_found_through_its_link(
    tmp_path: Path,
    processes: list,  # type: ignore[type-arg]
) -> None:
    parent = tmp_path / ("x" * 100)
    parent.mkdir()
    directory = kernel_directory.make(str(parent))
    assert directory.path != directory.entry
    kernel = sleeper(processes, f"{directory.path}/c.json")
    assert kernel_directory.clear(str(parent)) == [kernel.pid]
    assert not os.path.exists(directory.path)


def test_a_link_that_is_not_ours_is_removed_and_not_followed(tmp_path: Path) -> None:
    parent, precious = tmp_path / "kernels", tmp_path / "precious"
    parent.mkdir()
    precious.mkdir()
    (precious / "file").write_text("kept")
    (parent / "evil").symlink_to(precious)
    assert kernel_directory.clear(str(parent)) == []
    assert (precious / "file").read_text() == "kept"
    assert not parent.exists()


# -- whole daemons


def until_gone(pid: int) -> None:
    deadline = time.monotonic() + LIMIT
    while lives(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


def lives(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@pytest.mark.kernel
def test_kernels_end_with_a_killed_daemon_prewarmed_ones_too(tmp_path: Path) -> None:
    runtimed_ffi = pytest.importorskip("runtimed_ffi")
    daemon = runtimed_ffi.Daemon(tmp_path / "d", arguments=["--kernel-pool-size", "1"])
    with daemon:
        session = daemon.session()
        session.start_kernel()
        code = "import os, subprocess; print(os.getpid(), subprocess.Popen(['sleep', '600']).pid)"
        pids = [int(word) for word in session.run(code).stdout.split()]
        kernels = tmp_path / "d" / "kernels"
        until_two(kernels)
        waiting = [pid for entry in kernels.iterdir() for pid in of_directory(entry)]
        assert pids[0] in waiting and len(waiting) == 2
        daemon.kill()
        session.disconnect()
        # Without another daemon: the kernel's own watch, and what it has started.
        for pid in [*pids, *waiting]:
            until_gone(pid)


def until_two(kernels: Path) -> None:
    deadline = time.monotonic() + LIMIT
    while len([entry for entry in kernels.iterdir() if of_directory(entry)]) < 2:
        assert time.monotonic() < deadline, "no prewarmed kernel"
        time.sleep(0.05)


def of_directory(directory: Path) -> list[int]:
    import psutil

    return [
        process.info["pid"]
        for process in psutil.process_iter(["pid", "cmdline"])
        if any(f"{directory}/" in word for word in process.info["cmdline"] or ())
    ]


FOREIGN = """
import os, signal, sys
from ipykernel import kernelapp, parentpoller
# As a kernel of another language: nothing in it looks after its parent.
kernelapp.IPKernelApp.init_poller = lambda self: None
kernelapp.IPKernelApp.launch_instance()
"""


@pytest.mark.kernel
def test_the_next_daemon_ends_what_a_killed_one_left_and_starts_clean(tmp_path: Path) -> None:
    pytest.importorskip("runtimed_ffi._binding.ffi", reason="the C library is not built")
    import runtimed_ffi

    (tmp_path / "d").mkdir(0o700)
    (tmp_path / "foreign.py").write_text(FOREIGN)
    script = f"""
        import asyncio, sys, zmq
        from runtimed_ffi.daemon.environments.plans import LaunchPlan
        from runtimed_ffi.daemon.kernels import kernel as kernel_module
        class Ignore:
            def on_messages(self, kernel, batch): pass
            def on_death(self, kernel, reason): pass
        async def main():
            argv = [sys.executable, {str(tmp_path / "foreign.py")!r}, "-f", "{{connection_file}}"]
            plan = LaunchPlan("python", "x", argv, "/")
            kernel = await kernel_module.start(plan, Ignore(), {str(tmp_path / "d" / "kernels")!r}, zmq.Context())
            print(kernel.process_id, flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())
    """
    (tmp_path / "d" / "kernels").mkdir()
    killed = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE)
    assert killed.stdout is not None
    pid = int(killed.stdout.readline())
    killed.kill()
    killed.communicate()
    assert lives(pid)
    with runtimed_ffi.Daemon(tmp_path / "d") as daemon:
        assert not lives(pid)
        assert os.listdir(tmp_path / "d" / "kernels") == []
        with open(daemon.log_path) as log:
            assert f"process {pid} is a kernel that has lost its daemon" in log.read()
        with daemon.session() as session:
            session.start_kernel()
            assert session.run("print(1)").stdout == "1\n"
