"""Counts refusals by reason, and logs them without flooding the log.

Owns the counts, and the choice of what is logged: for each reason and peer the first refusal, and then one each hour,
with how many there were in between. Must not know what is refused, or where.
"""

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

log = logging.getLogger(__name__)

INTERVAL = 3600.0
"""Seconds until a refusal of the same peer for the same reason is logged again."""

MOST_KEPT = 1024
"""Pairs of reason and peer that are remembered; beyond that the oldest are forgotten, and would be logged again."""


class Refusals:
    """The refusals since the daemon's start.

    Args:
        clock: returns monotonic seconds.

    Attributes:
        counts: reason -> how many refusals.
        on_refusal: called for each refusal with its reason, its message and the peer.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[str] = Counter()
        self.on_refusal: Callable[[str, str, str], None] = lambda _reason, _message, _whose: None
        self._clock = clock
        self._told: OrderedDict[tuple[str, str], list[float]] = OrderedDict()  # when, and how many since

    def record(
        self, reason: str, whose: str, message: str, *, audited: tuple[str, str] | None = None, **facts: object
    ) -> None:
        """Count a refusal, and log it unless a similar one was logged lately.

        Args:
            reason: the reason, in one word.
            whose: what all connections of the peer have in common, such as its network or its user.
            message: what to log; it must not hold any part of a credential.
            audited: reason and peer for `on_refusal`, if they are to differ from `reason` and `whose`.
            facts: further fields of the log line.
        """
        self.counts[reason] += 1
        kind, peer = audited or (reason, whose)
        self.on_refusal(kind, message, peer)
        now, key = self._clock(), (reason, whose)
        told = self._told.get(key)
        if told is not None and now - told[0] < INTERVAL:
            told[1] += 1
            return
        if told is None and len(self._told) >= MOST_KEPT:
            self._told.popitem(last=False)
        since = f" (and {told[1]:.0f} times more since this was told last)" if told is not None and told[1] else ""
        self._told[key] = [now, 0]
        self._told.move_to_end(key)
        log.info("refused: %s%s", message, since, extra={**facts, "reason": reason})
