"""How well a version of a prompt does: its share of successes, the confidence in it, and fitness for production.

Owns the arithmetic and the rule. Must not know where anything is kept.
"""

import math

import attrs

RATIO = 10
"""Successes for each failure that a version needs for production."""

LEAST_RUNS = 10
"""Least verified runs that a version needs for production."""

_Z = 1.959963984540054  # of the normal distribution, for 95 % between -z and z


@attrs.frozen
class Tally:
    """The counts of a version's verified runs.

    Attributes:
        successes, failures: number of runs that succeeded, or failed.
    """

    successes: int = 0
    failures: int = 0

    @property
    def runs(self) -> int:
        """Number of verified runs."""
        return self.successes + self.failures

    @property
    def is_fit(self) -> bool:
        """Whether it is fit for production: `RATIO` successes for each failure, in at least `LEAST_RUNS` runs."""
        return self.runs >= LEAST_RUNS and self.successes >= RATIO * self.failures

    @property
    def lacking(self) -> str:
        """What is missing for production, in words; empty if nothing is."""
        if self.is_fit:
            return ""
        needed = max(RATIO * self.failures, LEAST_RUNS - self.failures)
        return (
            f"{self.successes} to {self.failures} in {self.runs} runs: {needed - self.successes} more successes needed"
        )

    @property
    def rate(self) -> float | None:
        """Share of successes; None without runs."""
        return self.successes / self.runs if self.runs else None

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true share of successes is, with 95 % confidence: Wilson's score interval.

        E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927), 209-212.
        """
        if not self.runs:
            return 0.0, 1.0
        n, share, square = self.runs, self.successes / self.runs, _Z * _Z
        middle = (share + square / (2 * n)) / (1 + square / n)
        reach = _Z * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
        low = 0.0 if not self.successes else max(0.0, middle - reach)
        return low, 1.0 if not self.failures else min(1.0, middle + reach)


def difference(one: Tally, other: Tally) -> tuple[float, float] | None:
    """Return the difference of two shares of successes, as a 95 % interval; None if one of them has no runs.

    R. G. Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine 17
    (1998), 873-890, method 10: the square-and-add of Wilson's intervals.
    """
    if one.rate is None or other.rate is None:
        return None
    (low, high), (other_low, other_high) = one.interval, other.interval
    apart = one.rate - other.rate
    down = math.hypot(one.rate - low, other_high - other.rate)
    up = math.hypot(high - one.rate, other.rate - other_low)
    return max(-1.0, apart - down), min(1.0, apart + up)


def compared(one: Tally, other: Tally) -> str:
    """Whether one does better than another: `better`, `worse`, or `unclear`, as long as chance may explain it."""
    apart = difference(one, other)
    if apart is None or apart[0] <= 0 <= apart[1]:
        return "unclear"
    return "better" if apart[0] > 0 else "worse"
