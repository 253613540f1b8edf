"""Who may enter by the external door.

Owns the checks of a request and their order: the Host header, the Origin header (web pages), and then who asks: by a
token, or by the user that owns the other end of a loopback connection. tokens.py owns the tokens. Must not answer:
http.py turns a refusal into an answer, counts it and logs it.
"""

import os
import re
import time
from collections.abc import Iterator

import attrs

from ccexecd.core.principals import Principal, user
from ccexecd.external.address import is_loopback
from ccexecd.external.request import Reason, Reject, Request
from ccexecd.external.socket_owner import ConnectedSocket, peer_uid
from ccexecd.external.tokens import Tokens
from ccexecd.external.upgrade import BEARER_PREFIX

_HOST = re.compile(r"(?:\[(?P<ip6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:/@\s]+))(?::[0-9]{1,5})?")
CHALLENGE = (("WWW-Authenticate", 'Bearer realm="ccexecd"'),)
"""Header that every 401 must have (RFC 9110 section 11.6.1)."""

_OPAQUE = "null"
"""The origin of a page that has none of its own (RFC 6454 section 7): a sandboxed frame, a file, a redirect."""


@attrs.frozen
class Policy:
    """Who may enter.

    Attributes:
        tokens: The secrets that admit whoever shows one, from anywhere.
        allowed_hosts: Names accepted in ``Host`` besides the loopback ones, in lower case and without a port.
        allowed_origins: Web pages that may ask, as their browser names them in ``Origin``, in lower case.
        uids: Users admitted without a token over loopback: root, and the one that the daemon runs as.
    """

    tokens: Tokens
    allowed_hosts: frozenset[str] = frozenset()
    allowed_origins: frozenset[str] = frozenset()
    uids: frozenset[int] = attrs.field(factory=lambda: frozenset({0, os.geteuid()}))


def authorize(request: Request, sock: ConnectedSocket | None, policy: Policy) -> Principal | Reject:
    """Decide whether a request may enter, and as which principal.

    Args:
        request: The request.
        sock: Our end of its connection; None when it does not run over TCP, so that only a token counts.
        policy: Who may enter.

    Returns:
        The principal, or the refusal: 403 for the wrong host or a web page that is not listed, 401 for a caller that
        cannot be identified, 400 for a head that contradicts itself.
    """
    try:
        refusal = screen(request, policy)
        return refusal or _identify(request, sock, policy)
    except Reject as malformed:
        return malformed


def screen(request: Request, policy: Policy) -> Reject | None:
    """Keep out web pages that run in anybody's browser. Every request is checked, those for public routes, too.

    A page cannot forge ``Host``, and cannot leave out ``Origin`` where it could read the answer. Checking the first
    stops a name that was rebound to 127.0.0.1, checking the second stops everything else.

    Args:
        request: The request.
        policy: Which hosts are ours, and which pages may ask.

    Returns:
        The refusal, or None when the request passes.
    """
    hosts = request.headers.get("host", [])
    if len(hosts) != 1:
        message = f"a request needs exactly one Host header and this one has {len(hosts)}"
        return Reject(400, message, reason=Reason.TWO_HOSTS if hosts else Reason.NO_HOST)
    if not _is_ours(hosts[0], policy.allowed_hosts):
        message = f"the host {hosts[0][:100]!r} is not served here; add its name to allowed_hosts if it should be"
        return Reject(403, message, reason=Reason.FOREIGN_HOST)
    return _screen_origin(request.headers.get("origin", []), policy)


def _screen_origin(origins: list[str], policy: Policy) -> Reject | None:
    if not origins:
        return None
    if len(origins) > 1:
        return Reject(400, f"the header origin was sent {len(origins)} times", reason=Reason.FOREIGN_ORIGIN)
    origin = origins[0].lower()
    if origin == _OPAQUE:  # refused even if it is listed: any page can have it
        message = "requests from web pages without an origin of their own (Origin: null) are refused"
        return Reject(403, message, reason=Reason.NULL_ORIGIN)
    if origin not in policy.allowed_origins:
        message = (
            "requests from web pages (with an Origin header) are refused; use a program on this machine, or add the "
            "page's origin to allowed_origins"
        )
        return Reject(403, message, reason=Reason.FOREIGN_ORIGIN)
    return None


def _is_ours(host: str, allowed: frozenset[str]) -> bool:
    parts = _HOST.fullmatch(host)
    if parts is None:
        return False
    name = (parts["ip6"] or parts["name"]).lower().removesuffix(".")
    return name == "localhost" or name in allowed or is_loopback(name)


def _identify(request: Request, sock: ConnectedSocket | None, policy: Policy) -> Principal | Reject:
    """Identify the caller. A token that is shown must be right, even for a user who would be admitted without one."""
    shown = list(_shown_tokens(request))
    if shown:
        return _by_token(shown, policy)
    uid = None if sock is None else peer_uid(sock)
    if uid is None:
        message = "show the daemon's token: Authorization: Bearer TOKEN, read from its token file"
        return Reject(401, message, CHALLENGE, reason=Reason.NO_TOKEN)
    if uid not in policy.uids:
        message = f"uid {uid} is neither the daemon's nor root; show the token from its token file"
        return Reject(401, message, CHALLENGE, reason=Reason.OTHER_USER)
    return user(uid)


def _by_token(shown: list[str | None], policy: Policy) -> Principal | Reject:
    """The principal of a request that shows tokens; if there are several, they must all be the same valid one."""
    found = [None if text is None else policy.tokens.find(text) for text in shown]
    token = found[0]
    if token is None or any(each is not token for each in found):
        message = "the token shown is not this daemon's; read it from its token file, or have one made"
        return Reject(401, message, CHALLENGE, reason=Reason.WRONG_TOKEN)
    if token.has_expired(time.time()):
        message = "the token shown has expired; have another one made"
        return Reject(401, message, CHALLENGE, reason=Reason.EXPIRED_TOKEN)
    return token.principal


def _shown_tokens(request: Request) -> Iterator[str | None]:
    """Every token in the request, from Authorization or a subprotocol; None for an authorization that is not Bearer."""
    authorization = request.sole("authorization")
    if authorization is not None:
        scheme, _, shown = authorization.partition(" ")
        yield shown.strip() if scheme.lower() == "bearer" else None
    for name in request.elements("sec-websocket-protocol"):
        if name.startswith(BEARER_PREFIX):
            yield name.removeprefix(BEARER_PREFIX)
