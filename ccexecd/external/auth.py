"""Who may enter by the external door.

Owns the order of the questions: is this host ours, is it a web page that asks, and then who: by the token, or by the
user that owns the other end of a loopback connection. It also owns the token file. It answers nobody; http.py turns a
refusal into an answer, counts it and logs it.
"""

import base64
import errno
import hmac
import os
import re
import secrets
import stat
from pathlib import Path

import attrs

from ccexecd.external.address import is_loopback
from ccexecd.external.request import Principal, Reject, Request
from ccexecd.external.socket_owner import ConnectedSocket, peer_uid
from ccexecd.external.upgrade import BEARER_PREFIX

_TOKEN_BYTES = 32  # 256 bits, beyond guessing at any rate
_SHORTEST_TOKEN = 32  # characters; an operator may have written a token of their own
_LONGEST_TOKEN_FILE = 4096  # bytes
_TOKEN_TEXT = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"(?:\[(?P<ip6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:/@\s]+))(?::[0-9]{1,5})?")
_CHALLENGE = (("WWW-Authenticate", 'Bearer realm="ccexecd"'),)


class TokenError(OSError):
    """The token file cannot be trusted or written. The message says why and what to do."""


@attrs.frozen
class Policy:
    """Who may enter.

    Attributes:
        token: The secret that admits whoever shows it, from anywhere.
        allowed_hosts: Names accepted in ``Host`` besides the loopback ones, in lower case and without a port.
        uids: Users admitted without a token over loopback: root, and the one that the daemon runs as.
    """

    token: str = attrs.field(repr=False)
    allowed_hosts: frozenset[str] = frozenset()
    uids: frozenset[int] = attrs.field(factory=lambda: frozenset({0, os.geteuid()}))


def authorize(request: Request, sock: ConnectedSocket | None, policy: Policy) -> Principal | Reject:
    """Decide whether a request may enter, and as whom.

    Args:
        request: The request.
        sock: Our end of its connection; None when it does not run over TCP, so that only the token counts.
        policy: Who may enter.

    Returns:
        Who asks, or the refusal: 403 for the wrong host or a web page, 401 for a stranger, 400 for a head that says
        two things at once.
    """
    try:
        refusal = screen(request, policy)
        return refusal or _identify(request, sock, policy)
    except Reject as malformed:
        return malformed


def screen(request: Request, policy: Policy) -> Reject | None:
    """Keep web pages out, whoever's browser they run in. Every request passes here, the public ones too.

    A page cannot forge ``Host`` and cannot leave out ``Origin`` where it could read the answer: the first stops a name
    that was rebound to 127.0.0.1, the second everything else.

    Args:
        request: The request.
        policy: Which hosts are ours.

    Returns:
        The refusal, or None when there is nothing to object to.
    """
    hosts = request.headers.get("host", [])
    if len(hosts) != 1:
        return Reject(400, f"a request needs exactly one Host header and this one has {len(hosts)}")
    if not _is_ours(hosts[0], policy.allowed_hosts):
        return Reject(
            403, f"the host {hosts[0][:100]!r} is not served here; add its name to allowed_hosts if it should be"
        )
    if "origin" in request.headers:
        return Reject(403, "requests from web pages (with an Origin header) are refused; use a program on this machine")
    return None


def load_or_create_token(path: Path) -> str:
    """Read the token that admits a client, making one where there is none.

    Args:
        path: The token file. Its directory exists.

    Returns:
        The token.

    Raises:
        TokenError: The file is readable by others, belongs to another user, is not a plain file, holds no usable
            token, or cannot be read or written.
    """
    try:
        return _load_token(path)
    except FileNotFoundError:
        pass
    try:
        return _create_token(path)
    except FileExistsError:  # another daemon that shares the file was faster
        return _load_token(path)


