"""Who was refused, and why: counted, and told to the log once.

Owns the figures and what keeps a flood of refusals from becoming a flood of log lines: of one reason and one peer, the
first is told, the next one an hour later, with how many there were in between. Must not know what is refused where.
"""

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

log = logging.getLogger(__name__)

INTERVAL = 3600.0
"""Seconds until the same reason is told of the same peer again."""

MOST_KEPT = 1024
"""Pairs of reason and peer that are kept in mind; of more, the oldest are forgotten, and told again."""


class Refusals:
    """What has been refused since the start.

    Args:
        clock: seconds that never go back.

    Attributes:
        counts: how often, by reason.
        on_refusal: told of each: its reason, its message, and the peer.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[str] = Counter()
        self.on_refusal: Callable[[str, str, str], None] = lambda _reason, _message, _whose: None
        self._clock = clock
        self._told: OrderedDict[tuple[str, str], list[float]] = OrderedDict()  # when, and how many since

    def record(
        self, reason: str, whose: str, message: str, *, audited: tuple[str, str] | None = None, **facts: object
    ) -> None:
        """Count a refusal, and tell the log unless it knows.

        Args:
            reason: one word.
            whose: the peer, as far as several of its connections have it in common.
            message: what to tell: neither a credential nor anything of it.
            audited: the reason and the peer for `on_refusal`, where they are others.
            facts: what else to tell.
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
