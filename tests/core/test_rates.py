"""Token buckets: the arithmetic of how often."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccexecd.core import rates
from ccexecd.core.rates import BURST_SECONDS, Bucket, Buckets


def test_a_burst_and_then_the_rate():
    """Somebody who was idle may use ten seconds' worth at once, then as much as flows in."""
    buckets = Buckets(2.0)
    assert [buckets.take("a", 0.0) for _ in range(20)] == [0.0] * 20
    assert buckets.take("a", 0.0) == 0.5
    assert buckets.take("a", 0.25) == 0.25
    assert buckets.take("a", 0.5) == 0.0
    assert buckets.take("a", 0.5) == 0.5


def test_who_waits_as_told_gets_it():
    """The seconds that are told are enough, and a refusal costs nothing."""
    bucket = Bucket(3.0, 1.0, 100.0)
    assert bucket.take(100.0) == 0.0
    wait = bucket.take(100.0)
    assert bucket.take(100.0) == wait
    assert bucket.take(100.0 + wait) == pytest.approx(0.0, abs=1e-9)


def test_each_has_its_own():
    """What one uses up, another one still has."""
    buckets = Buckets(1.0, 1.0)
    assert buckets.take("a", 0.0) == 0.0
    assert buckets.take("a", 0.0) == 1.0
    assert buckets.take("b", 0.0) == 0.0


def test_no_rate_is_no_limit():
    """0 switches it off, and then nobody is kept in mind."""
    buckets = Buckets(0.0)
    assert not any(buckets.take("a", 0.0) for _ in range(10_000))
    assert not buckets._buckets


def test_a_rate_below_one_a_burst_still_lets_one_through():
    """Otherwise nobody would ever get anything."""
    buckets = Buckets(0.01)
    assert buckets.take("a", 0.0) == 0.0
    assert buckets.take("a", 0.0) == pytest.approx(100.0)


def test_more_than_a_bucket_holds():
    """Takes all of a full one, and is paid off before anything else: else it would never be possible."""
    bucket = Bucket(1.0, 10.0, 0.0)
    assert bucket.take(0.0, 25) == 0.0
    assert bucket.take(0.0) == 16.0
    assert bucket.take(16.0) == 0.0


def test_a_debt():
    """On credit, each one waits longer, up to what may be owed; a refusal does not make it worse."""
    bucket = Bucket(2.0, 2.0, 0.0)
    assert [bucket.take_on_credit(0.0, 3.0) for _ in range(6)] == [0.0, 0.0, 0.5, 1.0, 1.5, None]
    assert bucket.take_on_credit(0.5, 3.0) == 1.5
    assert bucket.take_on_credit(100.0, 3.0) == 0.0


def test_not_more_are_kept_than_there_is_room_for(monkeypatch):
    """A flood of names forgets the one that was seen least lately, and never grows."""
    monkeypatch.setattr(rates, "MOST_KEPT", 3)
    buckets = Buckets(1.0, 1.0)
    for name in ("a", "b", "c", "a", "d"):
        buckets.take(name, 0.0)
    assert list(buckets._buckets) == ["c", "a", "d"]
    assert buckets.take("a", 0.0) == 1.0
    assert buckets.take("b", 0.0) == 0.0


@given(st.floats(0.01, 1e5), st.lists(st.tuples(st.floats(0, 50), st.integers(1, 3)), min_size=1, max_size=200))
def test_never_more_than_the_burst_and_the_rate(rate, asks):
    """Whatever the times between: in all, no more than was there at first and has flowed in since, and one ask."""
    buckets, now, taken = Buckets(rate), 0.0, 0
    for pause, number in asks:
        now += pause
        if not buckets.take("a", now, number):
            taken += number
    assert taken <= max(1.0, rate * BURST_SECONDS) + rate * now + 3
