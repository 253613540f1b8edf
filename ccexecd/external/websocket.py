"""A WebSocket whose handshake is decided and whose every byte is written by us; trio-websocket reads.

Owns the seam to trio-websocket, the only module that imports it. The library gets a stream of our own: it reads the
head that `upgrade` synthesised (a stranger's could crash it), then, once it has accepted, what arrived early and what
comes. What it writes (101, pongs, close frames) goes into the connection's writer like everything else, so no two
frames can mix. Messages are framed here, without it: two to ten bytes of header (RFC 6455 section 5.2). Its reader
task may die of what a client sends; that ends this WebSocket and nothing else.
"""

import logging
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from ccexecd.core.sessions import Parting
from ccexecd.external.upgrade import Upgrade, synthesise_head
from ccexecd.service.writer import Writer

log = logging.getLogger(__name__)

_RECEIVE_BUFFER = 64 * 1024
"""Bytes of one read: the library parses a large message a third as fast with its own 4 KiB."""

_MESSAGES_WAITING = 16
"""Messages that the library may hold before it stops reading; the connection takes them one by one."""

_MESSAGE_OVERHEAD = 1024 * 1024
"""Bytes that the frames of one message may add to it: without a bound, empty frames could go on for ever."""

_CLOSE_PATIENCE = 5.0
"""Seconds for the client's half of a close handshake; after that the connection is just closed."""

_DELIBERATE = frozenset({1000, 1001, 1005})
"""Close codes that a client sends on purpose: normal, going away, and a close frame without a code."""


def text_frame(payload: bytes) -> bytes:
    """One unfragmented, unmasked text frame."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x81, size) + payload
    if size < 65536:
        return struct.pack("!BBH", 0x81, 126, size) + payload
    return struct.pack("!BBQ", 0x81, 127, size) + payload


class _Seam(trio.abc.Stream):
    """What trio-websocket takes for its connection."""

    def __init__(self, stream: trio.abc.Stream, head: bytes, early: bytes, writer: Writer, most: int) -> None:
        self._stream = stream
        self._head = head
        self._early = early
        self._writer = writer
        self._most = most
        self._accepted = trio.Event()
        self.received = 0
        """Bytes since the last whole message."""

    def open_gate(self) -> None:
        """The handshake is answered: frames may be read now (wsproto drops what it is given before)."""
        self._accepted.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        await self._accepted.wait()
        if self._early:
            early, self._early = self._early, b""
            return early
        received = bytes(await self._stream.receive_some(max_bytes))
        self.received += len(received)
        if self.received > self._most:
            raise trio.BrokenResourceError(f"more than {self._most} bytes without a whole message")
        return received

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._writer.send(bytes(data))
        await self._writer.room()

    async def wait_send_all_might_not_block(self) -> None:
        await self._writer.room()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()  # the door closes the stream, after what is written has gone


class _Guard:
    """All that `wrap_server_stream` does with a nursery is to start its reader; here it cannot take us along."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.over = trio.Event()

    def start_soon(self, function: Callable[..., Awaitable[Any]], *args: object) -> None:
        self._nursery.start_soon(self._run, function, args)

    async def _run(self, function: Callable[..., Awaitable[Any]], args: tuple[object, ...]) -> None:
        try:
            await function(*args)
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except Exception as error:  # noqa: BLE001  # a connection's barrier: a ping after our close
            log.debug("the reader of a WebSocket gave up: %r", error)
        finally:
            self.over.set()


class WebSocket:
    """One accepted WebSocket.

    Args:
        connection: trio-websocket's side of it.
        seam: the stream under that.
        reader_over: set when nothing more will be read.
    """

    def __init__(self, connection: WebSocketConnection, seam: _Seam, reader_over: trio.Event) -> None:
        self._connection = connection
        self._seam = seam
        self._reader_over = reader_over

    @classmethod
    async def accept(cls, upgrade: Upgrade, writer: Writer, nursery: trio.Nursery, max_message: int) -> "WebSocket":
        """Answer the handshake.

        Args:
            upgrade: what asked for it.
            writer: the connection's.
            nursery: where the reader lives.
            max_message: bytes of the longest message.
        """
        head = synthesise_head(upgrade.request.path, upgrade.key, upgrade.subprotocol)
        seam = _Seam(upgrade.stream, head, upgrade.early, writer, max_message + _MESSAGE_OVERHEAD)
        guard = _Guard(nursery)
        request = await wrap_server_stream(
            guard,  # type: ignore[arg-type]  # the one method of a nursery that is used
            seam,
            message_queue_size=_MESSAGES_WAITING,
            max_message_size=max_message,
            receive_buffer_size=_RECEIVE_BUFFER,
        )
        connection = await request.accept(subprotocol=upgrade.subprotocol)
        seam.open_gate()
        return cls(connection, seam, guard.over)

    async def receive(self) -> str | bytes | None:
        """The next message; None when there will be none."""
        try:
            message = await self._connection.get_message()
        except ConnectionClosed:
            return None
        self._seam.received = 0
        return message

    async def ping(self) -> bool:
        """Ask for a sign of life. Returns False when the connection has been closed meanwhile."""
        try:
            await self._connection.ping()
        except ConnectionClosed:
            return False
        return True

    async def close(self, code: int, reason: str) -> None:
        """Close, and wait for the client's half of it, for a bounded time."""
        with trio.move_on_after(_CLOSE_PATIENCE, shield=True) as patience:
            async with trio.open_nursery() as nursery:

                async def stop_waiting() -> None:
                    await self._reader_over.wait()
                    patience.cancel(reason="the reader is gone: nobody would see the client's close")

                nursery.start_soon(stop_waiting)
                await self._connection.aclose(code, reason)
                nursery.cancel_scope.cancel(reason="closed")

    @property
    def parting(self) -> Parting:
        """How the client left, once `receive` has given None."""
        closed = self._connection.closed
        return Parting.CLOSED if closed is not None and closed.code in _DELIBERATE else Parting.CUT
