"""The daemon's command line, with what other branches bring stood in for where they are not merged yet.

To be removed with them: `house` then starts `python -m runtimed_ffi daemon`.
"""

import importlib.util
import os
import signal
import sys

from runtimed_ffi.__main__ import daemon_main
from runtimed_ffi.daemon import environments, requests


def scripted(plain):
    """Any installed kernelspec by name: here only the one of the scripted kernel."""

    def resolve(kernel_type, env_source, notebook_path):
        if kernel_type != "scripted":
            return plain(kernel_type, env_source, notebook_path)
        kernel = os.path.join(os.path.dirname(os.path.abspath(__file__)), "script_kernel.py")
        argv = [sys.executable, kernel, "-f", "{connection_file}"]
        return environments.LaunchPlan(kernel_type, env_source, argv, os.environ["HOME"])

    return resolve


def end_orphans(directory):
    """Kernels of a crashed daemon end when the next one starts."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                line = file.read()
        except OSError:
            continue
        if b"script_kernel.py" in line and os.fsencode(directory) in line:
            os.kill(int(entry), signal.SIGKILL)


if not hasattr(environments, "kernelspecs"):
    requests.resolve = scripted(requests.resolve)
if importlib.util.find_spec("runtimed_ffi.daemon.kernel_directory") is None:
    end_orphans(os.path.join(sys.argv[sys.argv.index("--base-dir") + 1], "kernels"))
sys.exit(daemon_main(sys.argv[1:]))
