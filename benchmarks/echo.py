"""The process behind the floors: sends back what it gets, or passes it on to the others. Knows no protocol.

``python -m benchmarks.echo PATH``: a connection whose first byte is ``e`` gets its bytes back; one whose first byte is
``r`` joins the relay, where each sender's bytes go to all others. Prints a line when it listens, ends with its standard
input.
"""

import os
import selectors
import socket
import sys


def serve(path: str) -> None:
    """Run until standard input ends."""
    selector = selectors.DefaultSelector()
    relay = set()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(64)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        print("listening", flush=True)
        while True:
            for key, _ in selector.select():
                if key.fileobj == 0:
                    if not os.read(0, 64):
                        return
                elif key.fileobj is listener:
                    connection = listener.accept()[0]
                    if connection.recv(1) == b"r":
                        relay.add(connection)
                    selector.register(connection, selectors.EVENT_READ)
                else:
                    _pass_on(selector, key.fileobj, relay)


def _pass_on(selector, connection, relay) -> None:
    try:
        data = connection.recv(65536)
    except ConnectionError:
        data = b""
    if not data:
        selector.unregister(connection)
        relay.discard(connection)
        connection.close()
        return
    for target in relay - {connection} if connection in relay else (connection,):
        target.sendall(data)


if __name__ == "__main__":
    serve(sys.argv[1])
