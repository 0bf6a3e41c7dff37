"""The life of an object that owns a handle of the C library.

Storey: binding (5).
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from runtimed_ffi._binding.ffi import ffi

Self = TypeVar("Self", bound="Handle")


class Handle(ABC):
    """Owns a handle until ``close``, which the end of a ``with`` block calls as well.

    ``close`` must not run beside another call of the same object.  An object that is forgotten without it frees its
    handle with a ``ResourceWarning``.
    """

    NOUN: ClassVar[str]
    """What it is, for messages."""

    handle: Any = ffi.NULL
    """The pointer; ``NULL`` before it was opened and once it is closed."""

    def close(self) -> None:
        """Free the handle.  Idempotent; every other method raises ``ValueError`` afterwards."""
        handle, self.handle = self.handle, ffi.NULL
        if handle != ffi.NULL:
            self._free(handle)

    @abstractmethod
    def _free(self, handle: Any) -> None:
        """Free what ``handle`` points to."""

    def _live(self) -> Any:
        if self.handle == ffi.NULL:
            raise ValueError(f"the {self.NOUN} is closed")
        return self.handle

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self.handle != ffi.NULL:
            warnings.warn(f"a {type(self).__name__} was not closed", ResourceWarning, stacklevel=2)
            self.close()
