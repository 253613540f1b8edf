"""Delays between the attempts of what is tried again: a lost connection, an agent whose model is overloaded.

Owns how the delays grow. Must not wait itself.
"""

import random
from collections.abc import Iterator

import attrs


@attrs.frozen
class Backoff:
    """Delays that grow, with jitter, so that a thousand clients of one daemon do not come back at the same moment.

    Attributes:
        first: seconds of the first delay, before jitter.
        longest: upper bound of a delay, in seconds.
        factor: how much longer each one is than the one before.
    """

    first: float = 0.1
    longest: float = 10.0
    factor: float = 2.0

    def delays(self) -> Iterator[float]:
        """Yield delays in seconds, without end: each is random between half of the grown delay and all of it.

        This is known as "equal jitter".
        """
        grown = self.first
        while True:
            yield grown * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load, guards nothing
            grown = min(grown * self.factor, self.longest)
