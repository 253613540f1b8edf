"""From messages to the bytes of a connection and back, for both doors of the daemon.

Owns the two framings, without I/O: received bytes go in, messages and bytes that have to be sent come out. Must not
know what a message says.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from ccexecctl.client import LINE_LIMIT
from ccexecctl.errors import CtlError, NotPermittedError, UnreachableError
from ccexecd.protocol.errors import CloseCode
from ccexecd.protocol.framing import LineBuffer, LineTooLongError

SUBPROTOCOL = "ccexec.v1"
"""WebSocket subprotocol that the daemon is asked for (docs/protocol.md)."""

REASON_LIMIT = 500
"""Characters of the body of a refused handshake that the error shows."""


class CutError(Exception):
    """The connection has been lost or cannot be had now; a later one may go on where this one ended."""


class Arrived(NamedTuple):
    """What received bytes contain.

    Attributes:
        messages: the messages that are complete by now, in order.
        replies: bytes that have to be sent now, such as a pong.
        ending: why the connection is over after these messages; None while it is open.
    """

    messages: list[bytes]
    replies: bytes = b""
    ending: "CutError | CtlError | None" = None


class Framing(Protocol):
    """How messages are put into bytes on one connection.

    Attributes:
        says_goodbye: whether an intended end is announced by `farewell` and answered. If not, every end is intended.
    """

    says_goodbye: bool

    def frame(self, message: bytes) -> bytes:
        """Return the bytes that carry one message."""

    def feed(self, received: bytes) -> Arrived:
        """Take received bytes. Raises CutError, or CtlError if another connection would fail as well."""

    def probe(self) -> bytes:
        """Return bytes that a living daemon answers."""

    def farewell(self) -> bytes:
        """Return bytes which say that the connection ends on purpose."""


class Lines:
    """The framing of the control socket: each message is a line."""

    says_goodbye = False

    def __init__(self) -> None:
        self._buffer = LineBuffer(LINE_LIMIT)

    def frame(self, message: bytes) -> bytes:
        """Return the bytes that carry one message."""
        return message + b"\n"

    def feed(self, received: bytes) -> Arrived:
        """Take received bytes.

        Raises:
            UnreachableError: a line is too long, so this is not the daemon's control socket.
        """
        try:
            return Arrived(self._buffer.feed(received))
        except LineTooLongError as error:
            raise UnreachableError(f"cannot understand the daemon: {error}", "is that socket ccexecd's?") from error

    def probe(self) -> bytes:
        """Return nothing: the kernel tells at once when the other end of a Unix socket has gone."""
        return b""

    def farewell(self) -> bytes:
        """Return nothing: on a Unix socket, every end is intended."""
        return b""


class WebSocket:
    """The framing of a WebSocket: each message is a text message, after a handshake over HTTP.

    Args:
        host: value of the header Host, with the port.
        target: path and query of the URL.
        token: bearer token; empty for none.

    Attributes:
        is_open: whether the handshake has been accepted.
    """

    says_goodbye = True

    def __init__(self, host: str, target: str, token: str = "") -> None:
        self.is_open = False
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._request = Request(
            host=host,
            target=target,
            subprotocols=[SUBPROTOCOL],
            extra_headers=[(b"Authorization", f"Bearer {token}".encode())] if token else [],
        )
        self._parts: list[str] = []
        self._size = 0
        self._refusal: RejectConnection | None = None
        self._reason = b""

    def handshake(self) -> bytes:
        """Return the bytes of the handshake's request."""
        return self._protocol.send(self._request)

    def frame(self, message: bytes) -> bytes:
        """Return the bytes that carry one message."""
        return self._protocol.send(TextMessage(message.decode()))

    def feed(self, received: bytes) -> Arrived:
        """Take received bytes.

        If complete messages precede what ends the connection, the error is returned in `ending` rather than raised.

        Raises:
            CutError: the daemon has closed the connection, is too busy for one, or broke the rules of WebSocket.
            NotPermittedError: the daemon does not accept the token, or no longer does.
            UnreachableError: there is no WebSocket of a daemon at this address, or a message is too long.
            CtlError: another connection has taken over the session.
        """
        try:
            self._protocol.receive_data(received)
            events = list(self._protocol.events())
        except ProtocolError as error:
            if not self.is_open:
                raise UnreachableError(f"this is no WebSocket: {error}", "is that ccexecd's address?") from error
            raise CutError(f"the daemon broke the rules of WebSocket: {error}") from error
        messages: list[bytes] = []
        replies = b""
        for event in events:
            try:
                replies += self._heed(event, messages)
            except (CutError, CtlError) as error:
                if not messages:
                    raise
                return Arrived(messages, replies, error)
        return Arrived(messages, replies)

    def _heed(self, event: Event, messages: list[bytes]) -> bytes:
        match event:
            case TextMessage():
                messages.extend(self._completed(event))
            case Ping() if self._protocol.state is ConnectionState.OPEN:  # nothing may follow a close frame
                return self._protocol.send(event.response())
            case AcceptConnection():
                self.is_open = True
            case CloseConnection():
                self._closed(event)
            case RejectConnection():
                self._refusal = event
                if not event.has_body:
                    self._refused()
            case RejectData():
                self._reason += bytes(event.data)
                if event.body_finished:
                    self._refused()
            case BytesMessage():
                raise CutError("the daemon sent a binary message, which this protocol does not have")
        return b""

    def _completed(self, event: TextMessage) -> Iterator[bytes]:
        self._parts.append(event.data)
        self._size += len(event.data)
        if self._size > LINE_LIMIT:
            raise UnreachableError(f"a message of the daemon is longer than {LINE_LIMIT} characters")
        if event.message_finished:
            yield "".join(self._parts).encode()
            self._parts = []
            self._size = 0

    def _closed(self, event: CloseConnection) -> None:
        said = f" ({event.reason})" if event.reason else ""
        if event.code == CloseCode.NOT_AUTHORISED:
            raise NotPermittedError(f"the daemon no longer accepts the token{said}", "ask for a new one: token=...")
        if event.code == CloseCode.TAKEN_OVER:
            raise CtlError("another connection has taken this session over", "does somebody else have its token?")
        raise CutError(f"the daemon closed the connection with {event.code}{said}")

    def _refused(self) -> None:
        status = self._refusal.status_code if self._refusal else 0
        said = self._reason.decode(errors="replace").strip()[:REASON_LIMIT]
        message = f"the daemon refused the connection with {status}" + (f": {said}" if said else "")
        if status in (401, 403):
            raise NotPermittedError(message, "give a token: token=..., or CCEXEC_TOKEN; see: ccexecctl token show")
        if status in (429, 503):
            raise CutError(message)
        raise UnreachableError(message, "the daemon's WebSocket is at /ws/mcp: ws://127.0.0.1:8003/ws/mcp")

    def probe(self) -> bytes:
        """Return a ping; nothing after either side's close frame."""
        return self._protocol.send(Ping()) if self._protocol.state is ConnectionState.OPEN else b""

    def farewell(self) -> bytes:
        """Return a close frame; nothing before the handshake's end, or if none may be sent any more."""
        may_say_it = self._protocol.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING)
        return self._protocol.send(CloseConnection(CloseCode.NORMAL)) if may_say_it else b""
