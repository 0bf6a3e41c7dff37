"""A client of a kernel that knows ZeroMQ and the signing of messages, and nothing else: the floor of a run."""

import contextlib
import glob
import json
import os
import tempfile

import zmq
from jupyter_client.manager import KernelManager
from jupyter_client.session import Session


class Lost(Exception):
    """The kernel's publishing socket dropped messages, as ZeroMQ does when a subscriber is a thousand behind."""


class RawClient:
    """Shell and iopub of a kernel, by its connection file; waits in ``zmq.Poller``, one thread."""

    def __init__(self, connection_file: str) -> None:
        with open(connection_file, encoding="utf-8") as file:
            info = json.load(file)
        self._session = Session(key=info["key"].encode(), signature_scheme=info["signature_scheme"])
        self._context = zmq.Context()
        self._shell = self._context.socket(zmq.DEALER)
        self._iopub = self._context.socket(zmq.SUB)
        self._iopub.setsockopt(zmq.SUBSCRIBE, b"")
        self._poller = zmq.Poller()
        separator = "-" if info["transport"] == "ipc" else ":"
        for name, channel in (("shell", self._shell), ("iopub", self._iopub)):
            channel.linger = 0
            channel.rcvhwm = 0
            # A kernel that is being started is not there yet; the default, 100 ms, would be lost time.
            channel.setsockopt(zmq.RECONNECT_IVL, 5)
            channel.connect(f"{info['transport']}://{info['ip']}{separator}{info[name + '_port']}")
            self._poller.register(channel, zmq.POLLIN)

    def wait_ready(self, deadline: float = 60.0) -> None:
        """Wait for the answer to a ``kernel_info_request``."""
        self._session.send(self._shell, "kernel_info_request", {})
        if not self._shell.poll(deadline * 1000):
            raise TimeoutError("the kernel does not answer")
        self._receive(self._shell)

    def subscribe(self) -> None:
        """Ask until something comes on iopub: before, a message may be missed."""
        for _ in range(200):
            self.wait_ready()
            if self._iopub.poll(20):
                return
        raise TimeoutError("the kernel is silent on iopub")

    def run(self, code: str) -> int:
        """Execute, wait for reply and idle, and return the number of displays and values.

        Raises:
            Lost: nothing came for two seconds although the end is missing.
        """
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        request = self._session.send(self._shell, "execute_request", content)["header"]["msg_id"]
        replied = idle = False
        outputs = 0
        while not (replied and idle):
            ready = self._poller.poll(2000 if replied else 60_000)
            if not ready:
                raise Lost
            for channel, _ in ready:
                kind, parent, content = self._receive(channel)
                if parent != request:
                    continue
                if kind == "execute_reply":
                    replied = True
                elif kind in ("display_data", "execute_result"):
                    outputs += 1
                elif kind == "status":
                    idle = content["execution_state"] == "idle"
        return outputs

    def close(self) -> None:
        """Close the sockets."""
        self._context.destroy(linger=0)

    def _receive(self, channel):
        """Type, parent and content of a message; the signature is not checked: a floor does what it must."""
        parts = channel.recv_multipart()
        start = parts.index(b"<IDS|MSG>") + 2
        header, parent, content = (json.loads(parts[start + place]) for place in (0, 1, 3))
        return header["msg_type"], parent.get("msg_id"), content


def of_daemon(daemon) -> RawClient:
    """A client of the newest kernel that a daemon runs; the files of one that has ended may still be there."""
    files = glob.glob(os.path.join(glob.escape(daemon.directory), "kernels", "*", "c.json"))
    client = RawClient(max(files, key=os.path.getmtime))
    client.subscribe()
    return client


@contextlib.contextmanager
def own_kernel():
    """The only client of a kernel, started by ``jupyter_client``; ready when it has answered."""
    with tempfile.TemporaryDirectory(prefix="rtd-") as directory:
        manager = KernelManager(transport="ipc", ip=os.path.join(directory, "s"))
        manager.connection_file = os.path.join(directory, "c.json")
        manager.start_kernel()
        client = None
        try:
            client = RawClient(manager.connection_file)
            client.wait_ready()
            yield client
        finally:
            if client is not None:
                client.close()
            manager.shutdown_kernel(now=True)
