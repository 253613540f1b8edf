"""How long a command may take, from how long others took: the arithmetic.

Theory of operation. A run that came to its end by itself, successfully, is an observation of how long the command
takes. Any other (ended by its time-out, cancelled, failed half-way) says only that it would have taken *at least*
that long: it is censored, and counts as such (Kaplan and Meier, "Nonparametric Estimation from Incomplete
Observations", JASA 53, 1958). Durations of programs are skewed and spread over orders of magnitude, so everything is
done on their logarithms.

The time-out is the larger of two, since each is wrong where the other is right:

- the 95 % quantile of the observations times `MARGIN`: right where there are two sorts of runs (a cold cache, a warm
  one), of which a spread around the middle knows nothing;
- the median and three standard deviations: right where there are few observations, whose largest is no bound of
  anything. The deviation is 1.4826 times the median absolute deviation, which one wild value does not move (Rousseeuw
  and Croux, "Alternatives to the Median Absolute Deviation", JASA 88, 1993). With n observations it is taken 1 +
  2/sqrt(n) times.

A value alone beyond 3.5 such deviations is an accident and passed over (Iglewicz and Hoaglin, "How to Detect and Handle
Outliers", ASQC 1993); more than one of twenty are a habit, and count. Runs that were ended teach no longer and longer
time-outs: what they say is cut at `GROWTH` times the longest run that came to its end, and nothing is more than `SPAN`
times that one.

Owns these rules. Must not know commands.
"""

import math
from collections.abc import Iterable, Sequence

import attrs

QUANTILE = 0.95
"""Share of the runs that end within the quantile; `MARGIN` is for the rest."""

MARGIN = 1.5
"""Factor from that quantile to the time-out."""

DEVIATIONS = 3.0
"""Deviations from the median to the time-out: 0.13 % of a normal distribution lie beyond."""

LEAST_DEVIATION = 0.2
"""Least deviation, of natural logarithms, which is a factor of 1.22: programs that have not varied so far still may."""

FEW = 4.0
"""With n observations, the deviations are taken 1 + FEW/n times: from n = 5 on within a quarter of what Student's t
distribution asks for the next value of a normal one whose spread is known from n values only."""

OUTLIER = 3.5
"""Deviations beyond which a value is an outlier."""

OUTLIERS = 20
"""One of so many observations may be ignored as an accident."""

LEAST_FOR_OUTLIERS = 5
"""Least observations for telling that one is far from the others."""

GROWTH = 4.0
"""Censored runs count at most as this many times the longest complete run."""

SPAN = 10.0
"""No time-out is more than this many times the longest complete run."""

COVERED = 0.9
"""Share of future runs that are to be no longer than the longest past run; `confidence` is the probability of that."""

_LEAST = 0.001  # seconds: what takes less is all the same


@attrs.frozen
class Bound:
    """How long a command may take.

    Attributes:
        seconds: time-out in seconds, before any floor.
        quantile: seconds within which the share `QUANTILE` of the runs ended.
        median: seconds within which half of the runs ended.
        complete: number of runs that ended by themselves, successfully.
        censored: number of runs that were ended, or failed.
    """

    seconds: float
    quantile: float
    median: float
    complete: int
    censored: int


def observed(seconds: float, *, is_complete: bool) -> float:
    """Return a run as this module keeps it: its seconds, negated if they are only a lower bound (censored)."""
    return max(seconds, _LEAST) if is_complete else -max(seconds, _LEAST)


def bound(runs: Iterable[float]) -> Bound | None:
    """Work out how long a command may take from its past runs.

    Args:
        runs: past runs as `observed` gives them, in any order.

    Returns:
        The bound; None if no run is complete.
    """
    ordered = sorted(runs, key=abs)
    complete = [run for run in ordered if run > 0]
    if not complete:
        return None
    median = _median(complete)
    logarithms = [math.log(run / median) for run in complete]
    deviation = max(1.4826 * _median(sorted(map(abs, logarithms))), LEAST_DEVIATION)
    passed_over = _outliers(logarithms, deviation)
    if passed_over:
        accidents = set(complete[-passed_over:])
        ordered = [run for run in ordered if run not in accidents]
    longest = complete[-1 - passed_over]
    high = min(quantile(ordered), GROWTH * longest)
    spread = median * math.exp(min(DEVIATIONS * deviation * (1 + FEW / len(complete)), 50.0))
    seconds = min(max(MARGIN * high, spread), SPAN * longest)
    return Bound(seconds, high, median, len(complete), sum(run < 0 for run in ordered))


def quantile(ordered: Sequence[float], share: float = QUANTILE) -> float:
    """The quantile of runs some of which are censored, by the product-limit estimator of Kaplan and Meier.

    Args:
        ordered: runs by their seconds.
        share: which quantile, from 0 to 1.

    Returns:
        Seconds; where the longest runs are censored, so that it lies beyond all, the longest.
    """
    surviving, at_risk = 1.0, len(ordered)
    for run in ordered:
        if run > 0:
            surviving *= 1 - 1 / at_risk
            if surviving <= 1 - share + 1e-9:
                return run
        at_risk -= 1
    return abs(ordered[-1])


def confidence(complete: int) -> float:
    """Return the probability that the longest of so many runs is longer than `COVERED` of all future runs.

    That is 1 - COVERED^n, whatever their distribution is (Wilks, "Determination of Sample Sizes for Setting Tolerance
    Limits", Annals of Mathematical Statistics 12, 1941).
    """
    return 1 - COVERED**complete


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return a percentile of numbers in ascending order, not empty: the smallest one with that share up to it."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _outliers(logarithms: Sequence[float], deviation: float) -> int:
    """Return how many of the largest observations are to be ignored as accidents."""
    if len(logarithms) < LEAST_FOR_OUTLIERS:
        return 0
    most = max(1, len(logarithms) // OUTLIERS)
    beyond = sum(each > OUTLIER * deviation for each in logarithms)
    return beyond if beyond <= most else 0
