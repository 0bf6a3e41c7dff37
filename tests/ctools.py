"""Compilers and other programs that tests call. A skip names the tool that is missing."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "csrc" / "include" / "runtimed_ffi.h"
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def require(name):
    """The command line of a tool, as a list, or a skip."""
    command = shlex.split(name)
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    return command


def cc():
    """The C compiler: CC, or cc."""
    return require(os.environ.get("CC") or "cc")


def cxx():
    """The C++ compiler: CXX, or c++."""
    return require(os.environ.get("CXX") or "c++")


def npm_ci(directory, *options):
    """Installs what a directory's package-lock.json names, or a skip when there is no npm or no registry."""
    command = [*require("npm"), "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1", *options]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300)
    if done.returncode and re.search("ENOTFOUND|EAI_AGAIN|ECONN|ENOTCACHED", done.stderr):
        pytest.skip(f"the npm registry cannot be reached: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stderr


def run(*command, **options):
    """Runs a command that must succeed with nothing on stderr; returns its stdout."""
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, **options)
    assert done.returncode == 0 and not done.stderr, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def flags(*options):
    """What `python -m runtimed_ffi` prints for the options, as arguments."""
    return shlex.split(run(sys.executable, "-m", "runtimed_ffi", *options))


def declarations(text):
    """The slice of the header that other hosts read, without comments."""
    text = text.split("/* rtd-cdef-begin */")[1].split("/* rtd-cdef-end */")[0]
    return re.sub(r"//[^\n]*", "", text)
