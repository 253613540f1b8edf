"""What is remembered, by how much runs have in common, and what may be concluded from it."""

import pytest

from ccexecd.core import experience
from ccexecd.core.experience import ACTING, CLOSENESS, COLD_STARTS, Experience, Likeness, came_to_its_end
from ccexecd.core.kinds import Category, Kind, kind_of


def kind(command: str, cwd: str = "/w") -> Kind:
    return kind_of(("sh", "-c", command), command, cwd, shell=True)


def taught(
    *commands: str, times: int = 10, seconds: float = 100.0, principal: str = "me", cwd: str = "/w"
) -> Experience:
    """Somebody who has seen these so many times."""
    known = Experience()
    for command in commands:
        for _ in range(times):
            known.learn(principal, kind(command, cwd), seconds, is_complete=True)
    return known


@pytest.mark.parametrize("category", Category)
def test_of_the_unknown_a_generous_guess_is_told_and_never_acted_on(category):
    """Every category has one, with a reason."""
    unknown = Kind(category, "x", "x", "1" * 16, "2" * 16)
    estimate = Experience().estimate("me", unknown)
    assert (estimate.likeness, estimate.confidence, estimate.may_act) == (Likeness.NONE, 0.0, False)
    assert estimate.seconds == COLD_STARTS[category].seconds >= 300
    assert COLD_STARTS[category].reason


@pytest.mark.parametrize(
    ("seen", "cwd", "likeness"),
    [
        ("make test X=1", "/w", Likeness.SAME),
        ("make test Y=2", "/w", Likeness.PLACE),
        ("make test Y=2", "/elsewhere", Likeness.FORM),
        ("make test -k", "/w", Likeness.PROGRAM),
        ("pytest -q", "/w", Likeness.CATEGORY),
        ("ls", "/w", Likeness.NONE),
    ],
)
def test_the_closest_likeness_decides(seen, cwd, likeness):
    """And only what is very close may end anything."""
    estimate = taught(seen, cwd=cwd).estimate("me", kind("make test X=1"))
    assert estimate.likeness is likeness
    assert estimate.may_act is (likeness in {Likeness.SAME, Likeness.PLACE})
    assert (estimate.bound.complete if estimate.bound else 0) == (0 if likeness is Likeness.NONE else 10)


def test_only_the_two_closest_may_ever_act():
    """However many runs there are."""
    assert {each for each in Likeness if CLOSENESS[each] >= ACTING} == {Likeness.SAME, Likeness.PLACE}


def test_closer_runs_are_used_as_soon_as_they_may_act():
    """Until then, those of the form in the same directory do."""
    known = taught("make test X=1", times=10, seconds=500)
    for number, expected in enumerate([Likeness.PLACE] * 4 + [Likeness.SAME] * 2, 1):
        known.learn("me", kind("make test X=2"), 100, is_complete=True)
        assert known.estimate("me", kind("make test X=2")).likeness is expected, number


def test_similar_runs_never_take_less_than_is_given_to_the_unknown():
    """Ten prompts answered in seconds say little of the next one; the very same one, ten times, does."""
    known = taught(*(f"claude -p 'sum {number}'" for number in range(10)), times=1, seconds=3)
    similar = known.estimate("me", kind("claude -p 'rewrite all of it'"))
    assert (similar.likeness, similar.may_act) == (Likeness.PLACE, True)
    assert similar.seconds == COLD_STARTS[Category.AGENT].seconds
    same = taught("claude -p 'sum'", seconds=3).estimate("me", kind("claude -p 'sum'"))
    assert same.seconds < 30


def test_a_few_runs_are_told_and_not_acted_on():
    """Three are worth telling, five of the same may act."""
    for times, (likeness, may_act) in {
        2: (Likeness.NONE, False),
        3: (Likeness.SAME, False),
        4: (Likeness.SAME, False),
        5: (Likeness.SAME, True),
    }.items():
        estimate = taught("make", times=times).estimate("me", kind("make"))
        assert (estimate.likeness, estimate.may_act) == (likeness, may_act)


def test_nobody_learns_from_another():
    """What one principal runs neither shows in what another is told, nor changes it."""
    known = taught("make", principal="one")
    assert known.estimate("two", kind("make")) == Experience().estimate("two", kind("make"))


def test_what_hangs_again_and_again_pushes_out_nothing():
    """A hundred hung runs later, it is still known how long the others took."""
    known = taught("make", seconds=10)
    for _ in range(100):
        known.learn("me", kind("make"), 1000, is_complete=False)
    estimate = known.estimate("me", kind("make"))
    assert (estimate.bound.complete, estimate.bound.censored) == (10, experience.MOST_CENSORED)
    assert estimate.may_act
    assert estimate.seconds <= 100


def test_the_newest_runs_count():
    """What has become slower is known as such."""
    known = taught("make", times=100, seconds=10)
    for _ in range(experience.MOST_COMPLETE):
        known.learn("me", kind("make"), 1000, is_complete=True)
    assert known.estimate("me", kind("make")).bound.median == 1000


def test_it_is_known_whether_the_machine_was_busy():
    """When it mostly was: who multiplies for a busy machine does not do so twice."""
    known = taught("make", times=4)
    for busy, expected in enumerate([False] * 4 + [True] * 3, 1):
        known.learn("me", kind("make"), 100, is_complete=True, is_busy=True)
        known.learn("me", kind("make"), 900, is_complete=False, is_busy=False)
        assert known.estimate("me", kind("make")).is_of_busy is expected, busy


def test_memory_is_bounded(monkeypatch):
    """So many groups of so many principals; who was not seen for longest is forgotten first."""
    monkeypatch.setattr(experience, "MOST_GROUPS", 20)
    monkeypatch.setattr(experience, "MOST_PRINCIPALS", 3)
    known = taught("often", times=5)
    for number in range(50):
        known.learn("me", kind(f"command{number}", f"/{number}"), 1, is_complete=True)
        known.learn("me", kind("often"), 1, is_complete=True)
        assert len(known._principals["me"]) <= 20
    assert known.estimate("me", kind("often")).likeness is Likeness.SAME
    for number in range(5):
        known.learn(f"p{number}", kind("x"), 1, is_complete=True)
    assert list(known._principals) == ["p2", "p3", "p4"]


@pytest.mark.parametrize(
    ("reason", "code", "expected"),
    [
        ("exited", 0, True),
        ("post_result", 0, True),
        ("exited", 1, False),
        ("timeout", 0, False),
        ("cancelled", 0, False),
        ("signaled", -9, False),
        ("lost", None, False),
        (None, None, False),
    ],
)
def test_which_ends_show_how_long_it_takes(reason, code, expected):
    """By itself, and successfully; what failed might have gone on."""
    assert came_to_its_end(reason, code) is expected
    assert came_to_its_end(reason, code, judged=True) is came_to_its_end(reason, code, judged=1) is expected
    assert not came_to_its_end(reason, code, judged=False)
