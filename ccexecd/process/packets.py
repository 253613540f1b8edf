"""The keeper's end of its socket to the daemon: one message per packet, with descriptors.

Owns receiving and sending; the daemon's end is `keeper_link`'s. Standard library only. Must not know any message.
"""

import array
import contextlib
import json
import os
import socket
from collections.abc import Iterator
from typing import Any

MAX_PACKET = 128 * 1024
"""Bytes of a message in a packet: well under the kernel's default send buffer (212,992). Larger ones use a memfd."""

_MAX_FDS = 8

Message = dict[str, Any]

_encode = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode


class Packets:
    """One connected socket.

    Args:
        connected: the socket, which this object closes.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket: socket.socket | None = connected

    def fileno(self) -> int:
        """Return the descriptor for epoll, valid until the other side has closed its end."""
        return self._socket.fileno() if self._socket is not None else -1

    @contextlib.contextmanager
    def received(self) -> Iterator[tuple[Message | None, list[int]]]:
        """Receive the next message (None at the end) and the descriptors that came with it.

        Descriptors that are still in the list when the context is left are closed.
        """
        packet, fds = self._receive()
        try:
            yield (self._read(packet, fds) if packet else None), fds
        finally:
            for fd in fds:
                os.close(fd)

    def send(self, message: Message) -> None:
        """Send a message. If the other side has gone, nothing is raised here: the next `received` gives None."""
        if self._socket is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._socket.send(_encode(message).encode())

    def close(self) -> None:
        """Close the socket, once the other side has gone."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _receive(self) -> tuple[bytes, list[int]]:
        fds = array.array("i")
        if self._socket is None:
            return b"", []
        try:
            packet, ancillary, _, _ = self._socket.recvmsg(
                MAX_PACKET + 4096, socket.CMSG_SPACE(_MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return b"", []
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        return packet, list(fds)

    @staticmethod
    def _read(packet: bytes, fds: list[int]) -> Message:
        message: Message = json.loads(packet)
        if "memfd" in message:
            large = fds.pop()
            try:
                message = json.loads(os.pread(large, message["memfd"], 0))
            finally:
                os.close(large)
        return message
