"""Kernels that are not children of the daemon: in another network namespace, and with provisioners that misbehave.

The provisioners are installed the way a user's would be: a package with an entry point, named by a kernelspec.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

zmq = pytest.importorskip("zmq", reason="pyzmq is missing")
pytest.importorskip("ipykernel", reason="ipykernel is missing")

from jupyter_client.provisioning.factory import KernelProvisionerFactory  # noqa: E402

from daemon.test_kernels import LIMIT, RecordingListener, idle_interrupt  # noqa: E402
from runtimed_ffi.daemon.environments.plans import LaunchPlan  # noqa: E402
from runtimed_ffi.daemon.kernels import provisioned  # noqa: E402
from runtimed_ffi.daemon.kernels.kernel import Kernel, start  # noqa: E402
from runtimed_ffi.daemon.ports import LaunchError  # noqa: E402

pytestmark = pytest.mark.kernel

PACKAGE = '''
import asyncio
import signal
import subprocess
import threading
import time

from jupyter_client.provisioning import KernelProvisionerBase, LocalProvisioner
from traitlets import Unicode

RELEASED = threading.Event()


class NetworkNamespace(KernelProvisionerBase):
    """Starts kernels on another "host": a network namespace that is reached through one address."""

    namespace = Unicode(config=True)
    address = Unicode(config=True)
    running = None

    @property
    def has_process(self):
        return self.running is not None

    async def pre_launch(self, **kwargs):
        manager = self.parent
        manager.ip = self.address
        for number, name in enumerate(("shell", "iopub", "stdin", "hb", "control")):
            setattr(manager, name + "_port", 5001 + number)
        manager.write_connection_file()
        self.connection_info = manager.get_connection_info()
        command = ["ip", "netns", "exec", self.namespace, *manager.format_kernel_cmd()]
        return await super().pre_launch(cmd=command, **kwargs)

    async def launch_kernel(self, cmd, **kwargs):
        self.running = subprocess.Popen(cmd, start_new_session=True, **kwargs)
        return self.connection_info

    async def poll(self):
        return self.running.poll()

    async def wait(self):
        while self.running.poll() is None:
            await asyncio.sleep(0.05)
        return self.running.returncode

    async def send_signal(self, signum):
        self.running.send_signal(signum)

    async def kill(self, restart=False):
        self.running.kill()

    async def terminate(self, restart=False):
        self.running.terminate()

    async def cleanup(self, restart=False):
        pass


class Moody(LocalProvisioner):
    """A machine that answers one call badly."""

    mood = Unicode(config=True)
    refusals = 2

    async def wait(self):
        if self.mood == "wait blocks":
            RELEASED.wait(60)
        if self.mood == "wait fails" and self.refusals:
            self.refusals -= 1
            raise ConnectionError("the cluster does not answer")
        return await super().wait()

    async def send_signal(self, signum):
        if self.mood == "signals block" and signum == signal.SIGINT:
            RELEASED.wait(60)
        await super().send_signal(signum)

    async def kill(self, restart=False):
        if self.mood == "kill hangs":
            await asyncio.sleep(0.5)
        await super().kill()
        if self.mood == "kill hangs":
            RELEASED.set()

    async def launch_kernel(self, cmd, **kwargs):
        if self.mood == "launch blocks":
            RELEASED.wait(60)
        if self.mood == "launch fails":
            raise RuntimeError("no quota")
        info = await super().launch_kernel(cmd, **kwargs)
        if self.mood == "no key":
            info["key"] = b""
            self.parent.session.key = b""
        return info
'''


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with an installed package of provisioners; kernelspecs go into ``kernels`` beside it."""
    packages = tmp_path / "site"
    (packages / "rtd_provisioners-1.dist-info").mkdir(parents=True)
    (packages / "rtd_provisioners.py").write_text(PACKAGE)
    facts = packages / "rtd_provisioners-1.dist-info"
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: rtd-provisioners\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(
        "[jupyter_client.kernel_provisioners]\n"
        "rtd-network-namespace = rtd_provisioners:NetworkNamespace\nrtd-moody = rtd_provisioners:Moody\n"
    )
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    # It caches what was installed when it was made.
    KernelProvisionerFactory.clear_instance()
    monkeypatch.setattr(KernelProvisionerFactory, "provisioners", {})
    yield tmp_path
    KernelProvisionerFactory.clear_instance()
    module = sys.modules.pop("rtd_provisioners", None)
    if module is not None:
        module.RELEASED.set()
    deadline = time.monotonic() + LIMIT
    for thread in threading.enumerate():
        if thread.name == "kernel-provisioner":
            thread.join(deadline - time.monotonic())
            assert not thread.is_alive(), "the thread of a provisioner was left behind"


