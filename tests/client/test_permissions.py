"""Whose files the daemon works with."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtimed_ffi._system import permissions
from runtimed_ffi._system.permissions import Unsafe, check_own, check_shared_directory, make_private
from runtimed_ffi.daemon.state import State
from runtimed_ffi.places import layout


def test_a_private_directory_is_made_and_accepted(tmp_path: Path) -> None:
    make_private(str(tmp_path / "a" / "b"))
    make_private(str(tmp_path / "a" / "b"))
    assert os.stat(tmp_path / "a" / "b").st_mode & 0o777 == 0o700
    check_shared_directory(str(tmp_path))
    check_own(str(tmp_path / "missing"))


def test_a_world_writable_directory_needs_the_sticky_bit(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(Unsafe, match=r"chmod o-w .*--base-dir"):
        check_shared_directory(str(tmp_path))
    tmp_path.chmod(0o1777)
    check_shared_directory(str(tmp_path))
    with pytest.raises(Unsafe, match="other users can write"):
        check_own(str(tmp_path))


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(Unsafe, match="is not a directory"):
        check_shared_directory(str(tmp_path / "f"))


def test_files_of_another_user_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A test cannot change its user without being root.
    me = os.geteuid()
    monkeypatch.setattr(permissions.os, "geteuid", lambda: me + 1)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    for path in (tmp_path, link):
        with pytest.raises(Unsafe, match=f"belongs to user {me}, not to you \\({me + 1}\\)"):
            check_own(str(path))
    monkeypatch.setattr(permissions.os, "stat", lambda path: SimpleNamespace(st_mode=0o40755, st_uid=me + 2))
    with pytest.raises(Unsafe, match=f"belongs to user {me + 2}"):
        check_shared_directory(str(tmp_path))


@pytest.mark.parametrize("name", ["daemon.lock", "s.sock", "daemon.json", "runtimed.log"])
def test_a_daemon_does_not_start_on_files_of_others(tmp_path: Path, monkeypatch: Any, name: str) -> None:
    foreign = tmp_path / name
    foreign.write_text("")
    real = os.lstat

    def lstat(path: Any) -> Any:
        found = real(path)
        return SimpleNamespace(st_uid=found.st_uid + 1, st_mode=found.st_mode) if str(path) == str(foreign) else found

    monkeypatch.setattr(permissions.os, "lstat", lstat)
    with pytest.raises(Unsafe, match=name):
        State(layout({}, socket=str(tmp_path / "s.sock")))
    assert os.listdir(tmp_path) == [name]
