"""The values of the HTTP door: a request, an answer, a refusal, a route.

Owns making a request of a head that h11 has split into fields, and the checks that a head must pass first. Must not do
I/O, nor decide who may enter (auth.py) or what is served (site.py).
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from enum import Enum
from typing import Any, Protocol, Self

import attrs
import h11
import orjson

from ccexecd.core.principals import Principal, Scope

Headers = tuple[tuple[str, str], ...]

KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
"""RFC 9110 section 9 and RFC 5789. Any other method is answered 501; one of these that a path does not serve, 405."""

METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
"""In other methods, a body has no defined meaning (RFC 9110 section 9.3.1); reading one invites request smuggling."""

_FORBIDDEN_IN_HEAD = (b"\x00", b"\x0b", b"\x0c")
_TLS_HANDSHAKE = b"\x16\x03"  # record type 22, major version 3 (RFC 8446 section 5.1)
_ABSOLUTE_FORM = re.compile(r"http://(?P<authority>[^/?#]*)(?P<rest>.*)", re.IGNORECASE)


class Reason(Enum):
    """Why a caller was refused, as counters and log call it. A refusal of a malformed request has none of these."""

    NO_HOST = "no_host"
    TWO_HOSTS = "two_hosts"
    FOREIGN_HOST = "foreign_host"
    FOREIGN_ORIGIN = "foreign_origin"
    NULL_ORIGIN = "null_origin"
    NO_TOKEN = "no_token"  # noqa: S105  # a word for it
    WRONG_TOKEN = "wrong_token"  # noqa: S105  # a word for it
    EXPIRED_TOKEN = "expired_token"  # noqa: S105  # a word for it
    OTHER_USER = "other_user"
    SCOPE = "scope"
    RATE = "rate"


_ABOUT_HOST = {"Missing mandatory Host: header": Reason.NO_HOST, "Found multiple Host: headers": Reason.TWO_HOSTS}
"""h11's own errors about the Host header, which it raises before `auth` can check it."""


class ByteSource(Protocol):
    """The body of an answer that is written as it comes: an async generator, or the end of a memory channel."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the pieces."""
        ...

    def aclose(self) -> Awaitable[Any]:
        """End the source: nobody will read the rest."""
        ...


@attrs.frozen
class Response:
    """An answer.

    Attributes:
        status: The HTTP status code, a registered one.
        content_type: The media type of the body.
        body: All of it; or a source of pieces, each of which is sent at once as a chunk. The connection ends after
            such an answer, and the source is closed early when the client vanishes or stops reading, so an answer
            that takes long to find is better given as a source of one piece.
        headers: Further headers. Length, date and connection headers are added where the answer is sent.
    """

    status: int
    content_type: str
    body: bytes | ByteSource
    headers: Headers = ()

    @classmethod
    def json(cls, value: object, status: int = 200, headers: Headers = ()) -> Self:
        """Answer with one JSON value and a newline, so that it reads well in a terminal.

        Args:
            value: Anything that orjson can write.
            status: The HTTP status code.
            headers: Further headers.

        Returns:
            The answer.
        """
        return cls(status, "application/json", orjson.dumps(value) + b"\n", headers)


@attrs.define(eq=False)
class Reject(Exception):  # noqa: N818 - a verdict; some refusals are returned, and nothing went wrong here
    """A refusal. Functions whose result is a verdict return it; others raise it.

    The message goes to the client and to the log, so it holds neither a credential nor internals of the daemon.

    Attributes:
        status: The HTTP status code.
        message: What was wrong and what to do about it.
        headers: Headers that this status needs.
        reason: Why the caller was refused; None if the request is malformed.
    """

    status: int
    message: str
    headers: Headers = ()
    reason: Reason | None = None

    def response(self) -> Response:
        """Make an answer of the refusal.

        Returns:
            An answer with the body ``{"error": message}``.
        """
        return Response.json({"error": self.message}, self.status, self.headers)


async def _no_body(_limit: int | None) -> bytes:
    return b""


