"""A WebSocket: trio-websocket reads, and every byte is written by our own writer.

Owns the seam to trio-websocket, and is the only module that imports it. The library gets a stream of our own. It reads
the head that `upgrade` synthesised (a client's own could crash it) and, after it has accepted, what the client sends.
What it writes (101, pongs, close frames) goes into the connection's writer like everything else, so frames cannot mix.
Our messages are framed here, without it: two to ten bytes of header (RFC 6455 section 5.2). If its reader task dies of
what a client sends, that ends this WebSocket and nothing else. When a client breaks the protocol, the library just
ends; the close frame that says why is sent from here. Must not know what is in the messages.
"""

import logging
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from ccexecd.core.sessions import Parting
from ccexecd.external.upgrade import Upgrade, synthesise_head
from ccexecd.fairness import RequestArrival
from ccexecd.protocol.errors import CloseCode
from ccexecd.service.writer import Writer

log = logging.getLogger(__name__)

_RECEIVE_BUFFER = 64 * 1024
"""Bytes of one read: with its own 4 KiB, the library parses a large message at a third of the speed."""

_MANY_FRAMES = 32
_SHORT_READ = 8192
"""Bytes of the next read after one with more than `_MANY_FRAMES` frames: all frames of a read are parsed in one step of
the event loop, at some microseconds each."""

_MESSAGES_WAITING = 16
"""Messages that the library may hold before it stops reading; the connection takes them one by one."""

_MESSAGE_OVERHEAD = 1024 * 1024
"""Bytes of frame headers that one message may have: without a bound, empty frames could go on for ever."""

_CLOSE_PATIENCE = 5.0
"""Seconds for the client's half of a close handshake; after that the connection is just closed."""

_DELIBERATE = frozenset({1000, 1001, 1005})
"""Close codes that a client sends on purpose: normal, going away, and a close frame without a code."""

_VIOLATIONS = frozenset({1002, 1007})
"""Close codes with which the library ends when a client breaks the protocol, or sends text that is not UTF-8."""

_CLOSE = 0x88
"""First byte of a close frame."""


