"""Directory, lock and daemon.json (protocol 2, sections 1.2 to 1.5)."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from runtimed_ffi.daemon.state import AlreadyRunning, State
from runtimed_ffi.places import is_locked, layout, read_info


def test_paths_of_the_default_directory(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path), "HOME": "/nonexistent"}
    paths = layout(environ)
    assert paths.socket == str(tmp_path / "runtimed-ffi" / "runtimed.sock")
    assert paths.info_files == [str(tmp_path / "runtimed-ffi" / "daemon.json")]
    dev = layout({**environ, "CONDUCTOR_WORKSPACE_PATH": "/w"})
    assert dev.base.endswith("/worktrees/" + hashlib.sha256(b"/w").hexdigest()[:12])


def test_development_mode_asks_git_for_a_directory_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, git = tmp_path / "top", tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text(f'#!/bin/sh\n[ "$*" = "rev-parse --show-toplevel" ] && echo {top}\n')
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{git.parent}:{os.environ['PATH']}")
    environ = {"XDG_CACHE_HOME": str(tmp_path), "RUNTIMED_DEV": "1"}
    default = str(tmp_path / "runtimed-ffi")
    assert layout(environ).base == default, "git names a missing directory"
    top.mkdir()
    digits = hashlib.sha256(str(top).encode()).hexdigest()[:12]
    assert layout(environ).base.endswith(f"/worktrees/{digits}")
    assert layout({**environ, "RUNTIMED_DEV": "0"}).base == default
    git.write_text("#!/bin/sh\nexit 128\n")
    assert layout(environ).base == default, "not a checkout"


def test_a_socket_alone_brings_everything_beside_it(tmp_path: Path) -> None:
    paths = layout({}, socket=str(tmp_path / "d" / "s.sock"))
    assert (paths.base, paths.socket) == (str(tmp_path / "d"), str(tmp_path / "d" / "s.sock"))
    both = layout({}, socket=str(tmp_path / "s.sock"), base=str(tmp_path / "base"), blobs=str(tmp_path / "b"))
    assert both.lock == str(tmp_path / "base" / "daemon.lock")
    assert both.info_files == [str(tmp_path / "base" / "daemon.json"), str(tmp_path / "daemon.json")]


def test_life_of_the_directory(tmp_path: Path) -> None:
    paths = layout({}, socket=str(tmp_path / "s" / "s.sock"), base=str(tmp_path / "base"))
    assert not is_locked(paths.lock)
    state = State(paths)
    (tmp_path / "base" / "kernels" / "stale").mkdir(parents=True)
    state.prepare()
    assert os.listdir(paths.kernels) == []
    assert stat.S_IMODE(os.stat(paths.base).st_mode) == 0o700
    assert os.path.samefile(tmp_path / "s" / "blobs", paths.blobs), "where clients look for them"
    info = state.announce("0.1.0", {"blob_port": 4711, "blob_prefix": "/p"})
    for path in paths.info_files:
        assert read_info(path) == info
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert info["started_at"].endswith("Z")
    assert is_locked(paths.lock)
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}, endpoint {paths.socket}"):
        State(paths)
    assert read_info(paths.info) == info, "the second daemon has touched nothing"
    state.close()
    state.close()
    assert not is_locked(paths.lock)
    assert not any(os.path.exists(path) for path in [*paths.info_files, paths.kernels])
    assert os.path.exists(paths.lock)


def test_daemon_json_as_compatible_readers_know_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Section 1.5: order, indentation and end, and what development mode adds."""
    state = State(layout({}, base=str(tmp_path)))
    state.announce("0.1.0", {"blob_port": 4711})
    pid, started = os.getpid(), read_info(state.paths.info)["started_at"]
    assert Path(state.paths.info).read_text() == (
        f'{{\n  "endpoint": "{tmp_path}/runtimed.sock",\n  "pid": {pid},\n  "version": "0.1.0",\n'
        f'  "started_at": "{started}",\n  "blob_port": 4711\n}}'
    )
    assert state.announce("0.1.0").keys() == {"endpoint", "pid", "version", "started_at"}, "without a blob server"
    state.close()

    workspace = tmp_path / "w"
    (workspace / ".context").mkdir(parents=True)
    monkeypatch.delenv("CONDUCTOR_WORKSPACE_NAME", raising=False)
    dev = State(layout({"CONDUCTOR_WORKSPACE_PATH": str(workspace)}, base=str(tmp_path / "dev")))
    assert dev.announce("0.1.0")["worktree_path"] == str(workspace)
    assert "workspace_description" not in read_info(dev.paths.info)
    (workspace / ".context" / "workspace-description").write_text(" a task\n")
    assert dev.announce("0.1.0")["workspace_description"] == "a task"
    monkeypatch.setenv("CONDUCTOR_WORKSPACE_NAME", "named")
    assert dev.announce("0.1.0")["workspace_description"] == "named"
    dev.close()


def test_information_of_another_process_stays(tmp_path: Path) -> None:
    paths = layout({}, base=str(tmp_path))
    state = State(paths)
    Path(paths.info).write_text(json.dumps({"pid": 1}))
    state.close()
    assert read_info(paths.info) == {"pid": 1}
    Path(paths.info).write_text("[")
    assert read_info(paths.info) == {}
