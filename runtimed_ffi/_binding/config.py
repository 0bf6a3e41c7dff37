"""Where the C library of this installation is, for programs in C, LuaJIT, Go, ... (storey 5: paths only).

Nothing here loads the library, so these answers also help when loading it fails.
"""

from __future__ import annotations

import shlex
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
_HINT = "; this copy was built against a library installed elsewhere, or not built: try `pkg-config runtimed_ffi`"


def _existing(path: Path) -> str:
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there{_HINT}")
    return str(path)


def get_include() -> str:
    """The directory of ``runtimed_ffi.h``."""
    return str(Path(_existing(_PACKAGE / "include" / "runtimed_ffi.h")).parent)


def get_library() -> str:
    """The full path of the shared library, for linking or for ``dlopen``."""
    # One real file, named like its SONAME because wheels hold no symbolic links.
    found = list((_PACKAGE / "lib").glob("libruntimed_ffi.*"))
    return str(found[0]) if found else _existing(_PACKAGE / "lib" / "libruntimed_ffi.so")


def get_pkgconfig_dir() -> str:
    """The directory of ``runtimed_ffi.pc``, to put on ``PKG_CONFIG_PATH``."""
    return str(Path(_existing(_PACKAGE / "lib" / "pkgconfig" / "runtimed_ffi.pc")).parent)


def cflags() -> str:
    """Compiler flags, quoted for a shell."""
    return shlex.join([f"-I{get_include()}"])


def libs() -> str:
    """Linker flags, quoted for a shell. The program will find the library where it is now."""
    library = get_library()
    return shlex.join([library, f"-Wl,-rpath,{Path(library).parent}"])
