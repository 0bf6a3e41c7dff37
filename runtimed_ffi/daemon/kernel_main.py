"""What a Python kernel of ours runs: ipykernel, whose publishing socket does not drop what the daemon is slow to take.

Storey: daemon (7), but in the kernel's process and environment: imports ipykernel and nothing of this package. ZeroMQ
lets a publisher drop messages for a subscriber that is 1,000 of them behind; a cell that prints quickly on a busy
machine would lose outputs, and even the word that it has ended.
"""

import sys
from typing import Any

HIGH_WATER_MARK = 1_000_000
"""Messages kept in the kernel for a subscriber that does not read."""


def main() -> None:
    """Be ``python -m ipykernel_launcher``."""
    # A script has its own directory in front; it is not the user's business.
    del sys.path[0]
    from ipykernel import kernelapp

    app: Any = kernelapp.IPKernelApp
    plain = app.init_iopub

    def init_iopub(self: Any, context: Any) -> None:
        # The default of the sockets that this context makes from here on.
        context.sndhwm = HIGH_WATER_MARK
        plain(self, context)

    app.init_iopub = init_iopub
    app.launch_instance()


if __name__ == "__main__":
    main()