def install(site: Path, name: str, provisioner: str | None, **members: Any) -> LaunchPlan:
    """Install a kernelspec, and the plan for it."""
    directory = site / "kernels" / name
    directory.mkdir(parents=True)
    config = members.pop("config", {})
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": name,
        "language": "python",
        **members,
    }
    if provisioner is not None:
        spec["metadata"] = {"kernel_provisioner": {"provisioner_name": provisioner, "config": config}}
    (directory / "kernel.json").write_text(json.dumps(spec))
    return LaunchPlan(name, f"kernelspec:{name}", [], str(site), kernel_name=name)


Test = Callable[[Kernel, RecordingListener, Path], Awaitable[None]]


def run(site: Path, plan: LaunchPlan, test: Test, limit: float = LIMIT) -> None:
    async def body() -> None:
        context, listener = zmq.Context(), RecordingListener()
        directory = site / "k"
        directory.mkdir()
        try:
            kernel = await start(plan, listener, str(directory), context, limit)
            try:
                await test(kernel, listener, directory)
            finally:
                await kernel.shutdown()
        finally:
            context.destroy(linger=0)
        assert list(directory.iterdir()) == [], "files of the kernel were left behind"

    asyncio.run(asyncio.wait_for(body(), LIMIT))


async def printed(kernel: Kernel, listener: RecordingListener, code: str) -> str:
    return listener.printed(await listener.run(kernel, code))


