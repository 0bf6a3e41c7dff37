"""The approval of what a notebook file lists, which is a signature in the file.

Storey: daemon (7). Source: protocol 2, section 9.6.
"""

from __future__ import annotations

import os

from runtimed_ffi.daemon.environments import trust
from runtimed_ffi.daemon.environments.requirements import dependency_objects, member
from runtimed_ffi.daemon.environments.trust import Trust, TrustKeyError
from runtimed_ffi.daemon.files import notebooks, paths
from runtimed_ffi.daemon.files.notebooks import FormatError
from runtimed_ffi.daemon.files.paths import Changed, FileError


class ApprovalError(Exception):
    """The file cannot be read, signed or written. The text says why."""


class Approval:
    """A notebook file whose dependencies may be approved.

    Raises:
        ApprovalError: it is not there, or cannot be read.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._key = trust.key_path(os.environ)
        try:
            seen = paths.read(path)
            if seen is None:
                raise ApprovalError(f"{path}: no such notebook")
            self._seen = seen
            self._notebook = notebooks.parse(seen.data)
            self._metadata = member(self._notebook.extras, "metadata")
            self._state = trust.status(self._metadata, self._key)
        except (FileError, FormatError, TrustKeyError) as error:
            raise ApprovalError(str(error)) from error

    @property
    def dependencies(self) -> list[tuple[str, str]]:
        """The kind (``uv``, ``conda``) and the text of each dependency."""
        listed = dependency_objects(self._metadata).items()
        return [(kind, str(name)) for kind, wanted in listed for name in wanted.get("dependencies") or ()]

    @property
    def needed(self) -> bool:
        """Whether there is something to approve that is not approved yet."""
        return self._state not in (Trust.NO_DEPENDENCIES, Trust.TRUSTED)

    @property
    def empty(self) -> bool:
        """Whether the notebook lists no dependencies."""
        return self._state is Trust.NO_DEPENDENCIES

    def sign(self) -> str | None:
        """Write the signature into the file.

        The file is replaced as a whole, and only if no program changed it meanwhile; a room that has it open merges the
        signature like any other change of the file.

        Returns:
            What nbformat finds wrong with the file; `None` if nothing.

        Raises:
            ApprovalError: the file was changed meanwhile, or cannot be written, or the key cannot be read.
        """
        try:
            signed = {**self._metadata, "runt": {**member(self._metadata, "runt")}}
            signed["runt"]["trust_signature"] = trust.signatures(self._metadata, trust.load_key(self._key))[1]
            extras = {**self._notebook.extras, "metadata": signed}
            data, complaint = notebooks.render(extras, self._notebook.cells, None)
            paths.replace(self._path, data, self._seen, self._seen.mode, f"trust {os.getpid()}", lambda: None)
        except Changed as error:
            raise ApprovalError(f"{self._path} was changed meanwhile; look at it and try again") from error
        except (FileError, FormatError, TrustKeyError) as error:
            raise ApprovalError(str(error)) from error
        except OSError as error:
            raise ApprovalError(f"{self._path} cannot be written: {error.strerror}") from error
        return complaint
