"""What is said to whoever asks too often, and how those are slowed who show wrong credentials.

Owns the pace of wrong credentials: a few are free, then each waits for its answer, and who does not even wait for that
is answered 429. Nobody who shows a right token is ever held up by what others at the same address do.
"""

import math
import time
from collections.abc import Callable

from ccexecd.core.rates import Buckets
from ccexecd.external.request import Reason, Reject

FREE = 20
"""Wrong credentials of one address that are answered at once: people make mistakes, and programs try without first."""

PER_SECOND = 5.0
"""Wrong credentials that are forgiven."""

PATIENCE = 2.0
"""Seconds that an answer is held back at most: ten answers to one address at a time."""


class Throttle:
    """How long wrong credentials wait for their answer, by address.

    Args:
        clock: seconds that never go back.
        free: failures that wait for nothing.
        per_second: failures that are forgiven.
        patience: seconds that an answer is held back at most.
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
        """Count a failure.

        Args:
            network: the address of the peer, as far as it cannot choose it.

        Returns:
            The seconds for which its answer is to be held back; None for one that is to be turned away at once,
            because too many are held back.
        """
        return self._buckets.owe(network, self._clock(), self._most)


def too_often(message: str, wait: float) -> Reject:
    """Refuse what may be asked again later.

    Args:
        message: What was too often, and what to do.
        wait: Seconds after which it may.

    Returns:
        429 with ``Retry-After``, which is in whole seconds (RFC 9110 section 10.2.3).
    """
    return Reject(429, message, (("Retry-After", str(math.ceil(wait))),), reason=Reason.RATE)
