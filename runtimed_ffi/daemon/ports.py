"""What the modules of the daemon need from each other and from the C library, as types.

Storey: daemon (7).  Rooms, queues and requests are written against these protocols, so that tests can drive them with
a host that records and a kernel that plays a script.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Callable, NamedTuple, Protocol

Json = dict[str, Any]

RTD_E_IO = -8
"""The code of an event about a file that cannot be written at present (``enum rtd_code``, never renumbered)."""


class Message(NamedTuple):
    """One Jupyter message of a kernel."""

    channel: str
    """``iopub``, ``shell`` or ``control``."""
    msg_type: str
    parent_id: str
    """Id of the message it answers or was caused by; empty if there is none."""
    content: Json
    metadata: Json
    buffers: list[bytes]


class Launching(NamedTuple):
    """A kernel that is being started."""

    kernel_type: str
    env_source: str
    """As requested, and as resolved once that is known."""
    text: str = ""
    """The present step, for people; empty if there is none."""


class KernelListener(Protocol):
    """Receives the messages of a kernel.  Called on the loop, never from within a method of the kernel."""

    def on_messages(self, kernel: KernelPort, batch: Sequence[Message]) -> None:
        """All messages that were readable at one moment, iopub first."""

    def on_death(self, kernel: KernelPort, reason: str) -> None:
        """The process ended without having been asked to.  The last call; all its messages were delivered before."""


class LaunchListener(KernelListener, Protocol):
    """Receives the progress of a launch, and then the messages of the kernel."""

    def on_progress(self, launching: Launching) -> None:
        """The launch has been resolved, or its environment is being made.  Not after the launch has ended."""


class KernelPort(Protocol):
    """A kernel that runs."""

    kernel_type: str
    env_source: str

    @property
    def publishes_late(self) -> bool:
        """Whether outputs of an execution may come behind both halves of its end (Deno)."""

    @property
    def process_id(self) -> int | None:
        """The process, or ``None`` if it is not on this machine."""

    def execute(self, code: str) -> str:
        """Send an ``execute_request`` now and return its message id.  Never blocks."""

    def fence(self) -> str:
        """Send a ``kernel_info_request`` and return its message id; reply and idle reach the listener."""

    def request(self, msg_type: str, content: Json, timeout: float) -> Awaitable[Json]:
        """Send a request on shell and wait for the content of its reply.

        Raises:
            asyncio.TimeoutError: There is no reply after ``timeout`` seconds.
            KernelGone: The kernel has ended.
        """

    def send_comm(self, message: Json) -> None:
        """Send a client's Jupyter message on shell with its own header, the session replaced."""

    def interrupt(self) -> None:
        """Interrupt what the kernel does.  Never blocks, harmless on an idle or dead kernel."""

    def shutdown(self, deadline: float = 2.0) -> Awaitable[None]:
        """Ask the kernel to end, kill it after ``deadline`` seconds, remove its files.  Idempotent."""


class KernelGone(Exception):
    """The kernel ended while a request waited for its reply."""


class LaunchError(Exception):
    """A kernel cannot be started.  The text is what the peer reads (protocol 2, section 5.7)."""


class SettingsView(Protocol):
    """The settings that environments depend on (protocol 2, section 11.1).  Read anew at each use, from any thread."""

    @property
    def default_runtime(self) -> str:
        """``python`` or ``deno``."""

    @property
    def default_python_env(self) -> str:
        """``uv`` or ``conda``."""

    @property
    def uv_packages(self) -> Sequence[str]:
        """What every pooled uv environment has."""

    @property
    def conda_packages(self) -> Sequence[str]:
        """What every pooled conda environment has."""


class Timer(Protocol):
    """What ``loop.call_later`` returns."""

    def cancel(self) -> None:
        """Do not call it any more."""


CallLater = Callable[[float, Callable[[], None]], Timer]
Publish = Callable[[Sequence[Json], Sequence[Json], int], None]
"""(ops, broadcasts, cause): one change and then the broadcasts, see ``Host.publish``."""
