"""Who may use the operators' door, and for what."""

import grp
import os

import pytest

from ccexecd.control.callers import Groups, principal_of
from ccexecd.control.listener import PeerCredentials
from ccexecd.core.principals import Scope, user

GROUPS = Groups(read=frozenset({10}), write=frozenset({20}))


def caller(uid: int) -> PeerCredentials:
    return PeerCredentials(pid=1, uid=uid, gid=0)


@pytest.mark.parametrize(
    ("uid", "own", "may"), [(0, 1000, True), (1000, 1000, True), (1001, 1000, False), (1, 0, False)]
)
def test_root_and_the_daemons_own_user_may_do_everything(monkeypatch, uid, own, may):
    """Whose daemon it is decides, and root always may; a group that is not named gives nobody anything."""
    monkeypatch.setattr(os, "geteuid", lambda: own)
    assert principal_of(caller(uid), {0, 1000}, Groups()) == (user(uid) if may else None)


@pytest.mark.parametrize(
    ("member_of", "scopes", "sees_all"),
    [
        ({10}, {Scope.OBSERVE}, True),
        ({20}, set(Scope), False),
        ({10, 20}, set(Scope), False),
        ({10, 11}, {Scope.OBSERVE}, True),
    ],
)
def test_members_of_a_group_that_is_named(member_of, scopes, sees_all):
    """One may look at everything, the other do everything; whoever is in both may do the more."""
    principal = principal_of(caller(4711), member_of, GROUPS)
    assert (principal.name, principal.scopes, principal.sees_all) == ("uid:4711", scopes, sees_all)


@pytest.mark.parametrize("member_of", [set(), {0}, {11}])
def test_anybody_else_is_nobody(member_of):
    """Root's group is a group like any other."""
    assert principal_of(caller(4711), member_of, GROUPS) is None


def test_groups_are_found_by_name_and_by_number():
    """As a person writes them, and as a machine without names has them."""
    known = grp.getgrall()[0]
    assert Groups.named([known.gr_name], [str(known.gr_gid)]) == Groups({known.gr_gid}, {known.gr_gid})
    assert Groups.named([known.gr_name], []).all == {known.gr_gid}


@pytest.mark.parametrize("name", ["no-such-group", "999999999999", "4294967290"])
def test_a_group_that_there_is_not(name):
    """A slip would let nobody in, or somebody else: it is refused with its name."""
    with pytest.raises(OSError, match=f"there is no group '{name}'; correct control_read_groups or"):
        Groups.named([name], [])
