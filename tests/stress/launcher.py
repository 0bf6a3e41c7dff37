"""The daemon, which starts scripted kernels when the kernel type says so."""

import sys

from runtimed_ffi.__main__ import daemon_main
from runtimed_ffi.daemon import requests
from runtimed_ffi.daemon.environments import LaunchPlan

plain = requests.resolve


def resolve(kernel_type, env_source, notebook_path):
    if kernel_type == "scripted":
        import os

        argv = [sys.executable, os.path.join(os.path.dirname(__file__), "script_kernel.py"), "-f", "{connection_file}"]
        return LaunchPlan(kernel_type, env_source, argv, os.environ["HOME"])
    return plain(kernel_type, env_source, notebook_path)


requests.resolve = resolve
sys.exit(daemon_main(sys.argv[1:]))