@attrs.frozen
class Request:
    """One request, with its head checked and its body still on the wire.

    Attributes:
        method: As sent; methods are case-sensitive.
        path: As sent, not percent-decoded: paths are compared, never opened. A traversal is just an unknown path.
        query: What followed the first ``?``, undecoded.
        headers: The values of each header in order of arrival, by lower-case name, as Latin-1: any byte is legal
            there and none may raise. They hold credentials, so they are left out of the repr.
        peer: The other end's address, for the log.
        http_version: ``1.1`` or ``1.0``.
        principal: The caller; None before it is identified, and on public routes.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, list[str]] = attrs.field(repr=False)
    peer: str
    http_version: str = "1.1"
    principal: Principal | None = None
    _read_body: Callable[[int | None], Awaitable[bytes]] = attrs.field(default=_no_body, repr=False, eq=False)

    @classmethod
    def from_head(cls, head: h11.Request, peer: str, read_body: Callable[[int | None], Awaitable[bytes]]) -> Self:
        """Build a request from what h11 has parsed.

        Args:
            head: A head that is syntactically in order.
            peer: The other end's address, for the log.
            read_body: Reads the body, given the largest length to accept.

        Returns:
            The request.

        Raises:
            Reject: The version, the method, the target or the framing of the body is none that we can serve.
        """
        _check_start(head)
        authority, path, query = _split_target(head.target.decode("ascii"))
        headers: dict[str, list[str]] = {}
        for name, value in head.headers:
            headers.setdefault(name.decode("ascii"), []).append(value.decode("latin-1"))
        if authority is not None:
            headers["host"] = [authority]
        request = cls(
            method=head.method.decode("ascii"),
            path=path,
            query=query,
            headers=headers,
            peer=peer,
            http_version=head.http_version.decode("ascii"),
            read_body=read_body,
        )
        _check_framing(request)
        return request

    def sole(self, name: str) -> str | None:
        """Read a header that has one value.

        Args:
            name: The header's name in lower case.

        Returns:
            The value, or None when the header is absent.

        Raises:
            Reject: It came more than once. Taking either value would let two readers of one request disagree.
        """
        values = self.headers.get(name, [])
        if len(values) > 1:
            raise Reject(400, f"the header {name} was sent {len(values)} times; send it once")
        return values[0] if values else None

    def elements(self, name: str) -> list[str]:
        """Read a header that is a comma-separated list.

        Args:
            name: The header's name in lower case.

        Returns:
            The elements of all its lines in order, without the empty ones.
        """
        pieces = (piece.strip() for line in self.headers.get(name, []) for piece in line.split(","))
        return [piece for piece in pieces if piece]

    @property
    def content_length(self) -> int | None:
        """The announced length of the body in bytes; None when there is no body or it comes in chunks."""
        announced = self.sole("content-length")
        return None if announced is None else int(announced)

    @property
    def has_body(self) -> bool:
        """Whether bytes of a body follow the head."""
        return "transfer-encoding" in self.headers or bool(self.content_length)

    async def body(self, limit: int | None = None) -> bytes:
        """Read the whole body. It can be read once: a second call finds nothing.

        Args:
            limit: The largest length to accept, in bytes; None for the limit of the site.

        Returns:
            The body, empty when there is none.

        Raises:
            Reject: It is too long, too slow or malformed. Let it pass: the connection answers with it.
        """
        return await self._read_body(limit)


@attrs.frozen
class Route:
    """What is served at one path.

    Attributes:
        methods: The methods that it answers. GET includes HEAD.
        answer: Makes the answer. It may raise `Reject`.
        public: Whether it answers without authorisation. Host and Origin are checked all the same.
        scope: The scope that a caller needs.
    """

    methods: tuple[str, ...]
    answer: Callable[[Request], Awaitable[Response]]
    public: bool = False
    scope: Scope = Scope.ADMIN

    def check(self, request: Request) -> None:
        """Check that this route answers such a request.

        Args:
            request: A request for this route's path.

        Raises:
            Reject: It does not answer that method, or there is a body where none belongs.
        """
        allowed = (*self.methods, "HEAD") if "GET" in self.methods else self.methods
        if request.method not in allowed:
            names = ", ".join(allowed)
            raise Reject(405, f"this path does not answer {request.method}; use {names}", (("Allow", names),))
        if request.has_body and request.method not in METHODS_WITH_BODY:
            raise Reject(400, f"a {request.method} request has no body here; send it without Content-Length")


def check_head_bytes(received: bytes) -> None:
    r"""Refuse bytes that no head holds, before h11 looks for a meaning in them.

    h11's pattern for a header line takes time quadratic in a run of blanks that ends in a byte it forbids: a single
    head of 16 KiB stopped the event loop for 0.6 s (h11 0.16). Those bytes are NUL, \v, \f and a CR without LF;
    where none is left, every line matches at the first attempt or fails before its value.

    Args:
        received: What has arrived and was not parsed yet: a part of a head, or a head and what follows it.

    Raises:
        Reject: This is TLS, or there is such a byte before the blank line that ends the head.
    """
    if received.startswith(_TLS_HANDSHAKE):
        raise Reject(400, "this port speaks plain HTTP and WebSocket, not TLS; use http:// or ws://")
    head = received[: _head_length(received)].removesuffix(b"\r")  # the LF may still be on its way
    if any(byte in head for byte in _FORBIDDEN_IN_HEAD) or head.count(b"\r") != head.count(b"\r\n"):
        raise Reject(400, "the request head holds a NUL or another control byte; send a well-formed HTTP/1.1 request")


def explain_unreadable(error: h11.RemoteProtocolError, limit: int) -> Reject:
    """Turn h11's verdict on a head or a body into ours.

    Args:
        error: What h11 says.
        limit: The largest head that was accepted, in bytes.

    Returns:
        The refusal, with the status that h11 suggests.
    """
    status = int(error.error_status_hint)
    if status == 431:
        return Reject(status, f"the request head is longer than {limit} bytes; send fewer or shorter headers")
    if str(error) in _ABOUT_HOST:
        return Reject(status, f"{error}; send exactly one", reason=_ABOUT_HOST[str(error)])
    # h11 quotes the line that offends it, and that line may hold a credential.
    verdict = str(error).partition(": b")[0]
    return Reject(status, f"this cannot be read as HTTP/1.1 ({verdict}); send a well-formed request")


def _head_length(received: bytes) -> int:
    """Find where the head ends, accepting bare LF as h11 does."""
    ends = [end for blank in (b"\n\r\n", b"\n\n") if (end := received.find(blank)) >= 0]
    return min(ends, default=len(received))


def _check_start(head: h11.Request) -> None:
    """Refuse a version or a method that nothing here could answer, whatever the rest of the head says."""
    version = head.http_version.decode("ascii")
    if version not in {"1.0", "1.1"}:
        raise Reject(505, f"HTTP/{version} is not spoken here; use HTTP/1.1")
    if head.method.decode("ascii") not in KNOWN_METHODS:
        raise Reject(501, "this request method is not known here; use GET, HEAD or POST")


def _split_target(target: str) -> tuple[str | None, str, str]:
    """Split a request target into the authority that overrides Host, the path and the query.

    RFC 9112 section 3.2.2 makes a server accept the absolute form and prefer its authority to the Host header.
    """
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    authority = None
    if absolute is not None:
        authority, target = absolute["authority"], absolute["rest"]
        target = target if target.startswith("/") else "/" + target
    if not target.startswith("/"):
        raise Reject(400, "the request target is not a path; send one that begins with /, such as /health")
    path, _, query = target.partition("?")
    return authority, path, query


def _check_framing(request: Request) -> None:
    """Refuse a body whose end two readers could see at different places (RFC 9112 section 6.1)."""
    chunked = "transfer-encoding" in request.headers
    if chunked and ("content-length" in request.headers or request.http_version == "1.0"):
        raise Reject(400, "Transfer-Encoding came with Content-Length or over HTTP/1.0; announce the body in one way")
