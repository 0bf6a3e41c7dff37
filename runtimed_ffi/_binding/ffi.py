"""The binding: the only import of the cffi extension, its version check, and translation of errors, text and bytes.

Storey 5 (binding). Knows the C ABI's general conventions (result codes, thread-local error text, owned buffers); knows
nothing of notebooks. Only this module, `events` and the handle classes touch `lib`.
"""

from __future__ import annotations

import importlib
import json
import os
from typing import Any, Callable, Union

from runtimed_ffi import errors
from runtimed_ffi._version import __version__


def _in_subinterpreter() -> bool:
    for name in ("_interpreters", "_xxsubinterpreters"):  # from 3.13 on, and before
        try:
            interpreters = importlib.import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() != interpreters.get_main())
    return False  # PyPy has none


if _in_subinterpreter():
    # CPython itself refuses the extension in those with a GIL of their own only. In the others it would load, and share
    # cffi's types and the exit of the process with interpreters that end before.
    raise ImportError(
        "runtimed_ffi works in the main interpreter only, and this is a subinterpreter; "
        "use threads or processes (docs/threading.md)"
    )

try:
    from runtimed_ffi import _native
    from runtimed_ffi._native import ffi, lib
except ImportError as _problem:
    raise ImportError(
        f"the compiled part of runtimed_ffi cannot be loaded ({_problem}); in a checkout, build it with `make`"
    ) from _problem

__all__ = [
    "AGAIN",
    "CLOSED",
    "IO",
    "NOT_FOUND",
    "OK",
    "PROTOCOL",
    "TIMEOUT",
    "CData",
    "Readable",
    "StrPath",
    "borrowed",
    "bytes_in",
    "call_buf",
    "call_handle",
    "call_json",
    "check",
    "check_versions",
    "error",
    "ffi",
    "json_in",
    "last_error",
    "lib",
    "library_file",
    "library_version",
    "new_buffer",
    "path_in",
    "result_name",
    "take_buf",
    "text_in",
]

CData = Any
"""A cffi object. It never leaves the binding and the handle classes."""

Readable = Union[bytes, bytearray, memoryview]

StrPath = Union[str, "os.PathLike[str]"]

OK: int = lib.RTD_OK
AGAIN: int = lib.RTD_E_AGAIN
CLOSED: int = lib.RTD_E_CLOSED
PROTOCOL: int = lib.RTD_E_PROTOCOL
IO: int = lib.RTD_E_IO
TIMEOUT: int = lib.RTD_E_TIMEOUT
NOT_FOUND: int = lib.RTD_E_NOT_FOUND

_CLASSES: dict[int, type[errors.RuntimedError]] = {
    lib.RTD_E_CLOSED: errors.DisconnectedError,
    lib.RTD_E_NULL: errors.ArgumentError,
    lib.RTD_E_ARG: errors.ArgumentError,
    lib.RTD_E_UTF8: errors.ArgumentError,
    lib.RTD_E_TOO_BIG: errors.ArgumentError,
    lib.RTD_E_PROTOCOL: errors.ProtocolError,
    lib.RTD_E_IO: errors.DisconnectedError,
    lib.RTD_E_TIMEOUT: errors.TimeoutError_,
    lib.RTD_E_NOT_FOUND: errors.NotFoundError,
    lib.RTD_E_STATE: errors.StateError,
    lib.RTD_E_VERSION: errors.ProtocolError,
    lib.RTD_E_PANIC: errors.InternalError,
    lib.RTD_E_POISONED: errors.InternalError,
    lib.RTD_E_CORRUPT: errors.CorruptError,
}


def library_file() -> str:
    """Path of the library bundled with the package.

    Its bare name when the extension was linked against another one.
    """
    directory = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib")
    names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    for name in names:
        if name.startswith("libruntimed_ffi."):
            return os.path.join(directory, name)
    return "libruntimed_ffi"


def library_version() -> str:
    """Version text of the loaded library."""
    return str(ffi.string(lib.rtd_version()).decode("ascii"))


