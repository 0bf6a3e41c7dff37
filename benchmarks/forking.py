"""``python -m benchmarks.forking``: a process that has imported everything a kernel needs and forks one per line.

The other way to start a kernel quickly, as a floor: it reads connection files from stdin and writes process numbers.
The child is an ordinary ipykernel; nothing is done about what a fork shares (docs/kernels.md).
"""

import os
import sys
from importlib import import_module

NEEDED = (
    "ipykernel.kernelapp",
    "ipykernel.heartbeat",
    "ipykernel.comm",
    "IPython.core.completer",
    "IPython.core.magics",
    "IPython.extensions.storemagic",
    "zmq.eventloop.zmqstream",
)


def main() -> None:
    """Fork until stdin ends; then end all children."""
    for name in NEEDED:
        import_module(name)
    import signal

    children = []
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _be_a_kernel(line.strip())
        children.append(child)
        print(child, flush=True)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _be_a_kernel(connection_file: str) -> None:
    from ipykernel.kernelapp import IPKernelApp

    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.setsid()
    sys.argv = ["kernel", "-f", connection_file]
    try:
        IPKernelApp.launch_instance()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
