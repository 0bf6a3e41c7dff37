"""The two things that pyproject.toml cannot say: build the Rust library first, then the cffi extension."""

import sys
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent))
import build_ffi
import build_lib


class BuildExt(build_ext):
    """Puts library, header and pkg-config file beside the extension, in the tree or in the wheel."""

    def run(self):
        package = build_lib.PACKAGE if self.inplace else Path(self.build_lib).resolve() / "runtimed_ffi"
        for name, value in build_ffi.link_arguments(build_lib.build(package)).items():
            for extension in self.extensions:
                setattr(extension, name, value)
        super().run()


# cffi builds against the stable ABI where there is one; say so in the wheel's name.
stable_abi = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
setup(
    cffi_modules=["build_ffi.py:ffibuilder"],
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp39"}} if stable_abi else {},
)
