"""Approving the dependencies of a notebook file.

Storey: face (7).  Source: protocol 2, section 9.6.  What is approved is printed, so that nobody approves what he has
not seen.
"""

from __future__ import annotations

import os
import sys

from runtimed_ffi.daemon.environments import trust
from runtimed_ffi.daemon.environments.requirements import dependency_objects, member
from runtimed_ffi.daemon.environments.trust import Trust, TrustKeyError
from runtimed_ffi.daemon.files import notebooks, paths
from runtimed_ffi.daemon.files.notebooks import FormatError
from runtimed_ffi.daemon.files.paths import Changed, FileError


def approve(path: str) -> int:
    """Sign what ``runtimed trust PATH`` names, print it, and return the exit status.

    The file is replaced as a whole, and only if nobody changed it meanwhile; a room that has it open merges the
    signature like any other change of the file.
    """
    try:
        seen = paths.read(path)
        if seen is None:
            raise FileError(f"{path}: no such notebook")
        notebook = notebooks.parse(seen.data)
        metadata = member(notebook.extras, "metadata")
        key = trust.key_path(os.environ)
        state = trust.status(metadata, key)
        if state is Trust.NO_DEPENDENCIES:
            print("nothing to approve: the notebook lists no dependencies")
            return 0
        for kind, wishes in dependency_objects(metadata).items():
            for name in wishes.get("dependencies") or ():
                print(f"{kind}: {name}")
        if state is Trust.TRUSTED:
            print("approved already")
            return 0
        signed = {**metadata, "runt": {**member(metadata, "runt")}}
        signed["runt"]["trust_signature"] = trust.signatures(metadata, trust.load_key(key))[1]
        data, complaint = notebooks.render({**notebook.extras, "metadata": signed}, notebook.cells, None)
        paths.replace(path, data, seen, seen.mode, f"trust {os.getpid()}", lambda: None)
    except Changed:
        print(f"runtimed-ffi: {path} was changed meanwhile; look at it and try again", file=sys.stderr)
        return 1
    except (FileError, FormatError, TrustKeyError) as error:
        print(f"runtimed-ffi: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"runtimed-ffi: {path} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    print("approved")
    if complaint is not None:
        print(f"runtimed-ffi: the file is not as nbformat wants it: {complaint}", file=sys.stderr)
    return 0
