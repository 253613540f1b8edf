"""The tokens that admit clients: the default one, and those that the operator has given names.

Owns which tokens there are, what each admits to, and the file of the named ones. Of every token only the SHA-256 is
kept, in memory and in that file. A slow, salted hash is needed for passwords that people choose; 256 random bits can
neither be guessed nor looked up. Only the default token's text is in a file of its own (`token_file`), for programs to
read. A change is written to disk before it takes effect, and takes effect at once. Must not log or show any secret.
"""

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import orjson
import trio

from ccexecd.core.principals import Principal, Scope
from ccexecd.external.token_file import (
    TokenError,
    load_or_create_token,
    load_token,
    new_token,
    read_private,
    replace_private,
)
from ccexecd.threads import in_thread

DEFAULT = "default"
"""The name of the token that the first start makes; it has the scope `admin` and never expires."""

MAX_TOKENS = 1000
"""Named tokens at most: a token that is shown is compared with every one, so that the time it takes tells nothing."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # no colon: `uid:0` is the kernel's to say
_LARGEST_FILE = 1 << 20  # bytes; MAX_TOKENS take a quarter of it
_VERSION = 1


class TokenNameError(ValueError):
    """A token cannot have this name, or there is none with it. The message says why."""


@attrs.frozen
class Token:
    """What is known of a token; not its text.

    Attributes:
        name: The operator's name for it, which is also the name of its principal.
        scopes: The scopes that it gives.
        digest: The SHA-256 of its text, 32 bytes.
        created_at: When it was made, in seconds since the epoch.
        expires_at: When it expires, in seconds since the epoch; None for never.
    """

    name: str
    scopes: tuple[Scope, ...]
    digest: bytes = attrs.field(repr=False)
    created_at: float
    expires_at: float | None = None

    def has_expired(self, now: float) -> bool:
        """Whether it has expired at `now`, in seconds since the epoch."""
        return self.expires_at is not None and self.expires_at <= now

    @property
    def principal(self) -> Principal:
        """The principal that it admits."""
        return Principal(self.name, frozenset(self.scopes), "token", expires_at=self.expires_at)


class Tokens:
    """Every token of a daemon.

    Args:
        default: The text of the default token. Only its digest is kept.
        default_file: File with that text; None for a default token that can be neither shown nor rotated.
        named: The named tokens.
        named_file: File of the named tokens; None for one that is not kept.

    Attributes:
        withdrawn: Called with a token's name when its text admits nobody any more.
    """

    def __init__(
        self,
        default: str,
        default_file: Path | None = None,
        named: Iterable[Token] = (),
        named_file: Path | None = None,
    ) -> None:
        self.withdrawn: Callable[[str], object] = lambda _: None
        self._default_file = default_file
        self._named_file = named_file
        made_at = default_file.stat().st_mtime if default_file is not None else 0.0
        self._tokens = {DEFAULT: _default(default, made_at), **{token.name: token for token in named}}
        self._changing = trio.Lock()

    @classmethod
    def load(cls, default_file: Path, named_file: Path) -> "Tokens":
        """Read both files, making the default token where there is none.

        Raises:
            TokenError: One of the files cannot be trusted, read or understood.
        """
        default = load_or_create_token(default_file)
        return cls(default, default_file, _load(named_file), named_file)

    def find(self, shown: str) -> Token | None:
        """The token with a text, or None. The time that this takes does not depend on which one it is.

        Args:
            shown: The text as it was sent, each character standing for a byte (Latin-1), or its base64url, by which a
                token that an operator wrote can be sent as a subprotocol.
        """
        digests = [hashlib.sha256(text).digest() for text in _readings(shown)]
        found = None
        for token in self._tokens.values():
            for digest in digests:
                if hmac.compare_digest(digest, token.digest):
                    found = token
        return found

    def known(self) -> list[Token]:
        """Every token, the default one first."""
        return list(self._tokens.values())

    async def show(self) -> str:
        """The text of the default token.

        Raises:
            TokenError: Its file cannot be read.
        """
        try:
            return await in_thread(partial(load_token, self._require_file()))
        except FileNotFoundError as error:
            raise TokenError(f"the token file {self._default_file} is gone; rotate it to have another") from error

    async def add(self, name: str, scopes: Iterable[Scope], lifetime: float | None) -> tuple[Token, str]:
        """Make a token.

        Args:
            name: Its name.
            scopes: The scopes that it gives.
            lifetime: Seconds until it expires; None for never.

        Returns:
            The token, and its text, which is not kept and cannot be had again.

        Raises:
            TokenNameError: The name is taken or not valid, or there are too many tokens.
            TokenError: The file cannot be written; the token does not exist then.
        """
        async with self._changing:
            self._check_name(name)
            now, text = round(time.time(), 3), new_token()  # as exact as the file has it
            expires_at = None if lifetime is None else round(now + lifetime, 3)
            token = Token(name, tuple(scopes), _digest(text), now, expires_at)
            await self._keep({**self._tokens, name: token})
        return token, text

    async def rotate(self, name: str) -> str:
        """Replace the text of a token; the old one admits nobody any more.

        Returns:
            The new text.

        Raises:
            TokenNameError: There is no such token.
            TokenError: The file cannot be written; the old text stays in force.
        """
        async with self._changing:
            old, text = self._named(name), new_token()
            if name == DEFAULT:
                write = partial(replace_private, self._require_file(), text.encode() + b"\n")
                await in_thread(write)
                self._tokens = {**self._tokens, DEFAULT: _default(text, time.time())}
            else:
                await self._keep({**self._tokens, name: attrs.evolve(old, digest=_digest(text))})
        self.withdrawn(name)
        return text

    async def revoke(self, name: str) -> None:
        """Withdraw a token for good.

        Raises:
            TokenNameError: There is no such token, or it is the default one.
            TokenError: The file cannot be written; the token stays in force.
        """
        async with self._changing:
            self._named(name)
            if name == DEFAULT:
                raise TokenNameError("the default token can only be rotated: its file admits who can read it")
            await self._keep({key: token for key, token in self._tokens.items() if key != name})
        self.withdrawn(name)

    def _check_name(self, name: str) -> None:
        if _NAME.fullmatch(name) is None:
            raise TokenNameError("a name has 1 to 64 letters, digits, '.', '_' and '-', a letter or digit first")
        if name in self._tokens:
            raise TokenNameError(f"there is a token {name!r} already; revoke it first, or rotate it")
        if len(self._tokens) > MAX_TOKENS:
            raise TokenNameError(f"there are {MAX_TOKENS} named tokens, as many as may be; revoke one first")

    def _named(self, name: str) -> Token:
        token = self._tokens.get(name)
        if token is None:
            raise TokenNameError(f"there is no token {name[:64]!r}")
        return token

    def _require_file(self) -> Path:
        if self._default_file is None:
            raise TokenError("the default token is in no file")
        return self._default_file

    async def _keep(self, tokens: dict[str, Token]) -> None:
        """Write the named tokens to their file, and then use these tokens."""
        if self._named_file is not None:
            named = [_as_json(token) for token in tokens.values() if token.name != DEFAULT]
            content = orjson.dumps({"version": _VERSION, "tokens": named}, option=orjson.OPT_INDENT_2) + b"\n"
            await in_thread(partial(replace_private, self._named_file, content))
        self._tokens = tokens


def _default(text: str, made_at: float) -> Token:
    return Token(DEFAULT, (Scope.ADMIN,), _digest(text), made_at)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("latin-1")).digest()


def _readings(shown: str) -> list[bytes]:
    """The bytes that a text may stand for: its own and, if it is base64url, those that it encodes."""
    plain = shown.encode("latin-1")
    try:
        return [plain, base64.urlsafe_b64decode(plain + b"=" * (-len(plain) % 4))]
    except binascii.Error:
        return [plain]


def _as_json(token: Token) -> dict[str, Any]:
    return {
        "name": token.name,
        "scopes": [scope.value for scope in token.scopes],
        "sha256": token.digest.hex(),
        "created_at": stamp(token.created_at),
        "expires_at": stamp(token.expires_at),
    }


def stamp(moment: float | None) -> str | None:
    """A moment as files and answers have it: ISO 8601, UTC; None stays None."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()


