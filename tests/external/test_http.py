"""The door as strangers find it: real sockets, hostile bytes, and a good request after each of them."""

import json
import logging
import os
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import attrs
import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from ccexecd.core.principals import Principal, Scope
from ccexecd.external.auth import Policy
from ccexecd.external.http import serve_connection
from ccexecd.external.listener import Acceptor, open_listeners
from ccexecd.external.request import Request, Response, Route
from ccexecd.external.site import Limits, Site
from ccexecd.external.tokens import Tokens
from ccexecd.external.upgrade import Upgrade

TOKEN = "correct-horse-battery-staple_0123456789"
NOBODY = 65534
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
HANDSHAKE = (
    b"GET /ws/mcp HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n\r\n"
)
POST = b"POST /echo HTTP/1.1\r\nHost: localhost\r\n"
LIMITS = Limits(body_bytes=1000)
QUICK = attrs.evolve(LIMITS, head_timeout=0.3, idle_timeout=0.3, body_timeout=0.3)  # where a time-out is what is tested


async def health(_request: Request) -> Response:
    return Response.json({"status": "healthy"})


async def echo(request: Request) -> Response:
    return Response(200, "text/plain", await request.body())


async def whoami(request: Request) -> Response:
    assert request.principal is not None
    return Response.json({"name": request.principal.name})


async def fail(_request: Request) -> Response:
    raise RuntimeError("hunter2 is a detail of our inside")


async def take_over(upgrade: Upgrade) -> None:
    """Stand in for the WebSocket: show what was handed over, then echo what comes."""
    stream = upgrade.stream
    await stream.send_all(b"upgraded to %s, early %s;" % (str(upgrade.subprotocol).encode(), upgrade.early))
    while data := await stream.receive_some():
        await stream.send_all(data)


def make_site(limits: Limits = LIMITS, websocket: Callable[[Upgrade], Awaitable[None]] = take_over) -> Site:
    routes = {
        "/health": Route(("GET",), health, public=True),
        "/whoami": Route(("GET",), whoami),
        "/echo": Route(("POST",), echo),
        "/fail": Route(("GET",), fail),
    }
    return Site(Policy(Tokens(TOKEN)), websocket, routes, limits=limits)


