"""The operator's methods about the tokens that admit clients.

Owns their results. The text of a token is told once, in the answer to the call that made or rotated it. Only the text
of the default token, which is in a file of its own, is told whenever an operator asks. Must not keep any text.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

from ccexecd.core.principals import Scope
from ccexecd.protocol import messages, operation
from ccexecd.protocol.codec import StructureError
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import RPCError
from ccexecd.service.dispatch import Method
from ccexecd.service.peer import Peer
from ccexecd.service.recording import Undecided


class Token(Protocol):
    """What is known of a token; not its text."""

    @property
    def name(self) -> str:
        """The operator's name for it."""

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The scopes that it gives."""

    @property
    def created_at(self) -> float:
        """When it was made, in seconds since the epoch."""

    @property
    def expires_at(self) -> float | None:
        """When it expires, in seconds since the epoch; None for never."""

    def has_expired(self, now: float) -> bool:
        """Whether it has expired at `now`, in seconds since the epoch."""


class Tokens(Protocol):
    """Every token of a daemon. Its methods raise ValueError for a bad name, OSError for a file that fails."""

    def known(self) -> "list[Any]":
        """Every `Token`."""

    async def show(self) -> str:
        """The text of the default token."""

    async def add(self, name: str, scopes: Iterable[Scope], lifetime: float | None) -> "tuple[Any, str]":
        """Make a token that expires after `lifetime` seconds, None for never. Returns the `Token` and its text."""

    async def rotate(self, name: str) -> str:
        """Replace a token's text. Returns the new one."""

    async def revoke(self, name: str) -> None:
        """Withdraw a token for good."""


def token_methods(tokens_of: Callable[[], Tokens]) -> dict[str, Method]:
    """Name -> method.

    Args:
        tokens_of: gives the daemon's tokens.
    """

    def token_list(_peer: Peer, _: messages.Nothing) -> dict[str, Any]:
        return {"tokens": [_described(token) for token in tokens_of().known()]}

    def token_show(_peer: Peer, _: messages.Nothing) -> Awaitable[dict[str, Any]]:
        async def show() -> dict[str, Any]:
            async with _told():
                return {"token": await tokens_of().show()}

        return show()

    def token_add(_peer: Peer, wanted: operation.TokenAdd) -> Awaitable[dict[str, Any]]:
        async def add() -> dict[str, Any]:
            async with _told():
                token, text = await tokens_of().add(wanted.name, map(Scope, wanted.scopes), wanted.lifetime)
                return {**_described(token), "token": text}

        return Undecided(add())

    def token_rotate(_peer: Peer, wanted: operation.TokenRotate) -> Awaitable[dict[str, Any]]:
        async def rotate() -> dict[str, Any]:
            async with _told():
                return {"name": wanted.name, "token": await tokens_of().rotate(wanted.name)}

        return Undecided(rotate())

    def token_revoke(_peer: Peer, wanted: operation.TokenRevoke) -> Awaitable[dict[str, Any]]:
        async def revoke() -> dict[str, Any]:
            async with _told():
                await tokens_of().revoke(wanted.name)
                return {"name": wanted.name}

        return Undecided(revoke())

    return {
        "token_list": Method(messages.Nothing, token_list),
        "token_show": Method(messages.Nothing, token_show),
        "token_add": Method(operation.TokenAdd, token_add),
        "token_rotate": Method(operation.TokenRotate, token_rotate),
        "token_revoke": Method(operation.TokenRevoke, token_revoke),
    }


@asynccontextmanager
async def _told() -> AsyncIterator[None]:
    """Turn what `Tokens` raises into the errors that an operator gets."""
    try:
        yield
    except ValueError as error:
        raise StructureError([{"path": "$.name", "error": str(error)}]) from None
    except OSError as error:
        raise RPCError(ErrorCode.INTERNAL_ERROR, f"{error}; the tokens are as they were") from None


def _described(token: Token) -> dict[str, Any]:
    return {
        "name": token.name,
        "scopes": [scope.value for scope in token.scopes],
        "created_at": _stamp(token.created_at),
        "expires_at": _stamp(token.expires_at),
        "expired": token.has_expired(time.time()),
    }


def _stamp(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()
