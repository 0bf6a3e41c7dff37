"""Rooms of our daemon with peers of the reference, for the tests of the reference's client."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("runtimed_ffi._binding.ffi", reason="the C library is not built")

from interop import golden
from interop.reference_client import ReferenceClient
from interop.reference_peer import Failure, PromptPeer

LAUNCH = {"kernel_type": "python", "env_source": "uv:prewarmed", "notebook_path": None}


class Room:
    """Clients of one notebook, whose streams are checked when the test is over."""

    def __init__(self, path: str, notebook_id: str) -> None:
        self.path = path
        self.notebook_id = notebook_id
        self.peers: list[Any] = []

    def client(self) -> ReferenceClient:
        peer = ReferenceClient(self.path, self.notebook_id)
        self.peers.append(peer)
        return peer

    def prompt(self, protocol: str | None = "v2") -> PromptPeer:
        peer = PromptPeer(self.path, self.notebook_id, protocol)
        self.peers.append(peer)
        return peer

    def check(self) -> None:
        for peer in self.peers:
            golden.check_order(peer.stream)
            assert peer.early == [], "an output was announced before the document had it"

    def end(self) -> None:
        for peer in self.peers:
            peer.close()


def outcome(call: Any, *arguments: Any) -> list[str]:
    """As the recordings note what was raised."""
    with pytest.raises(Failure) as caught:
        call(*arguments)
    return ["RuntimedError", str(caught.value)]


def compare_broadcasts(name: str, peer: ReferenceClient, connection: int = 0) -> None:
    recorded = golden.normal(golden.frames(name, "broadcast", connection))
    peer.sleep_until(lambda: len(golden.normal(peer.broadcasts)) >= len(recorded))
    peer.sleep(0.1)  # If there are more than there should be.
    assert golden.normal(peer.broadcasts) == recorded
