"""Which ids name files, and how a file is read and replaced."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from runtimed_ffi.daemon.files import paths
from runtimed_ffi.daemon.files.bases import Base, BaseStore
from runtimed_ffi.daemon.files.paths import Changed, FileError


def put(path: Path, data: bytes, seen: paths.Content | None) -> paths.Content:
    return paths.replace(str(path), data, seen, 0o640, "room", lambda: None)


def leftovers(directory: Path) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name.startswith("."))


def test_which_ids_name_files() -> None:
    for good in ("/a.ipynb", "/a b/ü.ipynb", "/a/.hidden.ipynb"):
        assert paths.path_of(good) == good
    for name in (
        "",
        "nb",
        "a.ipynb",
        "./a.ipynb",
        "~/a.ipynb",
        "/a.txt",
        "/a.ipynb/",
        "/.ipynb",
        "/a/../b.ipynb",
        "/a/./b.ipynb",
        "//a.ipynb",
        "/a//b.ipynb",
        "/a\0.ipynb",
        "/\ud800.ipynb",
        "/" + "a" * 5000 + ".ipynb",
        "/dev/zero",
    ):
        assert paths.path_of(name) is None, name


def test_only_regular_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ipynb"
    assert paths.read(str(path)) is None
    path.write_bytes(b"")
    assert paths.read(str(path)) is None, "nothing is in it"
    path.write_bytes(b"12345")
    monkeypatch.setattr(paths, "SIZE_LIMIT", 4)
    with pytest.raises(FileError, match="larger"):
        paths.read(str(path))
    os.mkfifo(tmp_path / "pipe.ipynb")
    (tmp_path / "directory.ipynb").mkdir()
    (tmp_path / "device.ipynb").symlink_to("/dev/zero")
    (tmp_path / "loop.ipynb").symlink_to("loop.ipynb")
    (tmp_path / "through.ipynb").symlink_to(path / "b.ipynb")
    for name in ("pipe", "directory", "device", "loop", "through"):
        with pytest.raises(FileError):
            paths.read(str(tmp_path / f"{name}.ipynb"))


def test_a_file_is_replaced_as_a_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    written = put(path, b"one", None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert paths.unchanged(str(path), written)
    path.chmod(0o604)
    put(path, b"two", paths.read(str(path)))
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"two", 0o604)
    assert os.listdir(tmp_path) == ["a.ipynb"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "b.ipynb", tmp_path / "a.ipynb"
    target.write_bytes(b"old")
    link.symlink_to(target)
    put(link, b"new", paths.read(str(link)))
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_what_has_changed_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_bytes(b"old")
    seen = paths.read(str(path))

    def meanwhile() -> None:
        path.write_bytes(b"theirs")

    with pytest.raises(Changed):
        paths.replace(str(path), b"mine", seen, 0o600, "room", meanwhile)
    assert path.read_bytes() == b"theirs"
    with pytest.raises(Changed):
        put(path, b"mine", None)
    path.unlink()
    with pytest.raises(Changed):
        put(path, b"mine", seen)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_at_any_step_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "a.ipynb"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    seen = paths.read(str(path))
    monkeypatch.setattr(paths.os, step, full)
    with pytest.raises(OSError, match="No space"):
        put(path, b"new", seen)
    assert path.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("renamed", [False, True])
def test_a_crash_leaves_the_old_file_or_the_new_one(tmp_path: Path, renamed: bool) -> None:
    path = tmp_path / "a.ipynb"
    path.write_bytes(b"old")
    child = os.fork()
    if child == 0:
        if renamed:
            paths._sync_directory = lambda _: os._exit(3)
        paths.replace(str(path), b"new" * 1000, paths.read(str(path)), 0o600, "room", _end_unless(renamed))
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert path.read_bytes() == (b"new" * 1000 if renamed else b"old")
    # The next save removes what the crash left.
    put(path, b"next", paths.read(str(path)))
    assert os.listdir(tmp_path) == ["a.ipynb"]


def _end_unless(renamed: bool):  # type: ignore[no-untyped-def]
    return (lambda: None) if renamed else (lambda: os._exit(3))


def test_no_directory_is_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        put(tmp_path / "none" / "a.ipynb", b"x", None)


def test_a_base_is_kept_and_a_damaged_one_set_aside(tmp_path: Path) -> None:
    path = str(tmp_path / "n.base")
    base = Base(b"\1" * 32, "d", {"metadata": {"a": 1}}, {"c": {"metadata": {"b": [2]}}}, (b"", ""))
    BaseStore(path).save(base)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert BaseStore(path).load() == base
    for damage in (b"", b"{}", b"[1]", b'{"version":2}', b'{"version":1,"heads":"x"}'):
        Path(path).write_bytes(damage)
        assert BaseStore(path).load() is None
        assert not os.path.exists(path)
    assert len(os.listdir(tmp_path)) == 5


def test_what_a_base_is_after_a_crash() -> None:
    base = Base(b"n" * 32, "new", {}, {}, (b"o" * 32, "old"))
    settled = [base.settled(digest, contained) for digest in ("new", "old", "other") for contained in (True, False)]
    assert [each.digest for each in settled] == ["new", "old", "old", "old", "old", "old"]
    assert all(each.earlier is None for each in settled)


def test_a_file_that_has_just_changed_may_change_again_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_bytes(b"1")
    content = paths.read(str(path))
    assert content is not None and not content.sure, "a second change may leave the same time"
    now = time.time()
    os.utime(path, (now, now - 10))
    content = paths.read(str(path))
    assert content is not None and content.sure
    assert paths.unchanged(str(path), content)
    assert not paths.unchanged(str(path), None)
    path.write_bytes(b"")
    assert paths.unchanged(str(path), None), "an empty file counts as none"
    assert not paths.unchanged(str(path), content)