def check_versions(abi_version: int, text: str) -> None:
    """Refuse a library that the extension was not compiled for.

    Args:
        abi_version: what `rtd_abi_version()` answers, `major << 16 | minor`.
        text: what `rtd_version()` answers.

    Raises:
        ImportError: another ABI major, a smaller minor, or another version than the package's; names both files.
    """
    major, minor = abi_version >> 16, abi_version & 0xFFFF
    compiled = (int(lib.RTD_ABI_MAJOR), int(lib.RTD_ABI_MINOR))
    if major == compiled[0] and minor >= compiled[1] and text == __version__:
        return
    raise ImportError(
        f"{library_file()} is version {text} with ABI {major}.{minor}, "
        f"but {_native.__file__} was compiled for ABI {compiled[0]}.{compiled[1]} of version {__version__}; "
        "reinstall or rebuild the package"
    )


check_versions(lib.rtd_abi_version(), library_version())


def result_name(code: int) -> str:
    """Name of a result code, for instance ``RTD_E_TIMEOUT``; accepts any number."""
    return str(ffi.string(lib.rtd_result_name(code)).decode("ascii"))


def last_error() -> str:
    """This thread's error text; meaningful only right after a failed call."""
    size = ffi.new("size_t *")
    capacity = 512
    while True:
        text = ffi.new("char[]", capacity)
        lib.rtd_last_error(text, capacity, size)
        if size[0] < capacity:
            return str(ffi.buffer(text, size[0])[:].decode("utf-8", "replace"))
        capacity = size[0] + 1


def error(code: int, text: str) -> errors.RuntimedError:
    """The exception for an `RTD_E_*` code, wherever the code came from (a call or an event)."""
    name = result_name(code)
    exception = _CLASSES.get(code, errors.RuntimedError)(text or name)
    exception.code = code
    exception.name = name
    return exception


def check(code: int) -> None:
    """Raise the exception for a failed call, with the library's text; do nothing when it succeeded."""
    if code != OK:
        raise error(code, last_error())


def text_in(value: str) -> tuple[CData, int]:
    """Text as the pointer and length of a `const char *, size_t` pair; keep the pair alive for the call.

    Raises:
        UnicodeEncodeError: the text holds a lone surrogate.
    """
    raw = value.encode("utf-8")
    return ffi.from_buffer("char[]", raw), len(raw)


def bytes_in(value: Readable) -> tuple[CData, int]:
    """Bytes as the pointer and length of a `const uint8_t *, size_t` pair, without copying."""
    return ffi.from_buffer("uint8_t[]", value), len(value)


def path_in(path: StrPath | None) -> tuple[CData, int]:
    """A path as the pointer and length of a `const char *, size_t` pair; `None` as `NULL`."""
    if path is None:
        return ffi.NULL, 0
    raw = os.fsencode(path)
    return ffi.from_buffer("char[]", raw), len(raw)


def json_in(value: Any) -> tuple[CData, int]:
    """A value as compact JSON in UTF-8, as `bytes_in`. What UTF-8 cannot say (a lone surrogate) becomes ``?``."""
    return bytes_in(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))


def new_buffer() -> CData:
    """An empty `rtd_buf *` for a call to fill."""
    return ffi.new("rtd_buf *")


def take_buf(buffer: CData) -> bytes:
    """Copy a filled `rtd_buf` out once and free it."""
    try:
        return bytes(ffi.buffer(buffer.data, buffer.len)) if buffer.len else b""
    finally:
        lib.rtd_buf_free(buffer)


def call_buf(function: Callable[..., int], *arguments: Any, check: Callable[[int], None] = check) -> bytes:
    """Call a function of `lib` whose last parameter is an `rtd_buf *`, and return what it fills in."""
    out = new_buffer()
    check(function(*arguments, out))
    return take_buf(out)


def call_json(function: Callable[..., int], *arguments: Any, check: Callable[[int], None] = check) -> Any:
    """As `call_buf`, for JSON."""
    return json.loads(call_buf(function, *arguments, check=check))


def call_handle(kind: str, function: Callable[..., int], *arguments: Any) -> CData:
    """Call a function of `lib` whose last parameter is a pointer to a handle of this type; return the handle."""
    out = ffi.new(f"{kind} **")
    check(function(*arguments, out))
    return out[0]


def borrowed(pointer: CData, length: int) -> bytes:
    """Copy borrowed memory, for instance the payload of an event; `NULL` is empty."""
    return bytes(ffi.buffer(pointer, length)) if length else b""
