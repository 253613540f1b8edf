"""How long whoever was let in by a token may stay: until the token expires, or is withdrawn.

Owns those answers that are under way and take their time (a command over HTTP). A WebSocket says farewell in its own
way (connection.py); whoever the kernel has named stays as long as it likes.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from ccexecd.core.principals import Principal


def time_left(principal: Principal) -> float:
    """Seconds until a principal's token expires: infinite for one that never does, 0 for one that has."""
    return float("inf") if principal.expires_at is None else max(0.0, principal.expires_at - time.time())


class Stays:
    """The answers under way to those who have shown a token."""

    def __init__(self) -> None:
        self._scopes: dict[trio.CancelScope, str] = {}

    @contextmanager
    def stay(self, principal: Principal | None) -> Iterator[None]:
        """Answer somebody, for as long as that one may be here; what is left of the block is then skipped."""
        if principal is None or principal.via != "token":
            yield
            return
        with trio.CancelScope(deadline=trio.current_time() + time_left(principal)) as scope:
            self._scopes[scope] = principal.name
            try:
                yield
            finally:
                del self._scopes[scope]

    def end(self, name: str) -> None:
        """The token of that name admits nobody any more."""
        for scope, whose in tuple(self._scopes.items()):
            if whose == name:
                scope.cancel(reason="the token has been withdrawn")
