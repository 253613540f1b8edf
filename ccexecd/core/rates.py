"""How often somebody may do something: token buckets, and what a wrong answer costs.

Owns the arithmetic. Time is given, in seconds of any clock that does not go back; nothing here waits.
"""

from collections import OrderedDict

BURST_SECONDS = 10.0
"""Seconds of its rate that somebody may use at once, after having been idle for so long."""

MOST_KEPT = 4096
"""Those who are kept in mind at a time; of more, who has not been seen for longest is forgotten, and starts anew."""


class Bucket:
    """One token bucket: full at first.

    Args:
        rate: tokens that flow in, per second.
        most: tokens that it holds.
        now: the present.
    """

    __slots__ = ("_at", "_level", "_most", "_rate")

    def __init__(self, rate: float, most: float, now: float) -> None:
        self._rate = rate
        self._most = most
        self._level = most
        self._at = now

    def take(self, now: float, number: int = 1) -> float:
        """Take tokens, if they are there; of more than it can hold, all that it can.

        Returns:
            0 when they were; else the seconds until they will be, and nothing has been taken.
        """
        missing = min(number, self._most) - self._filled(now)
        if missing <= 0:
            self._level -= number
            return 0.0
        return missing / self._rate

    def owe(self, now: float, most: float) -> float | None:
        """Take a token, on credit where there is none.

        Args:
            now: the present.
            most: tokens that may be owed.

        Returns:
            The seconds until the debt is paid, 0 where there is none; None when that much is owed already, and
            nothing has been taken.
        """
        if self._filled(now) - 1 < -most:
            return None
        self._level -= 1
        return max(0.0, -self._level / self._rate)

    def _filled(self, now: float) -> float:
        self._level = min(self._most, self._level + (now - self._at) * self._rate)
        self._at = now
        return self._level


class Buckets:
    """A bucket for each of many, by name.

    Args:
        rate: tokens per second for each; 0 is without limit.
        most: tokens that each holds; not given: those of `BURST_SECONDS`, one at least.
    """

    def __init__(self, rate: float, most: float | None = None) -> None:
        self._rate = rate
        self._most = max(1.0, rate * BURST_SECONDS) if most is None else most
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, name: str, now: float, number: int = 1) -> float:
        """Take somebody's tokens. Returns 0, or the seconds until they will be there (see `Bucket.take`)."""
        return self._of(name, now).take(now, number) if self._rate else 0.0

    def owe(self, name: str, now: float, most: float) -> float | None:
        """Take somebody's token, on credit if need be (see `Bucket.owe`)."""
        return self._of(name, now).owe(now, most) if self._rate else 0.0

    def _of(self, name: str, now: float) -> Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= MOST_KEPT:
                self._buckets.popitem(last=False)
            bucket = self._buckets[name] = Bucket(self._rate, self._most, now)
        else:
            self._buckets.move_to_end(name)
        return bucket
