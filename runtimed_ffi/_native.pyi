"""Typing stub of the generated cffi extension: `_binding` and the handle classes are the typed border."""

from typing import Any

ffi: Any
lib: Any
