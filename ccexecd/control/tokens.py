"""The operator's methods about the tokens that admit clients.

Owns their results. A token's text leaves here exactly once, in the answer to whoever had it made; the default one's,
which is in a file of its own, whenever an operator asks.
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
        """What it admits to."""

    @property
    def created_at(self) -> float:
        """Seconds since the epoch."""

    @property
    def expires_at(self) -> float | None:
        """The same; None for never."""

    def has_expired(self, now: float) -> bool:
        """Whether it admits nobody any more."""


class Tokens(Protocol):
    """Every token of a daemon. A name that will not do is a ValueError, a file that will not an OSError."""

    def known(self) -> "list[Any]":
        """Every one of them, as `Token`."""

    async def show(self) -> str:
        """The text of the default one."""

    async def add(self, name: str, scopes: Iterable[Scope], lifetime: float | None) -> "tuple[Any, str]":
        """Make one, a `Token`, and give it with its text."""

    async def rotate(self, name: str) -> str:
        """Give one another text."""

    async def revoke(self, name: str) -> None:
        """Withdraw one for good."""


def token_methods(tokens_of: Callable[[], Tokens]) -> dict[str, Method]:
    """The methods, given where the tokens are."""

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
    """Let the operator know what will not do: a name, or the disk."""
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