def _load(path: Path) -> list[Token]:
    """Read the named tokens; none where there is no file."""
    try:
        content = read_private(path, _LARGEST_FILE)
    except FileNotFoundError:
        return []
    try:
        return _from_json(orjson.loads(content))
    except (ValueError, TypeError, KeyError) as error:
        # `from None` would lose nothing that helps: the content is not to be seen in a traceback.
        raise TokenError(
            f"the token file {path} cannot be understood ({type(error).__name__}); restore it, or delete it, and with "
            "it every named token"
        ) from None


def _from_json(kept: dict[str, Any]) -> list[Token]:
    if kept["version"] != _VERSION:
        raise ValueError
    return [_token(each) for each in kept["tokens"]]


def _token(kept: dict[str, Any]) -> Token:
    digest = bytes.fromhex(kept["sha256"])
    if _NAME.fullmatch(kept["name"]) is None or kept["name"] == DEFAULT or len(digest) != hashlib.sha256().digest_size:
        raise ValueError
    expires_at = kept["expires_at"]
    return Token(
        kept["name"],
        tuple(Scope(scope) for scope in kept["scopes"]),
        digest,
        datetime.fromisoformat(kept["created_at"]).timestamp(),
        None if expires_at is None else datetime.fromisoformat(expires_at).timestamp(),
    )
