"""Frames of the API's connections, against a real server's half of WebSocket."""

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, Pong, RejectConnection, Request, TextMessage

from ccexecctl.api.backoff import Backoff
from ccexecctl.api.framing import CutError, Lines, WebSocket
from ccexecctl.errors import CtlError, NotPermittedError, UnreachableError


def opened() -> tuple[WebSocket, WSConnection]:
    """Both halves of a connection."""
    client, server = WebSocket("host:1", "/ws/mcp", "secret"), WSConnection(ConnectionType.SERVER)
    server.receive_data(client.handshake())
    (request,) = server.events()
    assert isinstance(request, Request)
    assert (b"authorization", b"Bearer secret") in request.extra_headers
    assert request.subprotocols == ["ccexec.v1"]
    client.feed(server.send(AcceptConnection(subprotocol="ccexec.v1")))
    assert client.is_open
    return client, server


def test_messages_come_in_any_pieces():
    """A message may be cut into frames, and frames into reads of one byte; a ping in between is answered."""
    client, server = opened()
    sent = server.send(TextMessage("one, ", message_finished=False)) + server.send(Ping(b"?"))
    sent += server.send(TextMessage("two é")) + server.send(TextMessage("three"))
    arrived = [client.feed(sent[at : at + 1]) for at in range(len(sent))]
    assert [message for each in arrived for message in each.messages] == ["one, two é".encode(), b"three"]
    server.receive_data(b"".join(each.replies for each in arrived) + client.frame(b"hello"))
    assert [type(event) for event in server.events()] == [Pong, TextMessage]


@pytest.mark.parametrize(
    ("code", "error"),
    [(1001, CutError), (1006 - 5, CutError), (4401, NotPermittedError), (4409, CtlError)],
)
def test_how_it_closes_says_whether_to_come_back(code, error):
    """A daemon that restarts is waited for; a token that has been revoked is not tried again."""
    client, server = opened()
    with pytest.raises(error):
        client.feed(server.send(CloseConnection(code)))


@pytest.mark.parametrize(
    ("status", "error"), [(401, NotPermittedError), (403, NotPermittedError), (503, CutError), (404, UnreachableError)]
)
def test_a_refused_handshake(status, error):
    """What the server says is told; where it may pass, it is tried again."""
    client, server = WebSocket("host:1", "/"), WSConnection(ConnectionType.SERVER)
    server.receive_data(client.handshake())
    list(server.events())
    with pytest.raises(error, match=str(status)):
        client.feed(server.send(RejectConnection(status_code=status)))


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
def test_who_speaks_something_else(said):
    """Another server is told as that."""
    client = WebSocket("host:1", "/")
    client.handshake()
    with pytest.raises(UnreachableError):
        client.feed(said)


def test_lines():
    """The control socket: a message a line."""
    lines = Lines()
    assert lines.feed(b'{"a"').messages == []
    assert lines.feed(b":1}\n{}\n").messages == [b'{"a":1}', b"{}"]
    assert lines.frame(b"{}") == b"{}\n"


def test_delays_grow_and_differ():
    """Each is between half and all of what it has grown to, and none beyond the longest."""
    delays = Backoff(first=1.0, longest=5.0).delays()
    for grown in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert grown / 2 <= next(delays) <= grown
    several = {next(Backoff().delays()) for _ in range(20)}
    assert len(several) > 1


def test_after_a_close_frame_nothing_is_said():
    """A ping that crosses it is not answered, and none is sent: WebSocket has no frame after that one."""
    client, server = opened()
    server.receive_data(client.farewell())
    arrived = client.feed(server.send(Ping(b"?")) + server.send(TextMessage("late")))
    assert arrived == ([b"late"], b"", None)
    assert client.probe() == client.farewell() == b""


def test_what_came_before_the_end_is_not_lost():
    """The last words and the close frame may come in one read: both are told."""
    client, server = opened()
    arrived = client.feed(server.send(TextMessage("last words")) + server.send(CloseConnection(1001)))
    assert arrived.messages == [b"last words"]
    assert isinstance(arrived.ending, CutError)
