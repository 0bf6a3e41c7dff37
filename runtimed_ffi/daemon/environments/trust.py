"""Whether the dependencies of a notebook were approved on this machine.

Storey: daemon (7).  Source: protocol 2, section 9.6.  A process that may write the key may approve.  The key
is shared with the reference's desktop application, so that what was approved there counts here.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping

from runtimed_ffi.daemon.environments.requirements import dependency_objects, member
from runtimed_ffi.daemon.ports import Json
from runtimed_ffi.places import config_directory

KEY_BYTES = 32
_PREFIX = "hmac-sha256:"


class Trust(enum.Enum):
    """What is known about the dependencies of a notebook."""

    NO_DEPENDENCIES = "no dependencies"
    UNTRUSTED = "untrusted"
    INVALID = "invalid"
    TRUSTED = "trusted"

    @property
    def launches(self) -> bool:
        """Whether a kernel may start by itself."""
        return self in (Trust.NO_DEPENDENCIES, Trust.TRUSTED)


class TrustKeyError(Exception):
    """The key cannot be read or made."""


def key_path(environ: Mapping[str, str]) -> str:
    """Where the key is: ``RUNT_TRUST_KEY_PATH``, else ``<config>/runt/trust-key`` (1.2, 1.4)."""
    chosen = environ.get("RUNT_TRUST_KEY_PATH")
    if chosen:
        return chosen
    return os.path.join(config_directory(environ), "runt", "trust-key")


def load_key(path: str) -> bytes:
    """The key, made of random bytes with mode 0600 if there is none.

    Raises:
        TrustKeyError: It has another size, or cannot be read or written.
    """
    try:
        try:
            return _read(path)
        except FileNotFoundError:
            _create(path)
            return _read(path)
    except OSError as error:
        raise TrustKeyError(f"the trust key {path} cannot be used: {error.strerror}") from error


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        key = file.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise TrustKeyError(f"the trust key {path} does not have {KEY_BYTES} bytes; remove it to get a new one")
    return key


def _create(path: str) -> None:
    """Two processes may try: the complete file of one of them appears at once, and stays."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), 0o700, exist_ok=True)
    temporary = f"{path}.{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        os.unlink(temporary)


def signatures(metadata: Json, key: bytes) -> tuple[str, str]:
    """The signatures of a notebook's dependencies: members in the order of the file, and in alphabetical order.

    Serialisers differ in the order they write; both are accepted.
    """
    objects = dependency_objects(metadata)
    as_written: Json = {name: objects[name] for name in ("uv", "conda") if name in objects}
    return _sign(as_written, key, sort=False), _sign(as_written, key, sort=True)


def _sign(value: Json, key: bytes, sort: bool) -> str:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=sort)
    return _PREFIX + hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def status(metadata: Json, path: str) -> Trust:
    """The trust in a notebook file with this metadata; the key at ``path`` is read only if it matters.

    Raises:
        TrustKeyError: The key cannot be read or written.
    """
    if not any(value.get("dependencies") for value in dependency_objects(metadata).values()):
        return Trust.NO_DEPENDENCIES
    signature = member(metadata, "runt").get("trust_signature")
    if signature is None:
        return Trust.UNTRUSTED
    if not isinstance(signature, str):
        return Trust.INVALID
    given = signature.encode("utf-8", "surrogatepass")
    # No early end of the comparison: both candidates are always computed and compared.
    matches = [hmac.compare_digest(given, candidate.encode()) for candidate in signatures(metadata, load_key(path))]
    return Trust.TRUSTED if any(matches) else Trust.INVALID
