"""HTTP heads, bodies and answers: no bytes get past the barrier, and how they were cut on their way changes nothing."""

import json
import re

import attrs
import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from ccexecd.core.principals import Scope
from ccexecd.external.auth import Policy
from ccexecd.external.http import serve_connection
from ccexecd.external.request import Request, Response, Route
from ccexecd.external.site import Limits, Site
from ccexecd.external.tokens import Tokens
from ccexecd.external.upgrade import Upgrade
from ccexecd.external.wire import Wire
from tests.fuzz.cases import Sender, cases, cut, kept

TOKEN = "correct-horse-battery-staple_0123456789"
HOST = b"Host: localhost\r\n"
TOKEN_LINE = b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
HANDSHAKE = (
    b"GET /ws/mcp HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + TOKEN_LINE + b"\r\n"
)
POST = b"POST /echo HTTP/1.1\r\n" + HOST
GET = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
WHO = b"GET /whoami HTTP/1.1\r\n" + HOST + TOKEN_LINE + b"\r\n"

LINES = (
    HOST,
    TOKEN_LINE,
    *(b"Host: evil.example\r\n", b"Host:\r\n", b"Origin: null\r\n", b"Origin: http://localhost\r\n"),
    *(b"Content-Length: 3\r\n", b"Content-Length: 3, 3\r\n", b"Content-Length: -1\r\n", b"Content-Length: 99999\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: xchunked\r\n", b"Transfer-Encoding:\tChunked\r\n"),
    *(b"Connection: close\r\n", b"Connection: keep-alive, Upgrade\r\n", b"Upgrade: websocket\r\n", b"Upgrade: h2c\r\n"),
    *(b"Sec-WebSocket-Version: 13\r\n", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"),
    *(b"Sec-WebSocket-Protocol: ccexec.v1, bearer.x\r\n", b"Expect: 100-continue\r\n", b"X: \xff\r\n", b" folded\r\n"),
)
STARTS = st.builds(
    lambda *words: b"%s %s HTTP/%s\r\n" % words,
    st.sampled_from((b"GET", b"GET", b"POST", b"POST", b"HEAD", b"OPTIONS", b"BREW", b"get")),
    st.sampled_from(
        (b"/health", b"/whoami", b"/echo", b"/fail", b"/ws/mcp", b"/nope", b"*", b"http://localhost/echo?x")
    ),
    st.sampled_from((b"1.1", b"1.1", b"1.1", b"1.0", b"2.0")),
)
BODIES = st.sampled_from(
    (b"", b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n", b"ffffffff\r\nx")
)
SHAPED = st.builds(
    lambda start, host, lines, end, body: start + host + b"".join(lines) + end + body,
    STARTS,
    st.sampled_from((HOST, HOST, HOST, b"")),
    st.lists(st.sampled_from(LINES), max_size=4),
    st.sampled_from((b"\r\n", b"\r\n", b"\r\n", b"\n", b"")),
    BODIES,
)
GOOD = st.sampled_from((GET, WHO, HANDSHAKE, POST + b"Content-Length: 3\r\n\r\nabc"))
WORDS = st.sampled_from(
    (b" ", b"\t", b"\r\n", b"\n", b"\r", b":", b"\r\n\r\n", b"\0", b"\xff", b" " * 500, b"HTTP/1.1")
)


def damaged(data: bytes, damages: list[tuple[int, int, bytes]]) -> bytes:
    """Bytes in which a few have been replaced, lost or inserted."""
    changed = bytearray(data)
    for anywhere, lost, put in damages:
        place = anywhere % (len(changed) + 1)
        changed[place : place + lost] = put
    return bytes(changed)


DAMAGED = st.builds(
    damaged, GOOD, st.lists(st.tuples(st.integers(0, 300), st.integers(0, 4), st.binary(max_size=4)), max_size=4)
)
CONVERSATIONS = st.lists(SHAPED | DAMAGED | GOOD | WORDS | st.binary(max_size=12), min_size=1, max_size=4).map(b"".join)
CUTS = st.lists(st.integers(0, 2000), max_size=4)


async def answer(request: Request) -> Response:
    return Response.json({"name": request.principal and request.principal.name})


async def echo(request: Request) -> Response:
    return Response(200, "application/octet-stream", await request.body())


async def take_over(upgrade: Upgrade) -> None:
    """Stand in for the WebSocket: say that it has begun."""
    await upgrade.stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")


def site() -> Site:
    routes = {
        "/health": Route(("GET",), answer, public=True),
        "/whoami": Route(("GET",), answer, scope=Scope.OBSERVE),
        "/echo": Route(("POST",), echo, public=True),
    }
    return Site(Policy(Tokens(TOKEN)), take_over, routes, limits=Limits(body_bytes=1000))


def told(data: bytes, cuts: list[int], *, stalls: bool) -> bytes:
    """What is answered to these bytes, dates left out; nothing may have crashed or stayed."""
    served, sender = site(), Sender(cut(data, cuts), stalls=stalls)
    trio.run(serve_connection, sender, served, clock=MockClock(autojump_threshold=0))
    assert (served.counters.crashed, served.counters.open) == (0, 0)
    return re.sub(rb"(?m)^Date: .*\r\n", b"", bytes(sender.received))


def responses(received: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Every answer in what was received; a byte that belongs to none is a failure."""
    found = []
    while received:
        head, blank, received = received.partition(b"\r\n\r\n")
        assert blank, head
        start, *lines = head.decode("ascii").split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines)
        version, status, _ = start.split(" ", 2)
        assert version == "HTTP/1.1"
        length = int(fields.get("Content-Length", "0"))
        if received.startswith(b"HTTP/1.1 ") or not received:  # the answer to a HEAD, or an interim one
            length = 0
        assert len(received) >= length
        found.append((int(status), fields, received[:length]))
        received = received[length:]
    return found


def check(data: bytes, cuts: list[int], *, stalls: bool) -> None:
    """What must hold of the answers to any bytes at all."""
    received = told(data, [], stalls=stalls)
    answers = responses(received)
    for number, (status, fields, body) in enumerate(answers, 1):
        if status >= 400:
            assert number == len(answers), "a refusal is the last word"
            assert fields["Connection"] == "close"
            reason = json.loads(body)["error"] if body else ""
            assert not body or len(reason) > 10
            assert TOKEN not in reason or "allowed_hosts" in reason, "nothing is repeated but the name of a host"
    assert [meant(each) for each in responses(told(data, cuts, stalls=stalls))] == [meant(each) for each in answers]


def meant(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, bytes]:
    """What must not depend on how a request was cut: all but the words of a refusal, which name what was met first."""
    status, _, body = answer
    return (status, body if status < 400 else b"")


@kept("heads")
@pytest.mark.parametrize("stalls", [False, True], ids=["closes", "stalls"])
def test_what_has_ever_been_found(data, stalls):
    """The corpus, whole, halved, and byte by byte."""
    check(data, [len(data) // 2], stalls=stalls)
    if len(data) < 1000:
        check(data, list(range(len(data))), stalls=stalls)


@cases("heads", share=60)
@given(data=CONVERSATIONS, cuts=CUTS, stalls=st.booleans())
def test_no_bytes_get_past_the_barrier(data, cuts, stalls):
    """Whatever is sent, in whatever pieces: answers in HTTP, each refusal with its reason and the last word."""
    check(data, cuts, stalls=stalls)


TOKENS = st.text("abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=12)
VALUES = st.text([chr(code) for code in (*range(0x21, 0x7F), *range(0xA1, 0x100), 0x20, 0x09)], max_size=20).map(
    str.strip
)
RESERVED = {"host", "content-length", "transfer-encoding", "connection", "upgrade", "expect"}
FIELDS = st.lists(st.tuples(TOKENS.filter(lambda name: name not in RESERVED), VALUES), max_size=6)
TARGETS = st.text([chr(code) for code in range(0x21, 0x7F)], max_size=20).map(lambda rest: "/" + rest)


async def read(sender: Sender) -> Request | None:
    return await Wire(sender, "peer", Limits()).read_request(fresh=True)


@cases("heads", share=25)
@given(
    method=st.sampled_from(("GET", "POST", "HEAD", "OPTIONS", "DELETE")),
    target=TARGETS,
    fields=FIELDS,
    newline=st.sampled_from((b"\r\n", b"\n")),
    cuts=CUTS,
)
def test_a_request_is_read_as_it_was_written(method, target, fields, newline, cuts):
    """Method, path, query and every field come out as they went in, in their order, wherever the bytes were cut."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in fields), "", ""]
    data = newline.join(line.encode("latin-1") for line in lines)
    request = trio.run(read, Sender(cut(data, cuts)))
    path, _, query = target.partition("?")
    expected: dict[str, list[str]] = {"host": ["localhost"]}
    for name, value in fields:
        expected.setdefault(name.lower(), []).append(value)
    assert request == Request(method, path, query, expected, "peer")


async def write(sender: Sender, response: Response) -> None:
    wire = Wire(sender, "peer", Limits())
    await wire.read_request(fresh=True)
    await wire.send(response, last=False)


@cases("heads", share=15)
@given(
    status=st.sampled_from((200, 400, 401, 403, 404, 413, 426, 429, 500, 503)),
    body=st.binary(max_size=200),
    fields=st.lists(st.tuples(TOKENS.map(lambda name: "z-" + name), VALUES.filter(str.isascii)), max_size=4),
)
def test_an_answer_is_read_as_it_was_written(status, body, fields):
    """A client's parser finds the status, the fields and the body that were meant."""
    sender = Sender(iter((GET,)))
    trio.run(write, sender, Response(status, "application/octet-stream", body, tuple(fields)))
    client = h11.Connection(h11.CLIENT)
    for event in (h11.Request(method="GET", target="/", headers=[("Host", "localhost")]), h11.EndOfMessage()):
        client.send(event)
    client.receive_data(bytes(sender.received))
    head, *rest, end = (client.next_event() for _ in range(3 if body else 2))
    assert (type(head), type(end)) == (h11.Response, h11.EndOfMessage)
    assert head.status_code == status
    found = [(name.decode(), value.decode()) for name, value in head.headers]
    assert [pair for pair in found if pair[0].startswith("z-")] == fields
    assert b"".join(event.data for event in rest if isinstance(event, h11.Data)) == body


def test_the_site_is_what_is_asked():
    """The stand-in site serves what the cases ask for: else nothing but refusals would be tested."""
    statuses = [status for status, *_ in responses(told(GET + WHO + POST + b"\r\n" + HANDSHAKE, [], stalls=False))]
    assert statuses == [200, 200, 200, 101]
    assert attrs.fields(Limits).head_bytes.default == 16384
