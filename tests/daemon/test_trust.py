"""Trust in the dependencies of a notebook (protocol 2, section 9.6)."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from runtimed_ffi.daemon.environments import trust
from runtimed_ffi.daemon.environments.trust import Trust

from .vectors import derived


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
