"""A peer of the settings channel: a socket, a replica, and the pure functions of the library."""

import json
import os
import socket
import struct

from runtimed_ffi._binding.ffi import check, ffi, lib, take_buf
from runtimed_ffi.host import Host

PATIENCE = 30.0


class SettingsPeer:
    """Joins on creation.  ``scratch`` is a directory for its own files."""

    def __init__(self, socket_path, scratch):
        self._scratch = str(scratch)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(str(socket_path))
        self._doc, self._sync = ffi.new("rtd_doc **"), ffi.new("rtd_sync **")
        check(lib.rtd_doc_new(self._doc))
        check(lib.rtd_sync_new(self._sync))
        self._send(b'{"channel":"settings_sync"}')
        self.until(lambda members: True)

    def read(self):
        """The replica as JSON; ``None`` while it is empty."""
        return self._over_host(lambda host: host.settings())

    def until(self, wanted):
        """Exchange messages until the replica has the expected content; returns it."""
        while True:
            members = self.read()
            if members is not None and wanted(members):
                return members
            message = self._receive()
            check(lib.rtd_sync_receive(self._sync[0], self._doc[0], message, len(message)))
            self._say()

    def change(self, members):
        self._over_host(lambda host: host.change_settings(members), keep=True)
        self._say()

    def close(self):
        self._socket.close()
        lib.rtd_sync_free(self._sync[0])
        lib.rtd_doc_free(self._doc[0])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _over_host(self, call, keep=False):
        """The replica in a host of our own: only a host reads and changes settings as JSON."""
        out = ffi.new("rtd_buf *")
        check(lib.rtd_doc_heads(self._doc[0], out))
        if not take_buf(out):
            return None
        check(lib.rtd_doc_save(self._doc[0], out))
        path = os.path.join(self._scratch, f"{id(self)}.automerge")
        with open(path, "wb") as file:
            file.write(take_buf(out))
        with Host(os.path.join(self._scratch, "p.sock")) as host:
            host.open_settings(path)
            result = call(host)
        if keep:
            with open(path, "rb") as file:
                data = file.read()
            lib.rtd_doc_free(self._doc[0])
            check(lib.rtd_doc_load(data, len(data), self._doc))
        return result

    def _say(self):
        out = ffi.new("rtd_buf *")
        code = lib.rtd_sync_generate(self._sync[0], self._doc[0], out)
        if code != lib.RTD_E_AGAIN:
            check(code)
            self._send(take_buf(out))

    def _send(self, payload):
        self._socket.sendall(struct.pack(">I", len(payload)) + payload)

    def _receive(self):
        (length,) = struct.unpack(">I", self._exactly(4))
        return self._exactly(length)

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            piece = self._socket.recv(count - len(data))
            assert piece, "the daemon has closed the connection"
            data += piece
        return data


def wait_for_file(path, wanted, patience=PATIENCE):
    """Wait until a JSON file has the expected content.  It is replaced by rename, so each read finds a whole file."""
    import time

    deadline = time.monotonic() + patience
    while True:
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
            if wanted(content):
                return content
        except FileNotFoundError:
            content = None
        assert time.monotonic() < deadline, content
        # No event of the file system exists on every platform.
        time.sleep(0.01)