def _is_ours(host: str, allowed: frozenset[str]) -> bool:
    parts = _HOST.fullmatch(host)
    if parts is None:
        return False
    name = (parts["ip6"] or parts["name"]).lower().removesuffix(".")
    return name == "localhost" or name in allowed or is_loopback(name)


def _identify(request: Request, sock: ConnectedSocket | None, policy: Policy) -> Principal | Reject:
    """Say who asks. A token that is shown must be right: a wrong one is not made good by the user who shows it."""
    shown = _shows_token(request, policy.token)
    if shown is not None:
        refusal = Reject(401, "the token shown is not this daemon's; read it from its token file", _CHALLENGE)
        return Principal("token", None, "token") if shown else refusal
    uid = None if sock is None else peer_uid(sock)
    if uid is None:
        return Reject(401, "show the daemon's token: Authorization: Bearer TOKEN, read from its token file", _CHALLENGE)
    if uid not in policy.uids:
        return Reject(
            401, f"uid {uid} is neither the daemon's nor root; show the token from its token file", _CHALLENGE
        )
    return Principal(f"uid {uid}", uid, "peer")


def _shows_token(request: Request, token: str) -> bool | None:
    """Tell whether the right token is shown, in a header or as a subprotocol; None when none is shown at all."""
    verdicts = []
    authorization = request.sole("authorization")
    if authorization is not None:
        scheme, _, shown = authorization.partition(" ")
        verdicts.append(scheme.lower() == "bearer" and _is_same(shown.strip(), token))
    # A token of our making is base64url as it is; one that an operator wrote may have to be encoded to be legal there.
    encoded = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    for name in request.elements("sec-websocket-protocol"):
        if name.startswith(BEARER_PREFIX):
            shown = name.removeprefix(BEARER_PREFIX)
            verdicts.append(_is_same(shown, token) or _is_same(shown, encoded))
    return all(verdicts) if verdicts else None


def _is_same(shown: str, token: str) -> bool:
    return hmac.compare_digest(shown.encode("latin-1"), token.encode())  # compare_digest() raises on non-ASCII text


def _load_token(path: Path) -> str:
    """Read an existing token file; FileNotFoundError when there is none."""
    try:
        # O_NONBLOCK: a FIFO in its place must not stop the start.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        hint = (
            "it is a symbolic link: put the file itself there"
            if error.errno == errno.ELOOP
            else f"{error.strerror}; let the user that runs ccexecd read it, or remove it to have another one made"
        )
        raise TokenError(f"cannot read the token file {path}: {hint}") from error
    try:
        _check_token_file(path, os.fstat(fd))
        text = os.read(fd, _LONGEST_TOKEN_FILE).decode("latin-1").strip()
    finally:
        os.close(fd)
    if len(text) < _SHORTEST_TOKEN or _TOKEN_TEXT.fullmatch(text) is None:
        raise TokenError(
            f"the token file {path} does not hold one word of at least {_SHORTEST_TOKEN} ASCII characters; "
            "delete it and a new token will be made"
        )
    return text


def _check_token_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise TokenError(f"the token file {path} is not a plain file; delete it and a new token will be made")
    if status.st_uid not in {0, os.geteuid()}:
        raise TokenError(
            f"the token file {path} belongs to uid {status.st_uid}, who knows the token; "
            "delete it and a new token will be made"
        )
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise TokenError(
            f"the token file {path} is open to other users (mode {mode:04o}), who may know the token; "
            "delete it and a new token will be made, or chmod 600 it if nobody has read it"
        )


def _create_token(path: Path) -> str:
    """Make a token file that is complete from the moment it has its name; FileExistsError when there is one."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w", encoding="ascii") as file:
                file.write(token + "\n")
                file.flush()
                os.fsync(fd)
            os.link(draft, path)  # unlike a rename, this never replaces the token of another daemon
        finally:
            draft.unlink()
    except FileExistsError:
        raise
    except OSError as error:
        raise TokenError(f"cannot write the token file {path}: {error.strerror}; check its directory") from error
    return token
