"""Principals: who sends requests, and what they may see and do.

Owns the scopes, and who may see or control an execution. Must not know how a principal was authenticated, which the
doors do. The scope that a method needs is in `service.scopes`.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Literal

import attrs


class Scope(Enum):
    """A right. Each includes the ones before it."""

    OBSERVE = "observe"
    """Look at the daemon, and at what is one's own."""

    EXECUTE = "execute"
    """Run commands, and control what is one's own."""

    ADMIN = "admin"
    """Everything, others' included."""


_INCLUDED = {
    Scope.OBSERVE: frozenset({Scope.OBSERVE}),
    Scope.EXECUTE: frozenset({Scope.OBSERVE, Scope.EXECUTE}),
    Scope.ADMIN: frozenset(Scope),
}


def with_included(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """Return the scopes and all that they include."""
    return frozenset[Scope]().union(*(_INCLUDED[scope] for scope in scopes))


@attrs.frozen
class Principal:
    """The owner of a connection, and of the sessions and executions that are made on it.

    Attributes:
        name: a token's name, or ``uid:N`` for a user whom the kernel has named; the same name is the same principal.
        scopes: its scopes, with those that they include.
        via: how it was authenticated: by a token, or by the kernel, which names the user at the other end.
        uid: id of the user at the other end; None for a token, which any user may hold.
        sees_all: it may see everybody's executions, even if it may not control them.
        expires_at: when its token expires, in seconds since the epoch; None for never.
    """

    name: str
    scopes: frozenset[Scope] = attrs.field(converter=with_included)
    via: Literal["token", "peer"]
    uid: int | None = None
    sees_all: bool = False
    expires_at: float | None = None

    def may(self, scope: Scope) -> bool:
        """Whether it has a scope."""
        return scope in self.scopes

    def sees(self, owner: str) -> bool:
        """Whether it may see what belongs to the principal of this name."""
        return self.sees_only in (None, owner)

    @property
    def sees_only(self) -> str | None:
        """Name of the only principal whose executions it may see; None if it may see everybody's."""
        return None if self.sees_all or Scope.ADMIN in self.scopes else self.name

    def controls(self, owner: str) -> bool:
        """Whether it may control what belongs to the principal of this name; its scopes may still forbid the deed."""
        return owner == self.name or Scope.ADMIN in self.scopes


def user(uid: int, scopes: Iterable[Scope] = (Scope.ADMIN,), *, sees_all: bool = False) -> Principal:
    """Return the principal of a user whom the kernel has named at the other end of a connection."""
    return Principal(f"uid:{uid}", frozenset(scopes), "peer", uid, sees_all)
