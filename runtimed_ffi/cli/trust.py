"""``runtimed trust``: approves the dependencies of a notebook file.

Storey 8 (command line). What is approved is printed, so that no user approves what they have not seen.
"""

from __future__ import annotations

import sys

from runtimed_ffi.daemon.approval import Approval, ApprovalError


def approve(path: str) -> int:
    """Print the dependencies of a notebook, sign them, and return the exit status."""
    try:
        approval = Approval(path)
        if approval.empty:
            print("nothing to approve: the notebook lists no dependencies")
            return 0
        for kind, name in approval.dependencies:
            print(f"{kind}: {name}")
        if not approval.needed:
            print("approved already")
            return 0
        complaint = approval.sign()
    except ApprovalError as error:
        print(f"runtimed-ffi: {error}", file=sys.stderr)
        return 1
    print("approved")
    if complaint is not None:
        print(f"runtimed-ffi: the file is not as nbformat wants it: {complaint}", file=sys.stderr)
    return 0
