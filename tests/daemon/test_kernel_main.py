"""The program of our Python kernels: ipykernel as usual, but for the bound of its publishing socket."""

import pytest

import runtimed_ffi
from runtimed_ffi.daemon.kernels.kernel_main import HIGH_WATER_MARK

SOURCE = """
import sys, __main__
print(get_ipython().kernel.iopub_thread.socket.sndhwm)
print(any(path.endswith("runtimed_ffi/daemon") for path in sys.path), "main" in vars(__main__))
"""


@pytest.mark.kernel
def test_the_publishing_socket_does_not_drop_and_nothing_else_is_odd():
    with runtimed_ffi.Daemon() as daemon, daemon.session("kernel-main") as session:
        session.start_kernel()
        assert session.run(SOURCE).stdout == f"{HIGH_WATER_MARK}\nFalse False\n"
        session.disconnect()
