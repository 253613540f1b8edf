"""Ends an HTTP answer when the token that admitted its caller expires or is withdrawn.

Owns the answers that are under way, such as to a command over HTTP. WebSockets are closed elsewhere (connection.py).
Callers that were identified by the kernel have no token, and no limit.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from ccexecd.core.principals import Principal


def time_left(principal: Principal) -> float:
    """Seconds until a principal's token expires: infinity if it never does, 0 if it has."""
    return float("inf") if principal.expires_at is None else max(0.0, principal.expires_at - time.time())


class TokenLifetimes:
    """The answers under way to callers that were admitted by a token; none lasts longer than its token."""

    def __init__(self) -> None:
        self._scopes: dict[trio.CancelScope, str] = {}

    @contextmanager
    def limit(self, principal: Principal | None) -> Iterator[None]:
        """Run the block until the principal's token expires or is withdrawn, and then skip the rest of the block."""
        if principal is None or principal.via != "token":
            yield
            return
        with trio.CancelScope(deadline=trio.current_time() + time_left(principal)) as scope:
            self._scopes[scope] = principal.name
            try:
                yield
            finally:
                del self._scopes[scope]

    def withdraw(self, name: str) -> None:
        """End the blocks of `limit` that run for callers whom the token with this name admitted."""
        for scope, whose in tuple(self._scopes.items()):
            if whose == name:
                scope.cancel(reason="the token has been withdrawn")
