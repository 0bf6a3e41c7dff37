"""Fixtures and options of all tests.

Tests have a home of their own: kernels, shells and daemons write into it, not into the user's.

And the options of the tests that can be run longer; see docs/testing.md.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

# No deadline depends on the machine; properties with settings of their own take theirs from here too.
hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    derandomize=os.environ.get("RTD_PROFILE", "ci") == "ci",
    print_blob=True,
)
hypothesis.settings.load_profile("tests")

# A shell starts what it runs in the background with Ctrl-C ignored, and whatever that starts inherits it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The tests of a wheel in other languages.
LANGUAGES = "tests/languages/"

# Tools that tests build and install with keep theirs.
KEPT = {
    "CARGO_HOME": ".cargo",
    "GOCACHE": ".cache/go-build",
    "GOENV": ".config/go/env",
    "NPM_CONFIG_USERCONFIG": ".npmrc",
    "PIP_CACHE_DIR": ".cache/pip",
    "PIP_CONFIG_FILE": ".config/pip/pip.conf",
    "PYENV_ROOT": ".pyenv",
    "RUSTUP_HOME": ".rustup",
    "UV_CACHE_DIR": ".cache/uv",
    "UV_CONFIG_FILE": ".config/uv/uv.toml",
}


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty home directory, with an IPython that keeps its history in memory."""
    directory = tmp_path_factory.mktemp("home")
    profile = directory / ".ipython" / "profile_default"
    profile.mkdir(parents=True)
    # Many kernels at once would wait for each other's lock on the file, and print warnings.
    (profile / "ipython_config.py").write_text("c.HistoryManager.hist_file = ':memory:'\n")
    with pytest.MonkeyPatch.context() as patch:
        for name, place in KEPT.items():
            path = os.path.join(os.path.expanduser("~"), place)
            if name not in os.environ and os.path.exists(path):
                patch.setenv(name, path)
        patch.setenv("HOME", str(directory))
        patch.setenv("IPYTHONDIR", str(directory / ".ipython"))
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
            patch.delenv(name, raising=False)
        # Daemons start no kernels ahead of time unless the test is about that: two cores are busy enough.
        patch.setenv("RUNTIMED_FFI_KERNEL_POOL_SIZE", "0")
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out long tests unless requested, and put files with slow ones first.

    Workers of pytest-xdist take whole files: one that takes a minute should not be the last. The wheel comes first.
    """
    if not config.getoption("--long"):
        long = [item for item in items if item.get_closest_marker("long")]
        if long:
            config.hook.pytest_deselected(items=long)
            items[:] = [item for item in items if not item.get_closest_marker("long")]
    slow = {item.path for item in items if any(map(item.get_closest_marker, ("slow", "stress", "interop")))}
    items.sort(key=lambda item: (not item.nodeid.startswith(LANGUAGES), item.path not in slow))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all files of `LANGUAGES` to one worker: they share a wheel that takes minutes to build."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return LANGUAGES if nodeid.startswith(LANGUAGES) else super()._split_scope(nodeid)

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("runtimed_ffi: longer runs")
    group.addoption("--long", action="store_true", help="tests marked long as well")
    group.addoption("--crash-runs", type=int, default=20, metavar="N", help="crash test: kill the daemon N times")
    group.addoption("--crash-seed", type=int, default=1, metavar="SEED", help="crash test: where and when")
    group.addoption("--exit-runs", type=int, default=8, metavar="N", help="exit test: end N interpreters under load")
    group.addoption("--fork-runs", type=int, default=10, metavar="N", help="fork test: fork N times under load")
    group.addoption("--soak-rounds", type=int, default=4, metavar="N", help="soak: rounds that are compared")
    group.addoption(
        "--real-kernels",
        type=int,
        default=0,
        metavar="N",
        help="scale: so many kernels of ipykernel beside scripted ones",
    )
