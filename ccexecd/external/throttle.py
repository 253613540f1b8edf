"""Slows down peers that show wrong credentials, and makes the refusal for those that ask too often.

Owns the pace of wrong credentials. Some are answered at once, then each answer is delayed; if too many are delayed
already, one more is answered 429 at once. A caller with a right token is never delayed by others at its address.
"""

import math
import time
from collections.abc import Callable

from ccexecd.core.rates import Buckets
from ccexecd.external.request import Reason, Reject

FREE = 20
"""Wrong credentials of one address that are answered at once: people make mistakes, and programs first try without."""

PER_SECOND = 5.0
"""Wrong credentials of one address that are forgotten each second."""

PATIENCE = 2.0
"""Seconds that an answer is delayed at most: with `PER_SECOND`, ten delayed answers to one address at a time."""


class Throttle:
    """How long the answer to wrong credentials is delayed, by address.

    Args:
        clock: returns monotonic seconds.
        free: failures of one address that are answered at once.
        per_second: failures of one address that are forgotten each second.
        patience: seconds that an answer is delayed at most.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        free: float = FREE,
        per_second: float = PER_SECOND,
        patience: float = PATIENCE,
    ) -> None:
        self.patience = patience
        self._clock = clock
        self._most = patience * per_second
        self._buckets = Buckets(per_second, free)

    def failed(self, network: str) -> float | None:
        """Count wrong credentials.

        Args:
            network: the peer's network (`address.network_of`).

        Returns:
            Seconds by which to delay the answer; None if it is to be 429 at once, because too many are delayed.
        """
        return self._buckets.take_on_credit(network, self._clock(), self._most)


def too_often(message: str, wait: float) -> Reject:
    """Refuse a request that may be sent again later.

    Args:
        message: What there was too much of, and what to do.
        wait: Seconds after which it may be sent again.

    Returns:
        429 with ``Retry-After``, which is in whole seconds (RFC 9110 section 10.2.3).
    """
    return Reject(429, message, (("Retry-After", str(math.ceil(wait))),), reason=Reason.RATE)
