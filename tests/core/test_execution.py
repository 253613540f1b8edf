"""What can happen to one execution: the table, read independently of the source, and what an outcome tells."""

import itertools

import attrs
import pytest

from ccexecd.core.execution import (
    TRANSITIONS,
    Event,
    Exit,
    IllegalTransitionError,
    Outcome,
    Reason,
    ResourceUse,
    State,
    judge,
    step,
)

ADMITTED = """
    HELD        release    QUEUED
    HELD        terminate  TERMINATING
    HELD        end        FINISHED
    QUEUED      hold       HELD
    QUEUED      admit      STARTING
    QUEUED      terminate  TERMINATING
    QUEUED      end        FINISHED
    STARTING    spawned    RUNNING
    STARTING    terminate  TERMINATING
    STARTING    end        FINISHED
    RUNNING     pause      PAUSED
    RUNNING     terminate  TERMINATING
    RUNNING     end        FINISHED
    PAUSED      resume     RUNNING
    PAUSED      terminate  TERMINATING
    PAUSED      end        FINISHED
    TERMINATING spawned    TERMINATING
    TERMINATING terminate  TERMINATING
    TERMINATING end        FINISHED
"""
"""Every pair that is legal, and where it leads: a change of the table is a change of this one too."""

LEGAL = {
    (State(state), Event(event)): State(after) for state, event, after in map(str.split, ADMITTED.strip().splitlines())
}
ILLEGAL = sorted(set(itertools.product(State, Event)) - LEGAL.keys(), key=str)


@pytest.mark.parametrize(("state", "event"), LEGAL, ids=lambda each: each.value)
def test_a_legal_event_leads_where_the_table_says(state, event):
    """Each legal pair has exactly one successor."""
    assert step(state, event) is LEGAL[state, event]


@pytest.mark.parametrize(("state", "event"), ILLEGAL, ids=lambda each: each.value)
def test_an_illegal_event_is_refused_by_both_names(state, event):
    """Illegal pairs raise an error that names event and state, as a sentence and as attributes."""
    with pytest.raises(IllegalTransitionError) as caught:
        step(state, event)
    assert (caught.value.state, caught.value.event) == (state, event)
    assert str(caught.value) == f"cannot {event.value} an execution that is {state.value}"


def test_the_table_has_a_row_for_every_state():
    """No state is missing, so that a lookup can only fail for the event."""
    assert list(TRANSITIONS) == list(State)


def test_every_state_but_the_last_can_end():
    """Nothing is stuck: END and TERMINATE are legal wherever an execution is live, and nothing is after the end."""
    for state in State:
        live = state is not State.FINISHED
        assert ((state, Event.END) in LEGAL) is live
        assert ((state, Event.TERMINATE) in LEGAL) is live
    assert TRANSITIONS[State.FINISHED] == {}


def test_every_state_can_be_reached():
    """The table has no state that nothing leads to."""
    reached = {State.QUEUED}
    for _ in State:
        reached |= {after for (state, _), after in LEGAL.items() if state in reached}
    assert reached == set(State)


def test_reasons_are_those_of_the_contract():
    """Every reason of the contract, no other, spelled the same."""
    contract = (
        "exited, signaled, timeout, stalled, cancelled, disconnected, session_expired, shutdown, post_result, limit, "
        "lost, spawn_failed"
    )
    assert [reason.value for reason in Reason] == contract.split(", ")


def test_states_are_named_as_on_the_wire():
    """The name in the code is the name that clients read."""
    assert [(state.name, state.value) for state in State] == [
        (name, name) for name in ("HELD", "QUEUED", "STARTING", "RUNNING", "PAUSED", "TERMINATING", "FINISHED")
    ]


@pytest.mark.parametrize(
    ("code", "signal", "status"),
    [
        (0, None, "completed"),
        (1, None, "failed"),
        (255, None, "failed"),
        (-9, 9, "failed"),
        (-15, 15, "failed"),
        (None, None, "failed"),
    ],
)
def test_an_outcome_is_completed_for_exit_code_zero_only(code, signal, status):
    """What is not known to be 0 has failed; -N is signal N."""
    outcome = Outcome(code, Reason.EXITED)
    assert (outcome.signal, outcome.status) == (signal, status)


def test_an_outcome_cannot_change():
    """A fact that was told once stays as it was told."""
    outcome = Outcome(0, Reason.EXITED)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        outcome.exit_code = 1


def test_an_outcome_knows_nothing_that_it_was_not_told():
    """The defaults claim no use, no leftovers and no error."""
    assert Outcome(None, Reason.LOST) == Outcome(None, Reason.LOST, ResourceUse(0.0, 0.0, 0), (), (), "")


@pytest.mark.parametrize("intent", [None, *Reason])
@pytest.mark.parametrize("exited", [Exit(None), Exit(None, supervision_lost=True), Exit(-9, supervision_lost=True)])
def test_an_end_that_nobody_saw_is_lost(exited, intent):
    """Whatever was intended: an exit that could not be learnt is never told as anything else."""
    assert judge(exited, intent) is Reason.LOST


@pytest.mark.parametrize("code", [0, 3])
def test_an_exit_code_is_its_own_though_the_keeper_is_lost(code):
    """Whoever cleans up after a keeper sends KILL: a program that exits did so by itself."""
    assert judge(Exit(code, supervision_lost=True), None) is Reason.EXITED


@pytest.mark.parametrize("name", ["cpu_seconds", "memory_bytes", "file_bytes"])
def test_a_limit_is_the_reason_where_the_kernel_says_so(name):
    """Unless we had decided otherwise before."""
    assert judge(Exit(-9, limit=name), None) is Reason.LIMIT
    assert judge(Exit(-9, limit=name), Reason.CANCELLED) is Reason.CANCELLED


@pytest.mark.parametrize("intent", Reason)
@pytest.mark.parametrize("code", [0, 1, 143, -9, -15])
def test_what_we_decided_is_why_it_ended(code, intent):
    """A recorded decision is the reason, whichever way the leader then went."""
    assert judge(Exit(code), intent) is intent


@pytest.mark.parametrize(("code", "reason"), [(0, "exited"), (1, "exited"), (255, "exited"), (-1, "signaled")])
def test_without_a_decision_the_exit_is_the_reason(code, reason):
    """An exit status means that it exited, a negative one that a signal ended it."""
    assert judge(Exit(code), None) is Reason(reason)
