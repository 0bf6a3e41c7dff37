"""The life of an object that owns a handle of the C library: the one way to own one.

Storey 5 (binding).
"""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import Any, Callable, ClassVar, TypeVar

from runtimed_ffi._binding.ffi import ffi

Self = TypeVar("Self", bound="Handle")


class Handle:
    """Owns a handle until `close`, which the end of a ``with`` block calls as well.

    An object that is dropped without it frees its handle, with a ``ResourceWarning``. Not by `ffi.gc`: objects of a
    cycle are finalised in any order, and a handle that was freed while another finaliser can reach this object would
    be used afterwards. So both go at once.

    Threads: `close` must not run beside another call of the same object.
    """

    NOUN: ClassVar[str]
    """What it is, for messages."""

    FREE: ClassVar[Any]
    """The function that frees it. An attribute: at the interpreter's end the module's names may go first."""

    handle: Any = ffi.NULL
    """The pointer; ``NULL`` before it was opened and once it is closed."""

    may_be_dropped = False
    """True when dropping the object without `close` is no mistake, and gives no warning."""

    def close(self) -> None:
        """Free the handle. Idempotent; every other method raises `ValueError` afterwards."""
        handle = self._take()
        if handle:
            self._free(handle)

    def _take(self) -> Any:
        handle, self.handle = self.handle, None
        return handle

    def _free(self, handle: Any) -> None:
        self.FREE(handle)

    def _live(self) -> Any:
        if not self.handle:
            raise ValueError(f"the {self.NOUN} is closed")
        return self.handle

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        if self.handle:
            try:
                if not self.may_be_dropped:
                    warn(f"the {self.NOUN} was not closed", ResourceWarning, stacklevel=2)
            finally:
                self.close()
