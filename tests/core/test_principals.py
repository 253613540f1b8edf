"""Who asks: scopes, and whose an execution is."""

import pytest

from ccexecd.core.principals import Principal, Scope, user, with_included

EVERYTHING = {Scope.OBSERVE, Scope.EXECUTE, Scope.ADMIN}


@pytest.mark.parametrize(
    ("scopes", "included"),
    [
        ([], set()),
        ([Scope.OBSERVE], {Scope.OBSERVE}),
        ([Scope.EXECUTE], {Scope.OBSERVE, Scope.EXECUTE}),
        ([Scope.ADMIN], EVERYTHING),
        ([Scope.OBSERVE, Scope.ADMIN], EVERYTHING),
    ],
)
def test_a_scope_includes_the_ones_before_it(scopes, included):
    """Whoever may run a command may see what comes of it; an admin may do everything."""
    assert with_included(scopes) == included
    principal = Principal("p", frozenset(scopes), "token")
    assert {scope for scope in Scope if principal.may(scope)} == included


@pytest.mark.parametrize("scope", Scope)
def test_everybody_sees_and_controls_what_is_theirs(scope):
    """The same name is the same principal, whatever it was recognised by."""
    one = Principal("uid:1000", {scope}, "token")
    assert one.sees("uid:1000")
    assert one.controls("uid:1000")


@pytest.mark.parametrize("scope", [Scope.OBSERVE, Scope.EXECUTE])
def test_nobody_sees_what_is_anothers(scope):
    """Neither scope reaches further than one's own."""
    one = Principal("ci", {scope}, "token")
    assert not one.sees("ci2")
    assert not one.controls("ci2")


def test_an_admin_sees_and_controls_everybody():
    """That is what the scope is for."""
    assert user(0).sees("ci")
    assert user(0).controls("ci")


def test_who_sees_all_controls_nothing_more():
    """A reader of the operators' socket looks at everything and touches nothing of others."""
    reader = user(1000, (Scope.OBSERVE,), sees_all=True)
    assert reader.sees("ci")
    assert not reader.controls("ci")
    assert not reader.may(Scope.EXECUTE)
