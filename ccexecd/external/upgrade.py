"""The WebSocket handshake: checking the client's, and making the one that trio-websocket reads.

Owns the checks that RFC 6455 section 4.2.1 asks of a server, the choice of a subprotocol, and the head that
trio-websocket is given in place of the client's own, of which it never sees a byte: its parser raises on non-ASCII
headers, which would end the server. Must not send: trio-websocket answers 101.
"""

import re

import attrs
import trio

from ccexecd.core.principals import Principal
from ccexecd.external.request import Reject, Request

BEARER_PREFIX = "bearer."
"""A subprotocol with this prefix carries the token, for browsers: they cannot set headers. It is never selected."""

_VERSION = "13"  # the only one that RFC 6455 defines
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")  # 16 bytes in base64
_UPGRADE: tuple[tuple[str, str], ...] = (("Upgrade", "websocket"), ("Connection", "Upgrade"))


@attrs.frozen
class Upgrade:
    """A connection that is about to become a WebSocket.

    Attributes:
        stream: The connection. The code that serves the WebSocket may close it; the door closes it afterwards anyway.
        request: The request that asked for it.
        key: The client's ``Sec-WebSocket-Key``, well-formed.
        subprotocol: What to select, or None to select nothing.
        early: Bytes that came after the head, before any answer. wsproto drops what arrives before it has accepted,
            so they are to be held back until then.
        principal: The caller.
    """

    stream: trio.abc.Stream
    request: Request
    key: str = attrs.field(repr=False)
    subprotocol: str | None
    early: bytes = attrs.field(repr=False)
    principal: Principal


def check_handshake(request: Request) -> str:
    """Check that a request for a WebSocket path is a WebSocket handshake.

    Args:
        request: The request.

    Returns:
        The client's key.

    Raises:
        Reject: It is not one; the message says which part is wrong.
    """
    if request.method != "GET":
        raise Reject(405, f"a WebSocket is opened with GET, not {request.method}", (("Allow", "GET"),))
    if not _asks_for_websocket(request):
        raise Reject(426, "this path speaks WebSocket over HTTP/1.1; connect with a WebSocket client", _UPGRADE)
    if request.sole("sec-websocket-version") != _VERSION:
        versions = ("Sec-WebSocket-Version", _VERSION)
        raise Reject(426, f"WebSocket version {_VERSION} is the one spoken here", (*_UPGRADE, versions))
    if request.has_body:
        raise Reject(400, "a WebSocket handshake has no body; send it without Content-Length")
    key = request.sole("sec-websocket-key")
    if key is None or _KEY.fullmatch(key) is None:
        raise Reject(400, "Sec-WebSocket-Key must be 16 random bytes in base64")
    return key


def select_subprotocol(offered: list[str], known: tuple[str, ...]) -> str | None:
    """Choose the subprotocol to answer with.

    Args:
        offered: What the client offers, in its order.
        known: What we speak, the preferred first: our preference decides.

    Returns:
        The first one that both know, or None: then the answer names none, and the client decides whether to stay.
    """
    return next((name for name in known if name in offered), None)


def synthesise_head(path: str, key: str, subprotocol: str | None) -> bytes:
    """Write the handshake that trio-websocket reads instead of the client's.

    Args:
        path: One of the site's own paths.
        key: The client's key, from an `Upgrade`.
        subprotocol: The one to offer, so that accepting it is legal; None for none.

    Returns:
        A complete request head in ASCII.
    """
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: ccexecd",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Version: {_VERSION}",
        f"Sec-WebSocket-Key: {key}",
    ]
    if subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _asks_for_websocket(request: Request) -> bool:
    upgrade = [token.lower() for token in request.elements("upgrade")]
    connection = [token.lower() for token in request.elements("connection")]
    return request.http_version == "1.1" and "websocket" in upgrade and "upgrade" in connection
