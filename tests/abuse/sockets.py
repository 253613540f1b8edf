"""Plain blocking sockets at the doors, of which every byte is ours to choose, and what is read from them."""

import json
import os
import socket
import struct
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.e2e.client import PATIENCE
from tests.e2e.frames import CLOSE, PING, TEXT, RawSocket

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for 0 seconds (socket(7)): close discards what waits and sends RST."""

HOST = b"Host: localhost\r\n"


def handshake(*lines: bytes, subprotocol: bytes = b"ccexec.v1") -> bytes:
    """A good one, with further lines."""
    start = (
        b"GET /ws/mcp HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13"
    )
    key = b"Sec-WebSocket-Key: " + b64encode(os.urandom(16))
    return b"\r\n".join([start, key, b"Sec-WebSocket-Protocol: " + subprotocol, *lines, b"", b""])


@contextmanager
def dialled(address: tuple[str, int], *, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    """A connection to the port."""
    with socket.socket() as one:
        one.settimeout(PATIENCE)
        if receive_buffer is not None:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        one.connect(address)
        yield one


@contextmanager
def operating(path: Path) -> Iterator[socket.socket]:
    """A connection to the control socket."""
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(path))  # without a time-out: with one, a full backlog is an error and not a wait (unix(7))
        one.settimeout(PATIENCE)
        yield one


def say(one: socket.socket, data: bytes) -> None:
    """Send as much as the other end wants: what it refuses it need not take to its end."""
    with suppress(BrokenPipeError, ConnectionResetError):
        one.sendall(data)


def hear(one: socket.socket) -> bytes:
    """All that comes until the other end closes; a reset is an end, too."""
    received = bytearray()
    try:
        while data := one.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return bytes(received)


def vanish(one: socket.socket) -> None:
    """Be gone, without a goodbye."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    one.close()


class WebSocket:
    """A WebSocket, greeted, for blocking use."""

    def __init__(self, one: socket.socket, handshake_: bytes | None = None) -> None:
        self.socket = one
        self._frames = RawSocket(None)
        one.sendall(handshake_ or handshake())
        while b"\r\n\r\n" not in self._frames._received:
            self._frames._received += one.recv(65536)
        self.head, _, self._frames._received = self._frames._received.partition(b"\r\n\r\n")
        assert self.head.startswith(b"HTTP/1.1 101 "), self.head
        assert self.message()["method"] == "connected"

    def frame(self) -> tuple[int, bytes] | None:
        """The next frame's opcode and payload; None when there will be none."""
        while (parsed := self._frames._parse()) is None:
            try:
                received = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            if not received:
                return None
            self._frames._received += received
        return parsed

    def message(self) -> Any:
        """The next message; there must be one."""
        while (received := self.frame()) is not None and received[0] == PING:
            """Somebody who sends all kinds of things does not answer it, either."""
        assert received is not None, "the connection has ended"
        assert received[0] == TEXT, received
        return json.loads(received[1])

    def close_code(self) -> int | None:
        """Read to the end; the code of the close frame, or None when there was none."""
        code = None
        while (received := self.frame()) is not None:
            opcode, payload = received
            if opcode == CLOSE:
                code = int.from_bytes(payload[:2]) if payload else 1005
        return code


@contextmanager
def connected(address: tuple[str, int], *, receive_buffer: int | None = None) -> Iterator[WebSocket]:
    """A WebSocket at the port."""
    with dialled(address, receive_buffer=receive_buffer) as one:
        yield WebSocket(one)
