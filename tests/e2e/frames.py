"""WebSocket frames by hand (RFC 6455 section 5.2): for clients that no library would let misbehave."""

import base64
import json
import os
import socket
import struct
from typing import Any, Self

import trio

from .client import PATIENCE

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def frame(
    payload: bytes = b"",
    opcode: int = TEXT,
    *,
    final: bool = True,
    reserved: int = 0,
    masked: bool = True,
    announced: int | None = None,
) -> bytes:
    """One frame as a client sends it, or as none should.

    Args:
        payload: what is in it.
        opcode: its kind.
        final: whether it is the last of its message.
        reserved: the three bits that nobody has given a meaning (0 to 7).
        masked: a client must.
        announced: the length in its header, where that is not the payload's.
    """
    length = len(payload) if announced is None else announced
    head = bytes([final << 7 | reserved << 4 | opcode])
    if length < 126:
        head += bytes([masked << 7 | length])
    elif length < 1 << 16:
        head += struct.pack("!BH", masked << 7 | 126, length)
    else:
        head += struct.pack("!BQ", masked << 7 | 127, length)
    if not masked:
        return head + payload
    return head + bytes(4) + payload  # a mask of zeros changes nothing


def call(method: str, number: int = 1, **params: Any) -> bytes:
    """A frame with a request."""
    return frame(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode())


class RawSocket:
    """A WebSocket, open, of which every byte is ours to choose."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = b""

    @classmethod
    async def open(cls, address: tuple[str, int], *, receive_buffer: int | None = None) -> Self:
        """Shake hands.

        Args:
            address: of the daemon.
            receive_buffer: bytes that the kernel takes in for a client that does not read.
        """
        plain = trio.socket.socket()
        if receive_buffer is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await plain.connect(address)
        opened = cls(trio.SocketStream(plain))
        key = base64.b64encode(os.urandom(16)).decode()
        await opened.stream.send_all(
            f"GET /ws/mcp HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Protocol: ccexec.v1\r\n\r\n".encode()
        )
        with trio.fail_after(PATIENCE):
            while b"\r\n\r\n" not in opened._received:
                opened._received += await opened._more()
        head, opened._received = opened._received.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        return opened

    async def send(self, *frames: bytes) -> None:
        """Send bytes."""
        with trio.fail_after(PATIENCE):
            await self.stream.send_all(b"".join(frames))

    async def receive(self) -> tuple[int, bytes] | None:
        """The next frame's opcode and payload; None when there will be none."""
        with trio.fail_after(PATIENCE):
            while (parsed := self._parse()) is None:
                try:
                    received = await self._more()
                except trio.BrokenResourceError:
                    return None
                if not received:
                    return None
                self._received += received
        return parsed

    async def close_code(self) -> int | None:
        """Read to the end; the code of the close frame, or None when there was none."""
        code = None
        while (received := await self.receive()) is not None:
            opcode, payload = received
            if opcode == CLOSE:
                code = struct.unpack("!H", payload[:2])[0] if payload else 1005
        return code

    async def reset(self) -> None:
        """Vanish."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(self.stream)

    async def _more(self) -> bytes:
        return bytes(await self.stream.receive_some(65536))

    def _parse(self) -> tuple[int, bytes] | None:
        """Take a frame off what has been received; a server's is neither masked nor, here, in fragments."""
        buffer = self._received
        if len(buffer) < 2:
            return None
        length, start = buffer[1], 2
        if length >= 126:
            kind, start = ("!H", 4) if length == 126 else ("!Q", 10)
            if len(buffer) < start:
                return None
            (length,) = struct.unpack(kind, buffer[2:start])
        if len(buffer) < start + length:
            return None
        self._received = buffer[start + length :]
        return buffer[0] & 0xF, buffer[start : start + length]
