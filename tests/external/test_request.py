"""Reading a request head, and refusing what no head may hold."""

import json

import h11
import pytest

from ccexecd.external.request import (
    Reject,
    Request,
    Response,
    Route,
    check_head_bytes,
    explain_unreadable,
)

HOST = b"Host: localhost\r\n"


async def no_body(limit: int | None) -> bytes:
    return b""


def parse(head: bytes) -> Request:
    """Read a head as the wire does."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    return Request.from_head(event, "127.0.0.1:1", no_body)


def get(*lines: bytes, target: bytes = b"/health") -> Request:
    return parse(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n")


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/health", "/health", ""),
        (b"/health?x=1?y", "/health", "x=1?y"),
        (b"/health?", "/health", ""),
        (b"//health", "//health", ""),
        (b"/../../etc/passwd", "/../../etc/passwd", ""),
        (b"/%2e%2e/%00", "/%2e%2e/%00", ""),
        (b"/a#b", "/a#b", ""),
        (b"http://localhost/health?x", "/health", "x"),
        (b"HTTP://localhost", "/", ""),
        (b"http://localhost?x", "/", "x"),
    ],
)
def test_a_target_is_split_but_never_decoded(target: bytes, path: str, query: str):
    """A path is compared as it was sent, so no encoding of it reaches anything else."""
    request = get(target=target)
    assert (request.path, request.query) == (path, query)


def test_the_authority_of_an_absolute_target_replaces_the_host_header():
    """The host that is checked is the one that the request is for (RFC 9112 section 3.2.2)."""
    assert get(target=b"http://evil.example:80/health").headers["host"] == ["evil.example:80"]


@pytest.mark.parametrize("target", [b"*", b"localhost:8003", b"https://localhost/", b"health", b"ws://localhost/"])
def test_a_target_that_is_no_path_is_refused(target: bytes):
    """What is not a path gets 400 and is told what one looks like."""
    with pytest.raises(Reject) as refusal:
        get(target=target)
    assert refusal.value.status == 400
    assert "/health" in refusal.value.message


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"PRI * HTTP/2.0", 505),
        (b"GET / HTTP/1.9", 505),
        (b"GET / HTTP/0.9", 505),
        (b"BREW /pot HTTP/1.1", 501),
        (b"get / HTTP/1.1", 501),
    ],
)
def test_an_unknown_version_or_method_is_named_before_the_rest(start: bytes, status: int):
    """A client that speaks something else learns that, and not that a detail is wrong."""
    with pytest.raises(Reject) as refusal:
        parse(start + b"\r\n" + HOST + b"\r\n")
    assert refusal.value.status == status


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_a_body_with_two_possible_ends_is_refused(head: bytes):
    """No request can be smuggled behind a length that another reader would understand differently."""
    with pytest.raises(Reject, check=lambda refusal: refusal.status == 400):
        parse(head)


def test_any_byte_in_a_header_is_readable():
    """A header value that is not ASCII raises nothing anywhere (it took trio-websocket's server down)."""
    request = get(b"Connection: Upgrade, \xff", b"Sec-WebSocket-Protocol: \xfe,,mcp", b"Sec-WebSocket-Protocol: x")
    assert request.elements("connection") == ["Upgrade", "\xff"]
    assert request.elements("sec-websocket-protocol") == ["\xfe", "mcp", "x"]
    assert request.elements("absent") == []


def test_a_single_valued_header_must_come_once():
    """Two readers of one request cannot choose different values."""
    assert get(b"Authorization: a").sole("authorization") == "a"
    assert get().sole("authorization") is None
    with pytest.raises(Reject, check=lambda refusal: refusal.status == 400 and "authorization" in refusal.message):
        get(b"Authorization: a", b"authorization: a").sole("authorization")


@pytest.mark.parametrize(
    ("line", "has_body"),
    [
        (b"Content-Length: 0", False),
        (b"X: y", False),
        (b"Content-Length: 1", True),
        (b"Transfer-Encoding: chunked", True),
    ],
)
def test_a_body_is_recognised_by_its_framing(line: bytes, has_body: bool):
    """An announced length of zero is no body."""
    assert get(line).has_body is has_body


def test_a_request_never_shows_its_headers_in_a_repr():
    """A traceback or a log line with a request in it holds no credential."""
    assert "hunter2" not in repr(get(b"Authorization: Bearer hunter2"))


def test_a_refusal_reads_as_one_line_of_json():
    """Whoever is refused gets one JSON object with the reason, and a newline for the terminal."""
    answer = Reject(405, "no", (("Allow", "GET"),)).response()
    assert isinstance(answer.body, bytes)
    assert answer.body.endswith(b"}\n")
    assert (answer.status, json.loads(answer.body), answer.headers) == (405, {"error": "no"}, (("Allow", "GET"),))


async def unreachable(request: Request) -> Response:
    raise AssertionError(request)


@pytest.mark.parametrize(
    ("methods", "method", "status", "allow"),
    [
        (("GET",), "GET", None, None),
        (("GET",), "HEAD", None, None),
        (("GET",), "POST", 405, "GET, HEAD"),
        (("POST",), "POST", None, None),
        (("POST",), "HEAD", 405, "POST"),
        (("GET", "POST"), "DELETE", 405, "GET, POST, HEAD"),
    ],
)
def test_a_route_answers_its_methods_and_names_them(methods: tuple[str, ...], method: str, status, allow):
    """GET brings HEAD with it, and 405 lists what is answered."""
    request = Request(method=method, path="/", query="", headers={}, peer="")
    route = Route(methods, unreachable)
    if status is None:
        route.check(request)
        return
    with pytest.raises(Reject) as refusal:
        route.check(request)
    assert (refusal.value.status, dict(refusal.value.headers)["Allow"]) == (status, allow)


def test_a_body_where_none_belongs_is_refused():
    """A GET with a body is refused instead of leaving its body to be read as the next request."""
    request = Request(method="GET", path="/", query="", headers={"content-length": ["3"]}, peer="")
    with pytest.raises(Reject, check=lambda refusal: refusal.status == 400):
        Route(("GET",), unreachable).check(request)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX:" + b" " * 16000 + b"\0\r\n\r\n",
        b"GET / HTTP/1.1\r\nX:" + b" " * 16000 + b"\x0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nX:" + b"\t" * 16000 + b"\x0c",
        b"GET / HTTP/1.1\r\nX:" + b" " * 16000 + b"\rX\r\n\r\n",
        b"GET / HTTP/1.1\r\nX:\r\n \r\n \0\r\n\r\n",
        b"\0",
        b"a\rb",
    ],
)
def test_bytes_that_h11_would_backtrack_on_never_reach_it(head: bytes):
    """A head of blanks that ends in a forbidden byte cannot stop the event loop (0.6 s for 16 KiB in h11 0.16)."""
    with pytest.raises(Reject, match="control byte"):
        check_head_bytes(head)


