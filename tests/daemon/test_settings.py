"""The settings: document and mirror against a real host, then the daemon as a process with raw peers."""

import asyncio
import json
import logging
import os
import shutil
import socket
import struct
import threading
from pathlib import Path

import pytest

import runtimed_ffi
from daemon.settings_peer import SettingsPeer, wait_for_file
from runtimed_ffi._binding.ffi import lib
from runtimed_ffi.daemon.channels.settings import Settings, Values
from runtimed_ffi.daemon.channels.settings_file import SCHEMA
from runtimed_ffi.errors import RuntimedError
from runtimed_ffi.host import EventKind, Host

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "v2"
DEFAULTS = {
    "theme": "system",
    "default_runtime": "python",
    "default_python_env": "uv",
    "uv": {"default_packages": []},
    "conda": {"default_packages": []},
}


@pytest.fixture
def host(tmp_path):
    with Host(tmp_path / "h.sock") as host:
        yield host


@pytest.fixture
def mirror(tmp_path):
    (tmp_path / "config").mkdir()
    return tmp_path / "config" / "settings.json"


def opened(host, tmp_path):
    settings = Settings(host, str(tmp_path / "settings.automerge"), str(tmp_path / "config"))
    settings.open()
    return settings


def written(path):
    return json.loads(path.read_text(encoding="utf-8"))


# -- the handle


def test_the_host_reads_and_changes_settings_as_json(host, tmp_path):
    with pytest.raises(RuntimedError, match="not open"):
        host.settings()
    host.open_settings(str(tmp_path / "s.automerge"))
    assert host.settings() == DEFAULTS
    host.change_settings({"theme": "dark", "uv": {"default_packages": ["six"]}})
    assert host.settings() == {**DEFAULTS, "theme": "dark", "uv": {"default_packages": ["six"]}}
    with pytest.raises(RuntimedError, match="theme must be a string"):
        host.change_settings({"default_runtime": "deno", "theme": 1})
    assert host.settings()["default_runtime"] == "python"


