"""Rate limits: token buckets, one for each of many names.

Owns the arithmetic. The caller passes the time, in seconds of a monotonic clock. Must not wait.
"""

from collections import OrderedDict

BURST_SECONDS = 10.0
"""Size of a bucket, in seconds of its rate: what may be used at once after having been idle for so long."""

MOST_KEPT = 4096
"""Most buckets that are kept; of more, the one that was not used for longest is forgotten, and starts full again."""


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
        """Take tokens if there are enough; a number above `most` counts as `most`.

        Returns:
            0 if they were taken; else the seconds until there will be enough, and nothing was taken.
        """
        missing = min(number, self._most) - self._filled(now)
        if missing <= 0:
            self._level -= number
            return 0.0
        return missing / self._rate

    def take_on_credit(self, now: float, most: float) -> float | None:
        """Take a token, on credit if there is none.

        Args:
            now: the present, in seconds.
            most: tokens that may be owed at most.

        Returns:
            The seconds until the debt is paid, 0 without debt; None if as much is owed already, and nothing was taken.
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
    """Token buckets by name.

    Args:
        rate: tokens per second that flow into each; 0 for no limit.
        most: tokens that each holds; by default those of `BURST_SECONDS`, at least one.
    """

    def __init__(self, rate: float, most: float | None = None) -> None:
        self._rate = rate
        self._most = max(1.0, rate * BURST_SECONDS) if most is None else most
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, name: str, now: float, number: int = 1) -> float:
        """Take tokens from the bucket of a name. Returns 0, or seconds to wait (see `Bucket.take`)."""
        return self._of(name, now).take(now, number) if self._rate else 0.0

    def take_on_credit(self, name: str, now: float, most: float) -> float | None:
        """Take a token from the bucket of a name, on credit if need be (see `Bucket.take_on_credit`)."""
        return self._of(name, now).take_on_credit(now, most) if self._rate else 0.0

    def _of(self, name: str, now: float) -> Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= MOST_KEPT:
                self._buckets.popitem(last=False)
            bucket = self._buckets[name] = Bucket(self._rate, self._most, now)
        else:
            self._buckets.move_to_end(name)
        return bucket