@pytest.mark.parametrize(
    "received",
    [
        b"",
        b"GET / HTTP/1.1\r",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\n\n\0\0",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\x81\x00\0\x0b\x0c\r",
        b"GET / HTTP/1.1\r\nX: \x01\x7f\xff\x85\r\n\r\n",
    ],
)
def test_what_follows_a_head_is_not_looked_at(received: bytes):
    """Frames and bodies behind a head may hold any byte, and a CR may be waiting for its LF."""
    check_head_bytes(received)


def test_tls_is_told_apart():
    """A client that tries https:// learns which scheme to use."""
    with pytest.raises(Reject, match="not TLS; use http://"):
        check_head_bytes(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")


@pytest.mark.parametrize(
    ("head", "status", "words"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, "Missing mandatory Host: header"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "multiple Host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nBearer hunter2\r\n\r\n", 400, "illegal header line"),
        (b"GET hunter2 / HTTP/1.1\r\n\r\n", 400, "illegal request line"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "chunked"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n", 400, "Content-Length"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 16384, 431, "longer than 16384 bytes"),
    ],
)
def test_an_unreadable_head_is_explained_without_quoting_it(head: bytes, status: int, words: str):
    """The reason reaches the client and the log, a credential in the offending line does not."""
    connection = h11.Connection(h11.SERVER, 16384)
    connection.receive_data(head)
    with pytest.raises(h11.RemoteProtocolError) as error:
        connection.next_event()
    refusal = explain_unreadable(error.value, 16384)
    assert refusal.status == status
    assert words in refusal.message
    assert "hunter2" not in refusal.message