@attrs.frozen
class Door:
    """A site that is served on a port of loopback."""

    site: Site
    port: int

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def exchange(self, data: bytes, *, then_close: bool = False) -> bytes:
        """Send bytes and receive until the server has closed; a reset raises."""
        async with await self.connect() as client:
            await send(client, data)
            if then_close:
                await client.send_eof()
            return await receive_all(client)

    async def still_serves(self) -> None:
        """See that a good request gets its answer."""
        answer = await self.exchange(HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert answer.endswith(b'{"status":"healthy"}\n')
        assert self.site.counters.crashed == 0


async def send(client: trio.SocketStream, data: bytes) -> None:
    """Send as much as the server wants: it may have refused and closed before the end."""
    with suppress(trio.BrokenResourceError):
        await client.send_all(data)


async def receive_all(client: trio.SocketStream) -> bytes:
    received = bytearray()
    with trio.fail_after(10):
        while data := await client.receive_some():
            received += data
    return bytes(received)


@asynccontextmanager
async def opened(site: Site | None = None) -> AsyncIterator[Door]:
    """Serve a site until the block ends."""
    site = site or make_site()
    acceptor = Acceptor(await open_listeners("127.0.0.1", 0), partial(serve_connection, site=site))
    async with trio.open_nursery() as connections:
        await connections.start(acceptor.run, connections)
        yield Door(site, acceptor.listeners[0].socket.getsockname()[1])
        connections.cancel_scope.cancel()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def get(target: bytes = b"/health", *lines: bytes, version: bytes = b"1.1", host: bytes | None = b"localhost") -> bytes:
    hosts = [] if host is None else [b"Host: " + host]
    return b"\r\n".join([b"GET %s HTTP/%s" % (target, version), *hosts, *lines, b"", b""])


def upgrade(*lines: bytes, without: bytes = b"\0") -> bytes:
    """Return the handshake with further lines, without those that begin with some bytes."""
    kept = [line for line in HANDSHAKE.split(b"\r\n")[:-2] if not line.startswith(without)]
    return b"\r\n".join([*kept, *lines, b"", b""])


TLS_HELLO = bytes.fromhex("160301020001 0001fc0303".replace(" ", "")) + bytes(range(256)) * 2
TOKEN_LINE = b"Authorization: Bearer " + TOKEN.encode()

# What is sent, and the status that answers it. Nothing here ends in a reset, and every refusal explains itself.
HOSTILE: dict[str, tuple[bytes, int]] = {
    # not HTTP at all
    "tls": (TLS_HELLO, 400),
    "tls-cut": (b"\x16\x03\x01", 400),
    "ssh": (b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n", 400),
    "redis": (b"*1\r\n$4\r\nPING\r\n\r\n", 400),
    "smtp": (b"EHLO localhost\r\n\r\n", 400),
    "json": (b'{"jsonrpc":"2.0","method":"execute","id":1}\n\n', 400),
    "nul-bytes": (b"\0" * 1000, 400),
    "random-high-bytes": (bytes(range(128, 256)) * 50 + b"\r\n\r\n", 400),
    "only-newlines": (b"\r\n\r\n\r\n\r\n", 400),
    "one-newline": (b"\n", 400),
    "spaces": (b" " * 100 + b"\r\n\r\n", 400),
    "websocket-frame": (b"\x81\x85\x00\x00\x00\x00hello\r\n\r\n", 400),
    "endless-line": (b"A" * 100_000, 431),
    "http2-preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "http09": (b"GET /health\r\n\r\n", 400),
    # request lines
    "method-only": (b"GET\r\n\r\n", 400),
    "two-spaces": (b"GET  /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "lower-case-method": (b"get /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 501),
    "unknown-method": (b"BREW /pot HTTP/1.1\r\nHost: localhost\r\n\r\n", 501),
    "long-method": (b"A" * 5000 + b" / HTTP/1.1\r\nHost: localhost\r\n\r\n", 501),
    "method-with-nul": (b"G\0T /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "connect": (b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "trace": (b"TRACE /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    "options-star": (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "delete-health": (b"DELETE /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    "post-health": (b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 405),
    "version-9": (get(version=b"9.9"), 505),
    "version-letters": (b"GET /health HTTP/x.y\r\nHost: localhost\r\n\r\n", 400),
    "version-long": (b"GET /health HTTP/1.11\r\nHost: localhost\r\n\r\n", 400),
    # targets
    "unknown-path": (get(b"/nope"), 404),
    "traversal": (get(b"/../../../../etc/passwd"), 404),
    "encoded-traversal": (get(b"/%2e%2e/%2e%2e/etc/passwd"), 404),
    "encoded-nul": (get(b"/health%00"), 404),
    "raw-nul-in-target": (get(b"/hea\0lth"), 400),
    "high-byte-in-target": (get(b"/h\xc3\xa9alth"), 400),
    "long-path": (get(b"/" + b"a" * 5000), 404),
    "too-long-path": (get(b"/" + b"a" * 50_000), 431),
    "absolute-foreign": (get(b"http://evil.example/health"), 403),
    "absolute-https": (get(b"https://localhost/health"), 400),
    "absolute-file": (get(b"file:///etc/passwd"), 400),
    "no-slash": (get(b"health"), 400),
    "double-slash": (get(b"//localhost/health"), 404),
    "format-string": (get(b"/%s%n%d{0.__class__}"), 404),
    # headers
    "no-host": (get(host=None), 400),
    "no-host-http10": (get(version=b"1.0", host=None), 400),
    "two-hosts": (get(b"/health", b"Host: localhost"), 400),
    "foreign-host": (get(host=b"evil.example"), 403),
    "high-byte-host": (get(host=b"xn--\xff.example"), 403),
    "empty-host": (get(host=b""), 403),
    "long-host": (get(host=b"a" * 3000), 403),
    "host-with-user": (get(host=b"localhost@evil.example"), 403),
    "origin": (get(b"/health", b"Origin: http://localhost"), 403),
    "null-origin": (get(b"/health", b"Origin: null"), 403),
    "high-byte-origin": (get(b"/health", b"Origin: \xff"), 403),
    "blank-in-name": (get(b"/health", b"X Y: z"), 400),
    "blank-before-colon": (get(b"/health", b"X : z"), 400),
    "no-colon": (get(b"/health", b"nonsense"), 400),
    "empty-name": (get(b"/health", b": z"), 400),
    "high-byte-name": (get(b"/health", b"\xff: z"), 400),
    "nul-in-value": (get(b"/health", b"X: a\0b"), 400),
    "bare-cr": (get(b"/health", b"X: a\rY: b"), 400),
    "fold-first": (b"GET /health HTTP/1.1\r\n Host: localhost\r\n\r\n", 400),
    "blanks-then-nul": (get(b"/health", b"X:" + b" " * 15_000 + b"\0"), 400),
    "blanks-then-formfeed": (get(b"/health", b"X:" + b"\t" * 15_000 + b"\x0c"), 400),
    "many-headers": (get(b"/health", *[b"X-%d: y" % n for n in range(5000)]), 431),
    "one-huge-header": (get(b"/health", b"X: " + b"a" * 200_000), 431),
    # bodies and their framing
    "get-with-body": (get(b"/health", b"Content-Length: 5") + b"hello", 400),
    "get-with-chunks": (get(b"/health", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "both-framings": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HEALTH, 400),
    "two-lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
    "negative-length": (POST + b"Content-Length: -5\r\n\r\nhello", 400),
    "plus-length": (POST + b"Content-Length: +5\r\n\r\nhello", 400),
    "hex-length": (POST + b"Content-Length: 0x5\r\n\r\nhello", 400),
    "huge-length": (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
    "long-length": (POST + b"Content-Length: 99999999999999999999\r\n\r\nhello", 413),
    "long-body": (POST + b"Content-Length: 200000\r\n\r\n" + b"x" * 200_000, 413),
    "long-chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n" + b"x" * 100_000, 413),
    "gzip-transfer": (POST + b"Transfer-Encoding: gzip\r\n\r\nhello", 501),
    "chunked-twice": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501),
    "chunks-over-http10": (POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "bad-chunk-length": (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    "negative-chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
    "huge-chunk-length": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n", 400),
    "bad-chunk-end": (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nheXX0\r\n\r\n", 400),
    "bad-trailer": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nno colon\r\n\r\n", 400),
    "unfinished-body": (POST + b"Content-Length: 5\r\n\r\nhel", 408),
    "unfinished-chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", 408),
    "expect-too-much": (POST + b"Content-Length: 5000\r\nExpect: 100-continue\r\n\r\n", 413),
    # heads that stop
    "half-a-head": (b"GET /health HTTP/1.1\r\nHo", 408),
    "no-blank-line": (b"GET /health HTTP/1.1\r\nHost: localhost\r\n", 408),
    "one-letter": (b"G", 408),
    # credentials
    "wrong-token": (get(b"/whoami", b"Authorization: Bearer wrong"), 401),
    "basic-auth": (get(b"/whoami", b"Authorization: Basic dXNlcjpwYXNz"), 401),
    "two-tokens": (get(b"/whoami", TOKEN_LINE, TOKEN_LINE), 400),
    "high-byte-token": (get(b"/whoami", b"Authorization: Bearer \xff\xfe"), 401),
    "token-and-origin": (get(b"/whoami", TOKEN_LINE, b"Origin: http://localhost"), 403),
    # WebSocket handshakes
    "plain-get-of-ws": (get(b"/ws/mcp"), 426),
    "ws-post": (upgrade().replace(b"GET", b"POST", 1), 405),
    "ws-head": (upgrade().replace(b"GET", b"HEAD", 1), 405),
    "ws-http10": (upgrade().replace(b"HTTP/1.1", b"HTTP/1.0"), 426),
    "ws-no-upgrade": (upgrade(without=b"Upgrade"), 426),
    "ws-no-connection": (upgrade(without=b"Connection"), 426),
    "ws-old-version": (upgrade(b"Sec-WebSocket-Version: 8", without=b"Sec-WebSocket-Version"), 426),
    "ws-no-key": (upgrade(without=b"Sec-WebSocket-Key"), 400),
    "ws-short-key": (upgrade(b"Sec-WebSocket-Key: AA==", without=b"Sec-WebSocket-Key"), 400),
    "ws-two-keys": (upgrade(b"Sec-WebSocket-Key: " + KEY), 400),
    "ws-high-byte-key": (upgrade(b"Sec-WebSocket-Key: \xff", without=b"Sec-WebSocket-Key"), 400),
    "ws-body": (upgrade(b"Content-Length: 5") + b"hello", 400),
    "ws-origin": (upgrade(b"Origin: https://evil.example"), 403),
    "ws-foreign-host": (upgrade(b"Host: evil.example", without=b"Host"), 403),
    "ws-wrong-token": (upgrade(b"Sec-WebSocket-Protocol: bearer.wrong"), 401),
    "ws-unknown-path": (upgrade().replace(b"/ws/mcp", b"/ws/other"), 404),
    "h2c-upgrade": (get(b"/nope", b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings"), 404),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_request_is_answered_and_harms_nobody(name: str):
    """Each gets the status that fits and a reason, a clean end, and the next client is served as ever."""
    sent, status = HOSTILE[name]
    async with opened(make_site(QUICK if status == 408 else LIMITS)) as door:
        answer = await door.exchange(sent)
        assert status_of(answer) == status, answer
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"Connection: close" in head
        if not sent.startswith(b"HEAD"):
            assert body.endswith(b"\n")
            assert len(json.loads(body)["error"]) > 10
        assert door.site.counters.refused == {status: 1}
        await door.still_serves()


@pytest.mark.parametrize("name", [name for name, (_, status) in HOSTILE.items() if status == 408])
async def test_a_request_that_breaks_off_is_answered_at_once(name: str):
    """A client that closes its side in the middle does not have to wait for the time-out."""
    async with opened(make_site(attrs.evolve(LIMITS, head_timeout=60, body_timeout=60))) as door:
        assert status_of(await door.exchange(HOSTILE[name][0], then_close=True)) == 400
        await door.still_serves()


ACCEPTED = {
    "plain": get(),
    "old-http": get(version=b"1.0"),
    "bare-newlines": get().replace(b"\r\n", b"\n"),
    "absolute": get(b"http://localhost/health"),
    "absolute-overrides-host": get(b"http://127.0.0.1:8003/health", host=b"evil.example"),
    "query": get(b"/health?token=x&y=%00"),
    "ipv6-host": get(host=b"[::1]:8003"),
    "folded": get(b"/health", b"X: a\r\n b"),
    "high-bytes": get(b"/health", b"X: \xff\xfe", b"Connection: \xff", b"Cookie: \x01\x7f"),
    "empty-value": get(b"/health", b"X:"),
    "zero-length": get(b"/health", b"Content-Length: 0"),
    "h2c": get(b"/health", b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABk"),
    "expect": get(b"/health", b"Expect: 100-continue"),
    "head": get().replace(b"GET", b"HEAD"),
    "post": POST + b"Content-Length: 5\r\n\r\nhello",
    "post-chunks": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "post-nothing": POST + b"\r\n",
    "token": get(b"/whoami", TOKEN_LINE),
    "own-user": get(b"/whoami"),
}


@pytest.mark.parametrize("name", ACCEPTED)
async def test_an_unusual_but_good_request_is_answered(name: str):
    """What the standard allows is served, and the client may close its side at once."""
    async with opened() as door:
        answer = await door.exchange(ACCEPTED[name], then_close=True)
        assert status_of(answer) == 200, answer
        assert not door.site.counters.refused
        await door.still_serves()


async def test_many_requests_share_a_connection():
    """Requests that are sent together are answered in order on one connection."""
    async with opened() as door:
        answer = await door.exchange(get() * 5 + POST + b"Content-Length: 2\r\n\r\nhi" + get(b"/nope"))
        assert answer.count(b"HTTP/1.1 200 ") == 6
        assert answer.count(b"HTTP/1.1 404 ") == 1
        assert b"\r\n\r\nhiHTTP/1.1 404" in answer
        assert (door.site.counters.accepted, door.site.counters.requests) == (1, 7)


async def test_a_refusal_after_head_has_its_reason():
    """What can be left out of the answer to a HEAD is not left out of the next one."""
    async with opened() as door:
        answer = await door.exchange(get().replace(b"GET", b"HEAD") + b"garbage\r\n\r\n")
        assert answer.count(b"\r\nDate: ") == 2
        assert b"illegal request line" in answer.rpartition(b"\r\n\r\n")[2]


async def test_no_client_holds_a_connection_for_ever():
    """After its last request a connection is told so and closed, and what came after is not answered."""
    async with opened(make_site(attrs.evolve(LIMITS, requests=3))) as door:
        answer = await door.exchange(get() * 5)
        assert answer.count(b"HTTP/1.1 200 ") == 3
        assert answer.count(b"Connection: close") == 1


async def test_an_idle_client_is_closed_and_the_others_are_not():
    """Whoever says nothing more after an answer is closed without another word."""
    async with opened(make_site(QUICK)) as door:
        answer = await door.exchange(get())
        assert answer.count(b"HTTP/1.1 ") == 1
        await door.still_serves()


async def test_a_smuggled_request_is_never_answered():
    """What follows a refused request on its connection is thrown away, whatever it looks like."""
    async with opened() as door:
        for first in (
            HOSTILE["both-framings"][0],
            get(b"/health", b"Content-Length: 0,50") + get(),
            get(b"/no") + get(),
        ):
            answer = await door.exchange(first)
            assert answer.count(b"\r\nDate: ") == 1, answer
            assert status_of(answer) in {400, 404}


async def test_permission_to_send_a_body_is_given_when_it_is_wanted():
    """A client that expects 100-continue gets it, then its answer."""
    async with opened() as door, await door.connect() as client:
        await client.send_all(POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        with trio.fail_after(5):
            assert (await client.receive_some()).startswith(b"HTTP/1.1 100 ")
        await client.send_all(b"hello")
        await client.send_eof()
        assert (await receive_all(client)).endswith(b"hello")


# Who is asking


def open_client(port: int, uid: int) -> socket.socket:
    """Connect as another user: a socket belongs to the effective uid that created it."""
    own = os.geteuid()
    os.seteuid(uid)
    try:
        client = socket.socket()
    finally:
        os.seteuid(own)
    client.connect(("127.0.0.1", port))
    client.setblocking(False)
    return client


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can open a socket for somebody else")
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (get(b"/whoami"), 401),
        (get(b"/nope"), 401),
        (HANDSHAKE, 401),
        (get(b"/whoami", TOKEN_LINE), 200),
        (get(b"/health"), 200),
    ],
    ids=["route", "unknown-path", "websocket", "with-token", "public"],
)
async def test_another_user_of_this_machine_needs_the_token(data: bytes, status: int):
    """A stranger on loopback learns nothing without the token, not even which paths there are."""
    async with opened() as door:
        client = trio.SocketStream(trio.socket.from_stdlib_socket(open_client(door.port, NOBODY)))
        async with client:
            await client.send_all(data)
            await client.send_eof()
            answer = await receive_all(client)
        assert status_of(answer) == status
        assert (b"WWW-Authenticate: Bearer" in answer) is (status == 401)


async def test_a_route_learns_who_asks():
    """The principal that was admitted reaches the code that answers."""
    async with opened() as door:
        answers = [await door.exchange(get(b"/whoami", *line), then_close=True) for line in ((), (TOKEN_LINE,))]
        assert [json.loads(answer.partition(b"\r\n\r\n")[2])["name"] for answer in answers] == [
            f"uid:{os.geteuid()}",
            "default",
        ]


async def test_a_refusal_is_on_record_without_the_credential(caplog: pytest.LogCaptureFixture):
    """The log names the peer and the reason, and nothing that was shown as a token."""
    async with opened() as door:
        with caplog.at_level(logging.DEBUG):
            await door.exchange(get(b"/whoami", b"Authorization: Bearer hunter2"))
            await door.exchange(get(b"/whoami", b"Authorization Bearer hunter2"))
            await door.exchange(upgrade(b"Sec-WebSocket-Protocol: bearer.hunter2"))
        records = [record for record in caplog.records if record.levelno == logging.INFO]
    assert [record.status for record in records] == [401, 400], "the same reason of the same peer is told once"  # type: ignore[attr-defined]
    assert all(record.peer.startswith("127.0.0.1:") for record in records)  # type: ignore[attr-defined]
    assert "hunter2" not in caplog.text


# Becoming a WebSocket


@pytest.mark.parametrize("path", [b"/ws/mcp", b"/ws"])
@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        (b"", b"None"),
        (b"Sec-WebSocket-Protocol: ccexec.v1", b"ccexec.v1"),
        (b"Sec-WebSocket-Protocol: mcp, ccexec.v1", b"ccexec.v1"),
        (b"Sec-WebSocket-Protocol: mcp, \xff", b"None"),
        (b"Sec-WebSocket-Protocol: bearer." + TOKEN.encode() + b", ccexec.v1", b"ccexec.v1"),
    ],
)
async def test_a_handshake_is_handed_over_with_what_came_after_it(path: bytes, offered: bytes, selected: bytes):
    """The site gets the stream, the selected subprotocol and every early byte, and keeps the stream to itself."""
    data = upgrade(*([offered] if offered else [])).replace(b"/ws/mcp", path)
    async with opened() as door:
        answer = await door.exchange(data + b"\x81\x00", then_close=True)
        assert answer == b"upgraded to " + selected + b", early \x81\x00;"
        assert door.site.counters.upgrades == 1
        assert door.site.counters.open == 0


async def test_a_request_may_come_before_the_handshake():
    """A connection that has been used for plain requests can still become a WebSocket."""
    async with opened() as door:
        answer = await door.exchange(get() + HANDSHAKE, then_close=True)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"upgraded to None" in answer


async def test_a_websocket_knows_who_asked():
    """The principal is handed over with the stream."""
    seen: list[Principal] = []

    async def look(upgrade: Upgrade) -> None:
        seen.append(upgrade.principal)

    async with opened(make_site(websocket=look)) as door:
        assert await door.exchange(upgrade(TOKEN_LINE)) == b""
    assert seen == [Principal("default", {Scope.ADMIN}, "token")]


async def test_the_last_frame_of_a_websocket_arrives():
    """Input that nobody has read does not turn the end into a reset, which would destroy the last frame."""

    async def leave(upgrade: Upgrade) -> None:
        await upgrade.stream.send_all(b"close frame")

    async with opened(make_site(websocket=leave)) as door, await door.connect() as client:
        await client.send_all(HANDSHAKE + b"x" * 10_000)
        assert await receive_all(client) == b"close frame"


# The barrier


async def test_a_fault_in_a_route_ends_one_connection(caplog: pytest.LogCaptureFixture):
    """The client reads 500 and nothing of our inside; the log has the fault once, with the peer."""
    async with opened() as door:
        answer = await door.exchange(get(b"/fail"))
        assert status_of(answer) == 500
        assert b"hunter2" not in answer
        (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert record.peer.startswith("127.0.0.1:")  # type: ignore[attr-defined]
        assert "hunter2" in caplog.text
        assert door.site.counters.crashed == 1
        door.site.counters.crashed = 0
        await door.still_serves()


async def test_a_fault_in_a_websocket_writes_no_http_between_its_frames():
    """Whoever has taken over a stream may fail on it; the door only closes it then."""

    async def crash(upgrade: Upgrade) -> None:
        await upgrade.stream.send_all(b"frame")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise RuntimeError("a fault")

    async with opened(make_site(websocket=crash)) as door:
        assert await door.exchange(HANDSHAKE) == b"frame"
        assert door.site.counters.crashed == 1


async def test_a_fault_in_the_middle_of_an_answer_cuts_it_visibly():
    """An answer that cannot be completed ends without its last chunk, so nobody takes it for whole."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"one"
        raise RuntimeError("a fault")

    async def answer(_request: Request) -> Response:
        return Response(200, "text/plain", pieces())

    site = make_site()
    site.routes = {**site.routes, "/pieces": Route(("GET",), answer)}
    async with opened(site) as door:
        received = await door.exchange(get(b"/pieces"))
        assert received.endswith(b"3\r\none\r\n")
        assert site.counters.crashed == 1


RESETS = [b"", b"\0garbage\r\n\r\n", b"GET /hea", get(b"/nope"), HANDSHAKE, POST + b"Content-Length: 9\r\n\r\nx"]


async def test_a_storm_of_resets_is_nothing():
    """Clients that vanish at any moment are no faults, and leave nothing behind."""
    async with opened() as door:
        for data in RESETS * 10:
            client = await door.connect()
            await send(client, data)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await client.aclose()
        await door.still_serves()
        with trio.fail_after(5):
            while door.site.counters.open:
                await trio.sleep(0.01)


async def test_cancellation_passes_and_closes_the_stream():
    """Shutting down is not held up by the barrier, and every stream is closed."""
    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, server, make_site())
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with trio.fail_after(5):
        assert await client.receive_some() == b""
    with pytest.raises(trio.ClosedResourceError):
        await server.send_all(b"x")


async def test_without_an_address_only_the_token_counts():
    """A stream that is no TCP socket has no owner that could be looked up."""
    for lines, status in (((), 401), ((TOKEN_LINE,), 200)):
        client, server = memory_stream_pair()
        await client.send_all(get(b"/whoami", *lines))
        await client.send_eof()
        await serve_connection(server, make_site())
        assert status_of(bytes(await client.receive_some())) == status


# Room


async def test_one_connection_too_many_is_told_so():
    """Beyond the limit a client reads 503 and when to come back; it can when another has left."""
    async with opened(make_site(attrs.evolve(LIMITS, connections=2))) as door:
        async with await door.connect() as one, await door.connect():
            await one.send_all(get())
            await one.receive_some()
            answer = await door.exchange(get())
            assert status_of(answer) == 503
            assert b"Retry-After: 1" in answer
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"].startswith("2 connections are open")
        with trio.fail_after(5):
            while door.site.counters.open:
                await trio.sleep(0.01)
        await door.still_serves()
        assert door.site.counters.refused == {503: 1}


async def test_a_flood_beyond_the_limit_is_just_closed():
    """Telling clients that there is no room takes bounded room itself."""
    full = attrs.evolve(LIMITS, connections=0, turned_away=1, drain_timeout=60)
    async with opened(make_site(full)) as door, await door.connect() as told:
        with trio.fail_after(5):
            assert (await told.receive_some()).startswith(b"HTTP/1.1 503 ")
            assert await door.exchange(b"") == b""
