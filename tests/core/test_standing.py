"""How well a prompt does: the intervals, against published figures, and the rule of ten to one."""

import pytest

from ccexecd.core.standing import Tally, compared, difference


@pytest.mark.parametrize(
    ("successes", "runs", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_s_interval_is_the_published_one(successes, runs, low, high):
    """Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3."""
    assert Tally(successes, runs - successes).interval == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((10, 10), (0, 20), 0.6791, 1.0)],
)
def test_a_difference_is_the_published_one(one, other, low, high):
    """Newcombe 1998 (Statistics in Medicine 17, 873-890), table II, method 10."""
    tallies = [Tally(successes, runs - successes) for successes, runs in (one, other)]
    assert difference(*tallies) == pytest.approx((low, high), abs=5e-5)
    assert compared(*tallies) == "better"
    assert compared(*reversed(tallies)) == "worse"


def test_what_may_be_chance_is_unclear():
    """A few runs say little, and none say nothing."""
    assert compared(Tally(3, 0), Tally(2, 1)) == "unclear"
    assert compared(Tally(), Tally(10, 0)) == "unclear"
    assert difference(Tally(1, 0), Tally()) is None
    assert (Tally().interval, Tally().rate) == ((0.0, 1.0), None)


@pytest.mark.parametrize(
    ("successes", "failures", "missing"),
    [(10, 0, 0), (9, 0, 1), (10, 1, 0), (9, 1, 1), (19, 2, 1), (20, 2, 0), (0, 0, 10), (0, 3, 30), (100, 11, 10)],
)
def test_ten_to_one_in_ten_runs_is_fit(successes, failures, missing):
    """Neither fewer runs nor a worse ratio; and it is told what is missing."""
    tally = Tally(successes, failures)
    assert tally.is_fit == (not missing)
    assert tally.lacking.endswith(f"{missing} more successes needed") if missing else not tally.lacking
    assert Tally(successes + missing, failures).is_fit
