"""From messages to the bytes of a connection and back, for both doors of the daemon.

Owns the two framings, without I/O: what arrived goes in, messages and what has to be answered come out. Must not know
what a message says.
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
"""The manner of speaking that the daemon is asked for (docs/protocol.md)."""

REASON_LIMIT = 500
"""Characters that are shown of what a server says with a refused handshake."""


class CutError(Exception):
    """The connection is over, and nobody meant it to be: another one may go on with what it was used for."""


class Arrived(NamedTuple):
    """What a piece of input comes to.

    Attributes:
        messages: whole ones, in order.
        replies: bytes that have to be sent now.
        ending: why the connection is over once the messages have been read; None while it is open.
    """

    messages: list[bytes]
    replies: bytes = b""
    ending: "CutError | CtlError | None" = None


class Framing(Protocol):
    """One connection's way of telling where a message ends.

    Attributes:
        says_goodbye: an end by intent is told, and answered; else every end is one.
    """

    says_goodbye: bool

    def frame(self, message: bytes) -> bytes:
        """Return the bytes that carry one message."""

    def feed(self, received: bytes) -> Arrived:
        """Take what arrived. Raises CutError, or CtlError where another connection would fare no better."""

    def probe(self) -> bytes:
        """Return bytes that a living peer answers."""

    def farewell(self) -> bytes:
        """Return bytes that say that the connection ends by intent."""


class Lines:
    """One message a line: the control socket."""

    says_goodbye = False

    def __init__(self) -> None:
        self._buffer = LineBuffer(LINE_LIMIT)

    def frame(self, message: bytes) -> bytes:
        """Return the bytes that carry one message."""
        return message + b"\n"

    def feed(self, received: bytes) -> Arrived:
        """Take what arrived.

        Raises:
            UnreachableError: this is not the daemon's control socket.
        """
        try:
            return Arrived(self._buffer.feed(received))
        except LineTooLongError as error:
            raise UnreachableError(f"cannot understand the daemon: {error}", "is that socket ccexecd's?") from error

    def probe(self) -> bytes:
        """Nothing: the kernel tells at once when the other end of a Unix socket goes."""
        return b""

    def farewell(self) -> bytes:
        """Nothing: on a Unix socket every end is meant."""
        return b""


class WebSocket:
    """One message a text frame, after a handshake over HTTP.

    Args:
        host: for the Host header, with its port.
        target: path and query.
        token: bearer token; empty for none.

    Attributes:
        is_open: the handshake has been accepted.
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
        """Return the bytes that ask for the connection."""
        return self._protocol.send(self._request)

    def frame(self, message: bytes) -> bytes:
        """Return the bytes that carry one message."""
        return self._protocol.send(TextMessage(message.decode()))

    def feed(self, received: bytes) -> Arrived:
        """Take what arrived. Where messages came before the end, `ending` has what is raised else.

        Raises:
            CutError: the peer has closed, or what it sent is no WebSocket's.
            NotPermittedError: it does not let us in, or no longer.
            UnreachableError: it does not speak WebSocket there.
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
            case Ping() if self._protocol.state is ConnectionState.OPEN:  # after a close frame there is no other
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
        """Return a ping; nothing, once either side has closed."""
        return self._protocol.send(Ping()) if self._protocol.state is ConnectionState.OPEN else b""

    def farewell(self) -> bytes:
        """Return a close frame; nothing, once the other side has closed."""
        try:
            return self._protocol.send(CloseConnection(CloseCode.NORMAL)) if self.is_open else b""
        except ProtocolError:
            return b""
