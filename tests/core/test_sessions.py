"""What a parting connection means for each execution, as the contract's section says it."""

import pytest

from ccexecd.core.sessions import REASONS, Parting, ends

RULES = {
    ("auto", Parting.CLOSED): True,  # "its live executions are cancelled now"
    ("auto", Parting.CUT): False,  # "the session stays for `resume_window`"
    ("auto", Parting.EXPIRED): True,  # "when the window ends without a resume, the session's scope is cancelled"
    ("auto", Parting.SHUTDOWN): True,
    ("cancel", Parting.CLOSED): True,  # "ends at once in both cases"
    ("cancel", Parting.CUT): True,
    ("cancel", Parting.EXPIRED): True,
    ("cancel", Parting.SHUTDOWN): True,
    ("detach", Parting.CLOSED): False,  # "outlives its session"
    ("detach", Parting.CUT): False,
    ("detach", Parting.EXPIRED): False,
    ("detach", Parting.SHUTDOWN): True,  # nothing outlives the daemon
}


@pytest.mark.parametrize(("on_disconnect", "parting"), RULES)
def test_a_parting_ends_what_the_contract_says(on_disconnect, parting):
    """Each pair of wish and parting, one by one."""
    assert ends(on_disconnect, parting) is RULES[on_disconnect, parting]


def test_the_rules_are_complete():
    """The table above has every parting."""
    assert {parting for _, parting in RULES} == set(Parting)


def test_every_parting_has_its_reason():
    """What a parting ends is told why, in the contract's words."""
    assert {parting.value: REASONS[parting].value for parting in Parting} == {
        "closed": "disconnected",
        "cut": "disconnected",
        "expired": "session_expired",
        "shutdown": "shutdown",
    }