def test_the_host_announces_the_pool_state(host, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(30)
        peer.connect(str(tmp_path / "h.sock"))
        hello = b'{"channel":"pool_state_subscribe"}'
        peer.sendall(struct.pack(">I", len(hello)) + hello)

        def state():
            (length,) = struct.unpack(">I", peer.recv(4, socket.MSG_WAITALL))
            return json.loads(peer.recv(length, socket.MSG_WAITALL))

        assert state() == {"event": "pool_state", "uv_error": None, "conda_error": None}
        error = {"message": "no network", "consecutive_failures": 1, "retry_in_secs": 30}
        host.announce_pool_state({"uv_error": error, "conda_error": None})
        assert state()["uv_error"]["message"] == "no network"
    with pytest.raises(RuntimedError):
        host.announce_pool_state({"uv_error": 5})


def test_what_cannot_be_sent_to_one_peer_is_an_error(host):
    with pytest.raises(RuntimedError, match="no such peer in a room: 7"):
        host.send(7, {"event": "comm_sync", "comms": []})


# -- document and mirror


def test_files_of_the_reference_are_taken_over(host, tmp_path, mirror):
    shutil.copy(GOLDEN / "files" / "settings.automerge", tmp_path / "settings.automerge")
    shutil.copy(GOLDEN / "files" / "settings.json", mirror)
    before = mirror.read_bytes()
    settings = opened(host, tmp_path)
    assert settings.values == Values(theme="dark", uv_packages=("six",))
    assert mirror.read_bytes() == before
    assert written(mirror.with_name("settings.schema.json")) == SCHEMA


def test_the_file_alone_brings_the_settings_back(host, tmp_path, mirror):
    (tmp_path / "settings.automerge").write_bytes(b"garbage")
    mirror.write_text('{"default_conda_packages": "numpy, pandas", "theme": "light", "mine": [1, {"a": null}]}')
    settings = opened(host, tmp_path)
    assert settings.values == Values(theme="light", conda_packages=("numpy", "pandas"))
    assert host.settings()["mine"] == [1, {"a": None}]
    assert (tmp_path / "settings.automerge.corrupt").read_bytes() == b"garbage"


def test_where_no_document_can_be_written_the_settings_are_in_memory(host, tmp_path, mirror, caplog):
    (tmp_path / "settings.automerge").mkdir()
    mirror.write_text('{"theme": "dark"}')
    assert opened(host, tmp_path).values.theme == "dark"
    assert "cannot be saved" in caplog.text


def test_without_a_change_no_mirror_appears(host, tmp_path, mirror):
    settings = opened(host, tmp_path)
    assert (settings.values, host.settings()) == (Values(), DEFAULTS)
    assert not mirror.exists()
    settings.changed()
    assert written(mirror) == {**DEFAULTS, "$schema": "./settings.schema.json"}


def test_an_edit_of_the_file_and_a_change_of_a_peer_both_stay(host, tmp_path, mirror):
    settings = opened(host, tmp_path)
    settings.changed()
    edited = written(mirror)
    edited["uv"]["default_packages"] = ["six"]
    mirror.write_text(json.dumps(edited))
    # A peer changes something else before the edit was seen; the file still has the old theme.
    host.change_settings({"theme": "dark"})
    settings.changed()
    assert settings.values == Values(theme="dark", uv_packages=("six",))
    assert written(mirror)["theme"] == "dark"
    assert written(mirror)["uv"] == {"default_packages": ["six"]}


def test_listeners_get_each_change_once_and_may_fail(host, tmp_path, mirror, caplog):
    settings = opened(host, tmp_path)
    received = []
    settings.on_change(lambda values: 1 / 0)
    settings.on_change(received.append)
    mirror.write_text('{"default_python_env": "conda"}')
    settings.read_file()
    settings.read_file()
    assert received == [Values(default_python_env="conda")]
    assert "a listener of the settings failed" in caplog.text
    assert mirror.read_text() == '{"default_python_env": "conda"}', "the broken file is left as it is"


def test_a_broken_file_is_reported_once_kept_and_replaced_by_the_next_change(host, tmp_path, mirror, caplog):
    settings = opened(host, tmp_path)
    mirror.write_text('{"theme": "dark",')
    settings.read_file()
    settings.read_file()
    assert settings.values == Values()
    assert [record.levelno for record in caplog.records if "broken" in record.message] == [logging.ERROR]
    assert mirror.read_text() == '{"theme": "dark",', "the daemon does not overwrite a file that is being edited"
    host.change_settings({"default_runtime": "deno"})
    settings.changed()
    assert written(mirror)["default_runtime"] == "deno"
    assert mirror.with_name("settings.json.corrupt").read_text() == '{"theme": "dark",'
    host.change_settings({"theme": "light"})
    settings.changed()
    assert written(mirror)["theme"] == "light"
    assert not mirror.with_name("settings.json.corrupt.2").exists(), "the file was valid again"
    mirror.write_text("{")
    settings.read_file()
    host.change_settings({"theme": "dark"})
    settings.changed()
    assert mirror.with_name("settings.json.corrupt.2").read_text() == "{", "and then broken again"


def test_a_corrected_file_counts_again(host, tmp_path, mirror):
    settings = opened(host, tmp_path)
    for content in ("[]", "nonsense", "", '{"theme": "dark"}'):
        mirror.write_text(content)
        settings.read_file()
    assert settings.values.theme == "dark"


def test_a_file_that_is_being_written_is_not_reported(host, tmp_path, mirror, caplog):
    settings = opened(host, tmp_path)
    caplog.set_level(logging.DEBUG, "runtimed_ffi")
    mirror.write_text("")
    settings.read_file()
    assert [record.levelno for record in caplog.records if "broken" in record.message] == [logging.DEBUG]


def test_a_file_that_was_removed_is_written_again_with_the_next_change(host, tmp_path, mirror):
    settings = opened(host, tmp_path)
    settings.changed()
    before = mirror.read_bytes()
    mirror.unlink()
    settings.read_file()
    assert settings.values == Values() and not mirror.exists()
    settings.changed()
    assert mirror.read_bytes() == before


def test_one_unusable_member_does_not_cost_the_others(host, tmp_path, mirror, caplog):
    settings = opened(host, tmp_path)
    mirror.write_text('{"theme": 5, "default_runtime": "deno"}')
    settings.read_file()
    assert settings.values == Values(default_runtime="deno")
    assert "theme must be a string" in caplog.text


def test_settings_that_failed_are_served_again_unless_the_disk_is_full(host, tmp_path, mirror, caplog, monkeypatch):
    settings = opened(host, tmp_path)
    served = []
    monkeypatch.setattr(host, "open_settings", served.append)
    settings.failed(lib.RTD_E_IO, "no space")
    assert "cannot be saved at present, free some space: no space" in caplog.text and not served
    settings.failed(lib.RTD_E_CORRUPT, "broken")
    assert "the settings failed and are served again: broken" in caplog.text
    assert served == [str(tmp_path / "settings.automerge")]


def test_a_file_that_cannot_be_written_is_reported_and_the_settings_go_on(host, tmp_path, mirror, caplog):
    settings = opened(host, tmp_path)
    mirror.mkdir()
    host.change_settings({"theme": "dark"})
    settings.changed()
    assert settings.values.theme == "dark"
    assert "cannot be written" in caplog.text
    assert sorted(os.listdir(mirror.parent)) == ["settings.json", "settings.schema.json"], "no temporary file stays"


def test_a_link_stays_a_link(host, tmp_path, mirror):
    target = tmp_path / "dotfiles.json"
    target.write_text("{}")
    mirror.symlink_to(target)
    settings = opened(host, tmp_path)
    host.change_settings({"theme": "dark"})
    settings.changed()
    assert mirror.is_symlink()
    assert written(target)["theme"] == "dark"


def test_edits_are_seen_while_watching_and_the_watch_ends(host, tmp_path, mirror):
    async def life():
        settings = opened(host, tmp_path)
        changed = asyncio.get_running_loop().create_future()
        settings.on_change(lambda values: changed.done() or changed.set_result(values))
        settings.watch()
        temporary = mirror.with_name("editor")
        temporary.write_text('{"theme": "light"}')
        temporary.replace(mirror)
        values = await asyncio.wait_for(changed, 30)
        await settings.close()
        return values

    threads = set(threading.enumerate())
    assert asyncio.run(life()).theme == "light"
    assert set(threading.enumerate()) == threads


# -- the daemon


def test_the_end_waits_for_a_watch_that_is_starting(host, tmp_path, mirror, monkeypatch):
    settings = opened(host, tmp_path)
    go_on, steps = threading.Event(), []

    def start(loop, on_change):
        assert go_on.wait(60.0)
        steps.append("started")

    monkeypatch.setattr(settings._file, "start_watching", start)
    monkeypatch.setattr(settings._file, "stop_watching", lambda: steps.append("stopped"))

    async def body():
        settings.watch()
        ending = asyncio.ensure_future(settings.close())
        await asyncio.sleep(0)
        assert not steps
        go_on.set()
        await ending
        assert steps == ["started", "stopped"]

    asyncio.run(body())


def test_two_peers_the_file_and_a_restart(tmp_path):
    home = tmp_path / "d"
    mirror = home / "runt-notebook" / "settings.json"
    with runtimed_ffi.Daemon(home) as daemon:
        with SettingsPeer(daemon.socket_path, tmp_path) as one, SettingsPeer(daemon.socket_path, tmp_path) as two:
            assert one.read() == DEFAULTS
            assert not mirror.exists()
            one.change({"theme": "dark"})
            two.until(lambda members: members["theme"] == "dark")
            two.change({"uv": {"default_packages": ["six"]}})
            one.until(lambda members: members["uv"]["default_packages"] == ["six"])
            content = wait_for_file(mirror, lambda members: members["uv"]["default_packages"] == ["six"])
            assert content == {**one.read(), "$schema": "./settings.schema.json"}
            # The file is edited, and the peers get the change.
            mirror.write_text(json.dumps({**content, "default_runtime": "deno"}))
            for peer in (one, two):
                peer.until(lambda members: members["default_runtime"] == "deno")
        daemon.kill()
    with runtimed_ffi.Daemon(home) as daemon, SettingsPeer(daemon.socket_path, tmp_path) as late:
        wanted = {**DEFAULTS, "theme": "dark", "default_runtime": "deno", "uv": {"default_packages": ["six"]}}
        assert late.read() == wanted


def test_garbage_on_the_settings_channel_affects_no_other_peer(tmp_path):
    with runtimed_ffi.Daemon() as daemon, SettingsPeer(daemon.socket_path, tmp_path) as peer:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as rude:
            rude.settimeout(30)
            rude.connect(daemon.socket_path)
            for payload in (b'{"channel":"settings_sync"}', b"no sync message"):
                rude.sendall(struct.pack(">I", len(payload)) + payload)
            while rude.recv(4096):
                pass
        peer.change({"theme": "dark"})
        with SettingsPeer(daemon.socket_path, tmp_path) as other:
            other.until(lambda members: members["theme"] == "dark")


def test_another_user_is_not_let_in(tmp_path, host):
    if os.geteuid() != 0:
        pytest.skip("needs root, to connect as another user")
    # The way to it may stay closed: the child connects from inside.
    os.chmod(tmp_path, 0o755)
    os.chmod(tmp_path / "h.sock", 0o777)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        answer = b"?"
        try:
            os.chdir(tmp_path)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
                peer.settimeout(30)
                os.setuid(65534)
                peer.connect("h.sock")
                answer = b"open" if peer.recv(1) else b"closed"
        except ConnectionError:
            answer = b"closed"
        finally:
            os.write(writer, answer)
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as pipe:
        assert pipe.read() == b"closed"
    assert EventKind.CLOSED not in [event.kind for event in host.drain()]