def text_frame(payload: bytes) -> bytes:
    """One unfragmented, unmasked text frame."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x81, size) + payload
    if size < 65536:
        return struct.pack("!BBH", 0x81, 126, size) + payload
    return struct.pack("!BBQ", 0x81, 127, size) + payload


def _close_frame(code: int, reason: str) -> bytes:
    """One close frame; a control frame holds 125 bytes at most."""
    payload = struct.pack("!H", code) + reason.encode()[:123].decode(errors="ignore").encode()
    return bytes((_CLOSE, len(payload))) + payload


class _Headers:
    """Watches the frame headers (RFC 6455 section 5.2) of what is read, to refuse messages that are too long.

    The library counts characters, and only after they have arrived; this counts bytes, as soon as a header announces
    them. It never looks at the payload.

    Args:
        most: bytes of the longest message allowed.

    Attributes:
        size: bytes of frame headers that the current message has had so far.
        frames: how many frames began in the last read.
        verdict: why the current message is refused; empty while it is not.
    """

    def __init__(self, most: int) -> None:
        self.size = 0
        self.frames = 0
        self.verdict = ""
        self._most = most
        self._payload = 0  # bytes that the frames of the current message have announced
        self._begun = b""  # the first part of a header that has not arrived whole
        self._passing = 0  # bytes of payload until the next header

    def pass_by(self, received: bytes) -> int | None:
        """Look at the bytes of a read.

        Returns:
            The position in them behind the header that makes the message too long; None if none does.
        """
        begun = len(self._begun)
        received, self._begun = self._begun + received, b""
        position = self._passing
        self.frames = 0
        while position < len(received):
            rest = received[position : position + 14]
            extended = {126: 2, 127: 8}.get(rest[1] & 0x7F, 0) if len(rest) > 1 else 0
            header = 2 + extended + (4 if len(rest) > 1 and rest[1] & 0x80 else 0)
            if len(rest) < header:
                self._begun = rest
                position = len(received)
                break
            length = int.from_bytes(rest[2 : 2 + extended]) if extended else rest[1] & 0x7F
            if not rest[0] & 0x08 and self._is_too_much(header, length, final=bool(rest[0] & 0x80)):
                return position + header - begun
            position += header + length
            self.frames += 1
        self._passing = position - len(received)
        return None

    def _is_too_much(self, header: int, length: int, *, final: bool) -> bool:
        """Count one frame of a message. Returns whether the message is too long, or has too many frames."""
        self.size += header
        self._payload += length
        if self._payload > self._most:
            self.verdict = f"the message is longer than {self._most} bytes"
        elif final:
            self.size = self._payload = 0
        elif self.size > _MESSAGE_OVERHEAD:
            self.verdict = "the message has too many frames"
        return bool(self.verdict)


class _Seam(trio.abc.Stream):
    """The stream that trio-websocket takes for its connection.

    Args:
        stream: the real connection, which is only read here.
        head: the synthesised head, which is read first.
        early: bytes that the client sent right behind its own head.
        writer: the connection's writer.
        most: bytes of the longest message allowed.

    Attributes:
        said_goodbye: whether a close frame has been sent.
        reads: how many reads there were.
        arrival: begins with each read, and ends when the library asks for the next one.
        verdict: close code and reason if nothing more is read because of a message; else None.
    """

    def __init__(self, stream: trio.abc.Stream, head: bytes, early: bytes, writer: Writer, most: int) -> None:
        self.said_goodbye = False
        self.reads = 0
        self.verdict: tuple[int, str] | None = None
        self._stream = stream
        self._head = head
        self._early = early
        self._writer = writer
        self._headers = _Headers(most)
        self._accepted = trio.Event()
        self.arrival = RequestArrival()

    def open_gate(self) -> None:
        """Allow frames to be read, after the handshake was answered: wsproto drops what it is given before."""
        self._accepted.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self.arrival.ends()
        if self._head:
            head, self._head = self._head, b""
            return head
        await self._accepted.wait()
        if self._headers.verdict:
            self.verdict = (CloseCode.TOO_BIG, self._headers.verdict)
            raise trio.BrokenResourceError(self.verdict[1])
        if self._early:
            received, self._early = self._early, b""
        else:
            size = _SHORT_READ if self._headers.frames > _MANY_FRAMES else max_bytes
            received = bytes(await self._stream.receive_some(size))
        self.reads += 1
        self.arrival.begins()
        return received[: self._headers.pass_by(received)]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.said_goodbye |= data[0] == _CLOSE
        self._writer.send(bytes(data))
        await self._writer.room()

    async def wait_send_all_might_not_block(self) -> None:
        await self._writer.room()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()  # the door closes the stream, after what is written has gone


class _Guard:
    """Stands for the nursery in which `wrap_server_stream` starts its reader, so that its failure ends nothing else.

    Args:
        nursery: the nursery in which the reader really runs.
        at_end: called when the reader has ended.

    Attributes:
        over: set when the reader has ended.
    """

    def __init__(self, nursery: trio.Nursery, at_end: Callable[[], None]) -> None:
        self._nursery = nursery
        self._at_end = at_end
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
            self._at_end()
            self.over.set()


class WebSocket:
    """One accepted WebSocket.

    Args:
        connection: trio-websocket's connection.
        seam: the stream that it reads from.
        writer: the connection's writer.
        reader_over: set when nothing more will be read.

    Attributes:
        is_one_of_many: whether the last message came in the same read as the one before it.
    """

    def __init__(self, connection: WebSocketConnection, seam: _Seam, writer: Writer, reader_over: trio.Event) -> None:
        self._connection = connection
        self._seam = seam
        self._writer = writer
        self._reader_over = reader_over
        self._reads = 0
        self.is_one_of_many = False

    @classmethod
    async def accept(cls, upgrade: Upgrade, writer: Writer, nursery: trio.Nursery, max_message: int) -> "WebSocket":
        """Answer the handshake.

        Args:
            upgrade: the handshake.
            writer: the connection's writer.
            nursery: runs the reader.
            max_message: bytes of the longest message allowed.
        """
        head = synthesise_head(upgrade.request.path, upgrade.key, upgrade.subprotocol)
        seam = _Seam(upgrade.stream, head, upgrade.early, writer, max_message)
        guard = _Guard(nursery, seam.arrival.ends)
        request = await wrap_server_stream(
            guard,  # type: ignore[arg-type]  # the one method of a nursery that is used
            seam,
            message_queue_size=_MESSAGES_WAITING,
            max_message_size=max_message,
            receive_buffer_size=_RECEIVE_BUFFER,
        )
        connection = await request.accept(subprotocol=upgrade.subprotocol)
        seam.open_gate()
        return cls(connection, seam, writer, guard.over)

    async def receive(self) -> str | bytes | None:
        """The next message, text or binary; None when the WebSocket has been closed."""
        try:
            message = await self._connection.get_message()
        except ConnectionClosed:
            return None
        self.is_one_of_many, self._reads = self._reads == self._seam.reads, self._seam.reads
        return message

    async def ping(self) -> bool:
        """Send a ping and wait for its pong. Returns False if the WebSocket has been closed meanwhile."""
        try:
            await self._connection.ping()
        except ConnectionClosed:
            return False
        return True

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame, and wait for the client's, for `_CLOSE_PATIENCE` seconds at most."""
        with trio.move_on_after(_CLOSE_PATIENCE, shield=True) as patience:
            async with trio.open_nursery() as nursery:

                async def stop_waiting() -> None:
                    await self._reader_over.wait()
                    patience.cancel(reason="the reader is gone: nobody would see the client's close")

                nursery.start_soon(stop_waiting)
                await self._connection.aclose(code, reason)
                nursery.cancel_scope.cancel(reason="closed")

    def complain(self) -> None:
        """If the client has broken the protocol, send the close frame that says how."""
        closed, verdict = self._connection.closed, self._seam.verdict
        if closed is not None and closed.code in _VIOLATIONS:  # if there are both, this one was found first
            verdict = (closed.code, closed.reason or "")
        if verdict is not None and not self._seam.said_goodbye:
            self._seam.said_goodbye = True
            self._writer.send(_close_frame(*verdict))

    @property
    def parting(self) -> Parting:
        """How the client left, once `receive` has returned None."""
        closed = self._connection.closed
        return Parting.CLOSED if closed is not None and closed.code in _DELIBERATE else Parting.CUT
