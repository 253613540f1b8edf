"""The arithmetic of time-outs: quantiles of censored runs, margins, accidents, and bounds on what hung runs teach."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccexecd.core.estimate import GROWTH, SPAN, bound, confidence, observed, percentile, quantile

SECONDS = st.floats(0.001, 1e6)


def complete(*seconds: float) -> list[float]:
    return [observed(each, is_complete=True) for each in seconds]


def censored(*seconds: float) -> list[float]:
    return [observed(each, is_complete=False) for each in seconds]


@pytest.mark.parametrize(
    ("runs", "share", "expected"),
    [
        ([1, 2, 3, 4], 0.5, 2),
        ([1, 2, 3, 4], 0.75, 3),
        ([1, 2, 3, 4], 0.95, 4),
        (list(range(1, 101)), 0.95, 95),
        ([1, -2, 3, 4], 0.5, 3),  # 3/4, then 3/8 are left
        ([-1, -2, 3, 4], 0.5, 3),
        ([1, 2, -3, -4], 0.75, 4),  # half of them took longer than 2: nobody knows how much
        ([1, -9], 0.95, 9),
    ],
)
def test_the_quantile_of_runs_that_were_ended(runs, share, expected):
    """The product-limit estimator, worked out by hand; beyond what was observed it is the longest."""
    assert quantile(runs, share) == expected


def test_nobody_knows_without_a_run_to_its_end():
    """Runs that were all ended say nothing that could end another one."""
    assert bound([]) is None
    assert bound(censored(1, 2, 3)) is None


def test_few_runs_make_a_generous_bound_and_many_a_closer_one():
    """Of the same runs again and again: ever less room for what has not been seen, and always some."""
    bounds = [bound(complete(*[10.0] * number)).seconds for number in (1, 3, 10, 100)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > 50
    assert 15 < bounds[-1] < 25


def test_one_wild_run_is_an_accident_and_two_of_twenty_are_a_habit():
    """A run of an hour among those of 5 s moves nothing; when it happens again, it counts."""
    usual = [5.0, 5.5, 4.8, 5.1, 5.2] * 4
    plain = bound(complete(*usual)).seconds
    assert bound(complete(*usual, 3600)).seconds == pytest.approx(plain, rel=0.05)
    assert bound(complete(*usual, 3600, 3500)).seconds > 3600


def test_two_sorts_of_runs_count_both():
    """A cold cache now and then: the bound is beyond the slow ones, though the spread of most is small."""
    assert bound(complete(*[1.0] * 40, *[100.0] * 4)).seconds >= 150


def test_a_run_that_was_ended_took_at_least_that_long():
    """It raises the bound, and counts apart."""
    usual = complete(*[100.0] * 10)
    raised = bound(usual + censored(250, 260))
    assert raised.seconds > bound(usual).seconds
    assert (raised.complete, raised.censored) == (10, 2)
    assert bound(usual + censored(1, 1, 1)).seconds == bound(usual).seconds


def test_what_fails_early_does_not_shorten_the_bound():
    """Thirty failures at once and one success of an hour: the next success may take an hour."""
    assert bound(complete(3600) + censored(*[0.1] * 30)).seconds > 3600


def test_hung_runs_teach_no_ever_longer_bounds():
    """Each hangs until its time-out, which teaches the next: it comes to rest within what was really seen."""
    runs = complete(*[10.0, 11.0, 12.0] * 4)
    timeouts = []
    for _ in range(200):
        timeouts.append(bound(runs).seconds)
        runs = runs[:12] + [*runs[12:], *censored(timeouts[-1])][-10:]
    assert timeouts[-1] == timeouts[-50] <= max(GROWTH * 1.5, SPAN) * 12


@given(st.lists(SECONDS, min_size=1, max_size=60), st.lists(SECONDS, max_size=20))
def test_the_bound_lies_within_what_was_seen(finished, ended):
    """Never beyond ten times the longest run to its end, which is not an accident; never below the median."""
    found = bound(complete(*finished) + censored(*ended))
    assert found.median <= found.seconds * (1 + 1e-9)
    assert found.seconds <= SPAN * max(finished) * (1 + 1e-9)


@given(st.lists(SECONDS, min_size=1, max_size=40), st.floats(0.01, 100))
def test_it_knows_no_unit(finished, factor):
    """Ten times as long runs make ten times as long a bound."""
    one, other = bound(complete(*finished)), bound([factor * run for run in complete(*finished)])
    assert other.seconds == pytest.approx(factor * one.seconds)


@pytest.mark.parametrize("deviation", [0.1, 0.3, 0.6, 1.0])
def test_few_of_the_runs_to_come_are_beyond_it(deviation):
    """Of durations as programs have them, from 10 runs: far less than one in twenty, whatever their spread."""
    chance = random.Random(7)
    beyond = 0
    for _ in range(200):
        known = bound(complete(*(chance.lognormvariate(2, deviation) for _ in range(10)))).seconds
        beyond += sum(chance.lognormvariate(2, deviation) > known for _ in range(10))
    assert beyond / 2000 < 0.02


def test_confidence_grows_with_the_runs():
    """By Wilks: 1 - 0.9^n."""
    assert confidence(0) == 0
    assert confidence(5) == pytest.approx(0.40951)
    assert confidence(44) > 0.99


def test_percentiles_of_plain_numbers():
    """The smallest number that is not less than the share."""
    assert [percentile([1, 2, 3, 4], share) for share in (0.0, 0.25, 0.5, 0.51, 1.0)] == [1, 1, 2, 3, 4]
