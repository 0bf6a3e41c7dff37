"""Trust in the dependencies of a notebook (protocol 2, section 9.6)."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from daemon.vectors import derived
from runtimed_ffi.cli.trust import approve
from runtimed_ffi.daemon.environments import trust
from runtimed_ffi.daemon.environments.trust import Trust


@pytest.mark.parametrize("vector", derived("trust-"), ids=lambda vector: vector["id"])
def test_vectors(vector: Any, tmp_path: Path) -> None:
    """All three: members in the order of the file and in alphabetical order are both accepted."""
    key = tmp_path / "key"
    key.write_bytes(bytes.fromhex(vector["input"]["key_hex"]))
    dependencies = json.loads(vector["input"]["signed_text"])
    signature = vector["expect"]["trust_signature"]
    # A file has its members in its own order, whichever the signer used.
    in_file = {"uv": {"dependencies": ["a"]}, "conda": {"dependencies": ["b"], "channels": ["conda-forge"]}}
    if vector["id"] == "trust-2":
        assert dependencies == in_file
        dependencies = in_file
    metadata = {"runt": {"schema_version": "1", "trust_signature": signature, **dependencies}}
    assert signature in trust.signatures(metadata, key.read_bytes())
    assert trust.status(metadata, str(key)) is Trust.TRUSTED
    key.write_bytes(b"x" * 32)
    assert trust.status(metadata, str(key)) is Trust.INVALID


def test_states(tmp_path: Path) -> None:
    key = str(tmp_path / "key")
    dependencies = {"uv": {"dependencies": ["x"]}}

    def status(**runt: Any) -> Trust:
        return trust.status({"runt": runt}, key)

    assert trust.status({}, key) is Trust.NO_DEPENDENCIES
    assert status(uv={"dependencies": []}, conda="nonsense") is Trust.NO_DEPENDENCIES
    assert not os.path.exists(key), "the key is made when it is needed"
    assert status(**dependencies) is Trust.UNTRUSTED
    assert trust.status(dependencies, key) is Trust.UNTRUSTED, "legacy members beside runt"
    for signature in (5, "", "hmac-sha256:", "hmac-sha256:" + "0" * 64, "é", "\ud800"):
        assert status(trust_signature=signature, **dependencies) is Trust.INVALID, signature
    good = trust.signatures({"runt": dependencies}, trust.load_key(key))[0]
    assert status(trust_signature=good, **dependencies) is Trust.TRUSTED
    assert status(trust_signature=good, uv={"dependencies": ["x", "y"]}) is Trust.INVALID
    assert status(trust_signature=good, conda={"dependencies": ["evil"]}, **dependencies) is Trust.INVALID


def test_the_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "runt" / "trust-key"
    mask = os.umask(0)
    try:
        key = trust.load_key(str(path))
    finally:
        os.umask(mask)
    assert len(key) == 32
    assert trust.load_key(str(path)) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["trust-key"]
    path.write_bytes(b"short")
    with pytest.raises(trust.TrustKeyError, match="32 bytes"):
        trust.load_key(str(path))
    with pytest.raises(trust.TrustKeyError, match="cannot be used"):
        trust.load_key(str(path.parent))


def test_where_the_key_is() -> None:
    assert trust.key_path({"RUNT_TRUST_KEY_PATH": "/k", "HOME": "/h"}) == "/k"
    if os.uname().sysname != "Darwin":
        assert trust.key_path({"XDG_CONFIG_HOME": "/c", "HOME": "/h"}) == "/c/runt/trust-key"
        assert trust.key_path({"XDG_CONFIG_HOME": "relative", "HOME": "/h"}) == "/h/.config/runt/trust-key"


def _notebook(path: Path, metadata: Any) -> str:
    cells = [
        {"cell_type": "code", "id": "a", "metadata": {"x": [1]}, "source": "1", "outputs": [], "execution_count": None}
    ]
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}))
    return str(path)


def test_the_command_shows_and_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = str(tmp_path / "key")
    monkeypatch.setenv("RUNT_TRUST_KEY_PATH", key)
    path = _notebook(
        tmp_path / "n.ipynb", {"other": 1, "runt": {"schema_version": "1", "uv": {"dependencies": ["six"]}}}
    )
    assert approve(path) == 0
    assert capsys.readouterr().out == "uv: six\napproved\n"
    written = json.loads(Path(path).read_text())
    assert trust.status(written["metadata"], key) is Trust.TRUSTED
    assert written["metadata"]["other"] == 1 and written["cells"][0]["metadata"] == {"x": [1]}
    before = Path(path).read_bytes()
    assert approve(path) == 0 and Path(path).read_bytes() == before
    assert capsys.readouterr().out == "uv: six\napproved already\n"
    written["metadata"]["runt"]["uv"]["dependencies"].append("evil")
    Path(path).write_text(json.dumps(written))
    assert trust.status(written["metadata"], key) is Trust.INVALID
    assert approve(path) == 0
    assert capsys.readouterr().out == "uv: six\nuv: evil\napproved\n"


def test_the_command_has_nothing_to_sign_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNT_TRUST_KEY_PATH", str(tmp_path / "key"))
    assert approve(_notebook(tmp_path / "n.ipynb", {})) == 0
    assert "nothing to approve" in capsys.readouterr().out
    assert not os.path.exists(tmp_path / "key")
    assert approve(str(tmp_path / "none.ipynb")) == 1
    assert "no such notebook" in capsys.readouterr().err
    (tmp_path / "bad.ipynb").write_text("no json")
    assert approve(str(tmp_path / "bad.ipynb")) == 1
    assert "no JSON" in capsys.readouterr().err
    (tmp_path / "key").write_bytes(b"short")
    assert approve(_notebook(tmp_path / "m.ipynb", {"runt": {"uv": {"dependencies": ["six"]}}})) == 1
    assert "does not have 32 bytes" in capsys.readouterr().err
