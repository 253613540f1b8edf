"""Who asks, and what that one may see and do.

Owns the scopes and whose an execution is. Must not know how somebody was recognised: that is the doors'. What a method
asks for is in `service.scopes`.
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
    """The scopes and all that they include."""
    return frozenset[Scope]().union(*(_INCLUDED[scope] for scope in scopes))


@attrs.frozen
class Principal:
    """Whose a connection is, and so its sessions and executions.

    Attributes:
        name: a token's name, or ``uid:N`` for a user whom the kernel has named; the same name is the same principal.
        scopes: what it may do, with what that includes.
        via: what convinced us: a token that was shown, or the kernel's word on the other end.
        uid: the user at the other end; None for a token, which any user may hold.
        sees_all: it may look at everybody's executions without being able to touch them.
        expires_at: when it ends to be let in, in seconds since the epoch; None for never.
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
        """Whether what belongs to a principal of that name is there for this one."""
        return self.sees_only in (None, owner)

    @property
    def sees_only(self) -> str | None:
        """Whose executions are there for this one; None: everybody's."""
        return None if self.sees_all or Scope.ADMIN in self.scopes else self.name

    def controls(self, owner: str) -> bool:
        """Whether this one may act on what belongs to a principal of that name, as far as its scopes go."""
        return owner == self.name or Scope.ADMIN in self.scopes


def user(uid: int, scopes: Iterable[Scope] = (Scope.ADMIN,), *, sees_all: bool = False) -> Principal:
    """A user whom the kernel has named at the other end of a connection."""
    return Principal(f"uid:{uid}", frozenset(scopes), "peer", uid, sees_all)
