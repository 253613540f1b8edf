"""A way to the daemon that can be cut: a proxy in the middle of a real TCP connection.

Owns copying bytes and resetting connections. Must not know what the bytes mean.
"""

import socket
import struct
import threading
from contextlib import suppress

RESET = struct.pack("ii", 1, 0)  # SO_LINGER of socket(7): closing sends a reset, as when a machine has gone


class Cuttable:
    """A proxy on a port of its own.

    Args:
        target: host and port that it leads to.

    Attributes:
        url: where a client connects, as the daemon's WebSocket.
        connections: how many there have been.
        is_dead: nothing gets through on the connections that there are, and nobody is told, as when a network goes.
        cut_after: bytes from the daemon after which the next connection is cut; None for never. Used up by a cut.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.connections = 0
        self.cut_after: int | None = None
        self.is_dead = False
        self._target = target
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self._listener.getsockname()[1]}/ws/mcp"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset every connection that is open."""
        with self._lock:
            cut, self._open = self._open, set()
        for each in cut:
            with suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        """Accept nobody any more."""
        self._listener.shutdown(socket.SHUT_RDWR)  # which wakes whoever accepts
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                self.is_dead = False
                try:
                    server = socket.create_connection(self._target)
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._open |= {client, server}
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._copy, args=(source, sink, sink is client), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while received := source.recv(65536):
                if self.is_dead:
                    continue
                if is_answer and self.cut_after is not None:
                    self.cut_after -= len(received)
                    if self.cut_after <= 0:
                        self.cut_after = None
                        self.cut()
                        return
                sink.sendall(received)
            sink.shutdown(socket.SHUT_WR)
