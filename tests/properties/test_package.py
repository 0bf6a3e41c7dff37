"""`runtimed_ffi.testing` as a package: what needs Hypothesis and what does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = "import sys; sys.modules['hypothesis'] = None; "


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", ["strategies", "profiles", "deviations"])
def test_what_needs_hypothesis_says_where_to_get_it(name: str) -> None:
    done = run(f"{WITHOUT}import runtimed_ffi.testing.{name}")
    assert done.returncode == 1
    assert "ImportError: this part of runtimed_ffi.testing needs Hypothesis" in done.stderr
    assert "pip install 'runtimed-ffi[testing]'" in done.stderr


def test_the_rest_does_without() -> None:
    modules = ("conformance", "peers", "replicas", "wire", "changes", "model")
    imports = "; ".join(f"import runtimed_ffi.testing.{name}" for name in modules)
    done = run(f"{WITHOUT}{imports}; print('fine')")
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_the_package_itself_does_not_load_it() -> None:
    done = run("import sys, runtimed_ffi; print([name for name in sys.modules if '.testing' in name])")
    assert done.stdout == "[]\n"
