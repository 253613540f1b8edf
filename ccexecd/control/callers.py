"""Who may use the operator's door, and for what.

Owns judging a caller by the credentials that the kernel reports: root and the daemon's own user may do everything;
members of the groups that the configuration names may look, or do everything. Must not open a socket: listener.py does.
"""

import errno
import os
from collections.abc import Collection, Iterable

import attrs

from ccexecd.control.listener import PeerCredentials
from ccexecd.core.principals import Principal, Scope, user


@attrs.frozen
class Groups:
    """Groups, by gid, whose members may use the control socket.

    Attributes:
        read: Groups whose members may look at everything.
        write: Groups whose members may do everything.
    """

    read: frozenset[int] = frozenset()
    write: frozenset[int] = frozenset()

    @classmethod
    def named(cls, read: Iterable[str], write: Iterable[str]) -> "Groups":
        """Look groups up.

        Args:
            read: names or numbers of groups whose members may look.
            write: names or numbers of groups whose members may do everything.

        Raises:
            OSError: there is no such group.
        """
        return cls(frozenset(map(_gid, read)), frozenset(map(_gid, write)))

    @property
    def all(self) -> frozenset[int]:
        """The gids of all groups that may connect."""
        return self.read | self.write


def principal_of(who: PeerCredentials, member_of: Collection[int], groups: Groups) -> Principal | None:
    """The principal of a caller, with its scopes; None if the caller may do nothing.

    Args:
        who: credentials of the process at the other end.
        member_of: gids of the groups of that process.
        groups: the groups whose members may call.
    """
    if who.uid in (0, os.geteuid()) or groups.write.intersection(member_of):
        return user(who.uid)
    if groups.read.intersection(member_of):
        return user(who.uid, (Scope.OBSERVE,), sees_all=True)
    return None


def _gid(name: str) -> int:
    import grp  # noqa: PLC0415  # only who names a group pays for it

    try:
        return grp.getgrgid(int(name)).gr_gid if name.isdecimal() else grp.getgrnam(name).gr_gid
    except (KeyError, OverflowError):
        text = f"there is no group {name!r}; correct control_read_groups or control_write_groups"
        raise OSError(errno.EINVAL, text) from None
