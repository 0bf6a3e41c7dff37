"""Makes the extension ``runtimed_ffi._native`` from the C header: cffi in API mode, so a compiler checks it.

``python build_ffi.py`` builds library and extension in place; installers come through setup.py.
"""

import subprocess
import sys
from pathlib import Path

from cffi import FFI

# Isolated builds do not put this directory on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))
import build_lib


def declarations():
    """The part of the header between its markers, as it stands: no rewriting of C."""
    text = build_lib.header_path().read_text(encoding="utf-8")
    return text.split("/* rtd-cdef-begin */", 1)[1].split("/* rtd-cdef-end */", 1)[0]


def link_arguments(built):
    """Links the shared library by path; its SONAME is what the extension will look for, at run time."""
    return {
        "include_dirs": [str(built.include_dir)],
        "extra_objects": [str(built.library)],
        "extra_link_args": [f"-Wl,-rpath,{built.rpath}"],
        "depends": [str(built.library), str(built.include_dir / "runtimed_ffi.h")],
    }


ffibuilder = FFI()
ffibuilder.cdef(declarations())
# The header's version as this extension saw it; _binding/ffi.py compares it with the library's.
ffibuilder.cdef("static char *const RTD_VERSION;")
ffibuilder.set_source(
    "runtimed_ffi._native",
    '#include "runtimed_ffi.h"',
    include_dirs=[str(build_lib.header_path().parent)],
    extra_compile_args=["-Werror=incompatible-pointer-types"],
)


if __name__ == "__main__":
    # One way to build: the one installers take, but in this tree.
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=build_lib.ROOT, check=True)