# -- another host


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=LIMIT)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[dict[str, str]]:
    """Another host: a network namespace with an address of its own."""
    if shutil.which("ip") is None:
        pytest.skip("ip (Debian: iproute2) is missing")
    if os.getuid() != 0:
        pytest.skip("making a network namespace needs root")
    number = os.getpid() % 16000
    name, network, first = f"rtd-{os.getpid()}", f"10.231.{number // 64}", number % 64 * 4
    here, there = f"{network}.{first + 1}", f"{network}.{first + 2}"
    with contextlib.ExitStack() as stack:
        try:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
            ip("link", "add", f"rtdh{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("addr", "add", f"{here}/30", "dev", f"rtdh{number}")
            ip("link", "set", f"rtdh{number}", "up")
            ip("-n", name, "addr", "add", f"{there}/30", "dev", "eth0")
            for device in ("eth0", "lo"):
                ip("-n", name, "link", "set", device, "up")
        except subprocess.CalledProcessError as error:
            stack.close()
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
        yield {"namespace": name, "address": there}


def test_a_kernel_on_another_host(site: Path, elsewhere: dict[str, str]) -> None:
    async def test(kernel: Kernel, listener: RecordingListener, directory: Path) -> None:
        (entry,) = directory.iterdir()
        connection = json.loads((entry / "c.json").read_text())
        assert (connection["transport"], connection["ip"]) == ("tcp", elsewhere["address"])
        assert len(connection["key"]) >= 32
        assert stat.S_IMODE((entry / "c.json").stat().st_mode) == 0o600
        assert kernel.process_id is None
        where = await printed(kernel, listener, "import os; print(os.readlink('/proc/self/ns/net'), os.getcwd())")
        network, cwd = where.split()
        assert network != os.readlink("/proc/self/ns/net")
        assert cwd == str(site)
        assert await printed(kernel, listener, "for i in range(3): print(i)") == "0\n1\n2\n"
        # The provisioner interrupts and kills it, and reports its end.
        msg_id = kernel.execute("import time\nprint('in', flush=True)\ntime.sleep(600)")
        await listener.until(lambda: listener.of(msg_id, "stream"))
        kernel.interrupt()
        await listener.until(lambda: listener.finished(msg_id))
        assert listener.of(msg_id, "execute_reply")[0].content["ename"] == "KeyboardInterrupt"
        kernel.execute("import os; os._exit(7)")
        await listener.until(lambda: listener.deaths)
        assert listener.deaths[0].splitlines()[0] == "Kernel died: exit code 7"

    run(site, install(site, "far", "rtd-network-namespace", config=elsewhere), test)


def test_a_stubborn_one_is_killed_there(site: Path, elsewhere: dict[str, str]) -> None:
    pids: list[int] = []

    async def test(kernel: Kernel, listener: RecordingListener, directory: Path) -> None:
        code = "import os, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint(os.getpid(), flush=True)"
        pids.append(int(await printed(kernel, listener, code)))
        kernel.execute(
            "import ctypes\nctypes.PyDLL(None).sleep(600)"
        )  # It holds the interpreter's lock and does not answer.
        await kernel.shutdown(0.2)
        assert listener.deaths == []
        with pytest.raises(ProcessLookupError):
            os.kill(pids[0], 0)

    run(site, install(site, "far", "rtd-network-namespace", config=elsewhere), test)


# -- kernelspecs


def test_an_installed_kernelspec_with_its_environment(site: Path) -> None:
    async def test(kernel: Kernel, listener: RecordingListener, directory: Path) -> None:
        assert kernel.kernel_type == "spec"
        names = "import os; print(os.environ['OF_SPEC'], os.environ['OF_PLAN'])"
        assert await printed(kernel, listener, names) == "spec plan\n"

    run(site, install(site, "spec", None, env={"OF_SPEC": "spec"})._replace(env={"OF_PLAN": "plan"}), test)


def test_a_local_kernel_by_tcp(site: Path) -> None:
    async def test(kernel: Kernel, listener: RecordingListener, directory: Path) -> None:
        (entry,) = directory.iterdir()
        connection = json.loads((entry / "c.json").read_text())
        assert connection["transport"] == "tcp" and connection["ip"] == "127.0.0.1" and connection["key"]
        assert stat.S_IMODE((entry / "c.json").stat().st_mode) == 0o600
        assert await printed(kernel, listener, "print(1)") == "1\n"

    run(site, install(site, "spec", None)._replace(transport="tcp"), test)


SILENT = """
import json, signal, sys
import zmq
from ipykernel.kernelapp import IPKernelApp
from ipykernel.ipkernel import IPythonKernel

# As some kernels in other languages: no status for anything but executions, interrupts only by message.
signal.signal(signal.SIGINT, signal.SIG_IGN)
IPKernelApp.init_signal = lambda self: None
class Silent(IPythonKernel):
    def _publish_status(self, status, *args, **kwargs):
        parent = self.get_parent("shell") or {}
        if (parent.get("header") or {}).get("msg_type") == "execute_request":
            super()._publish_status(status, *args, **kwargs)
    async def interrupt_request(self, stream, ident, parent):
        print("asked to stop", file=sys.__stderr__, flush=True)
        import os
        os._exit(9)
IPKernelApp.kernel_class = Silent
IPKernelApp.launch_instance(["-f", sys.argv[1]])
"""


def test_a_kernel_that_is_silent_about_kernel_info_and_interrupted_by_message(site: Path) -> None:
    async def test(kernel: Kernel, listener: RecordingListener, directory: Path) -> None:
        msg_id = kernel.execute("import time\nprint('in', flush=True)\ntime.sleep(600)")
        await listener.until(lambda: listener.of(msg_id, "stream"))
        kernel.interrupt()
        await listener.until(lambda: listener.deaths)
        assert listener.deaths[0].startswith("Kernel died: exit code 9"), "the message has reached it"

    (site / "silent.py").write_text(SILENT)
    argv = [sys.executable, str(site / "silent.py"), "{connection_file}"]
    run(site, install(site, "silent", None, argv=argv, interrupt_mode="message"), test)


def test_an_unknown_kernelspec_and_an_unknown_provisioner(site: Path) -> None:
    async def never(kernel: Kernel, listener: RecordingListener, directory: Path) -> None:
        raise AssertionError("it has started")

    plan = install(site, "odd", "rtd-unheard-of")
    with pytest.raises(LaunchError, match="'none-such'"):
        run(site, plan._replace(kernel_name="none-such"), never)
    shutil.rmtree(site / "k")
    with pytest.raises(LaunchError, match="'odd' names a provisioner that is not installed"):
        run(site, plan, never)


# -- provisioners that misbehave


class Pulse:
    """Measures how long the loop was held up."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._task = asyncio.ensure_future(self._beat())

    async def _beat(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            self.longest = max(self.longest, time.monotonic() - before)

    def stop(self) -> float:
        self._task.cancel()
        return self.longest


BLOCKED = 20.0
"""Seconds the loop would be held up, at least, if a blocking provisioner (60 seconds) ran on it."""


@pytest.mark.parametrize("mood", ["wait blocks", "signals block", "kill hangs"])
def test_a_provisioner_that_hangs_holds_up_nothing_and_its_kernel_ends_in_time(
    site: Path, mood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisioned, "SIGNAL_LIMIT", 0.2)
    monkeypatch.setattr(provisioned, "END_LIMIT", 0.2)

    async def test(kernel: Kernel, listener: RecordingListener, directory: Path) -> None:
        pulse = Pulse()
        assert await printed(kernel, listener, "print(1)") == "1\n"
        if mood == "signals block":
            kernel.interrupt()
        else:
            await idle_interrupt(kernel)
        assert await printed(kernel, listener, "import os; print(2)") == "2\n"
        if mood == "kill hangs":
            # It ignores a shutdown request.
            ignore = (
                "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint(3, flush=True)\nwhile True: pass"
            )
            msg_id = kernel.execute(ignore)
            await listener.until(lambda: listener.of(msg_id, "stream"))
        start = time.monotonic()
        await kernel.shutdown(1.0)
        assert time.monotonic() - start < BLOCKED
        assert pulse.stop() < BLOCKED
        if mood == "kill hangs":
            released = sys.modules["rtd_provisioners"].RELEASED
            assert await asyncio.get_running_loop().run_in_executor(None, released.wait, LIMIT), (
                "the daemon gave up killing it"
            )

    run(site, install(site, "moody", "rtd-moody", config={"mood": mood}), test)


def test_a_watch_that_fails_is_taken_up_again(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provisioned, "_WATCH_PAUSES", (0.01, 0.02))

    async def test(kernel: Kernel, listener: RecordingListener, directory: Path) -> None:
        kernel.execute("import os; os._exit(5)")
        await listener.until(lambda: listener.deaths)
        assert listener.deaths[0].splitlines()[0] == "Kernel died: exit code 5"

    run(site, install(site, "moody", "rtd-moody", config={"mood": "wait fails"}), test)


@pytest.mark.parametrize(
    ("mood", "text"),
    [
        ("launch blocks", "Failed to launch kernel: Kernel did not respond within 1s"),
        ("launch fails", "Failed to launch kernel: no quota"),
        ("no key", "Failed to launch kernel: its provisioner set no key, so any user could run code in it"),
    ],
)
def test_a_launch_that_fails_elsewhere_says_why(
    site: Path, mood: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisioned, "END_LIMIT", 0.2)

    async def never(kernel: Kernel, listener: RecordingListener, directory: Path) -> None:
        raise AssertionError("it has started")

    with pytest.raises(LaunchError) as caught:
        run(site, install(site, "moody", "rtd-moody", config={"mood": mood}), never, 1.0 if "blocks" in mood else LIMIT)
    assert str(caught.value) == text
    assert list((site / "k").iterdir()) == []
