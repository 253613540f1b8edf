"""How long to wait before the next attempt.

Owns the delays of everything that is tried again: a lost connection, an agent whose model is overloaded. Must not wait
itself.
"""

import random
from collections.abc import Iterator

import attrs


@attrs.frozen
class Backoff:
    """Delays that grow, with jitter, so that a thousand clients of one daemon do not come back at the same moment.

    Attributes:
        first: seconds of the first delay, before jitter.
        longest: seconds that no delay exceeds.
        factor: how much longer each one is than the one before.
    """

    first: float = 0.1
    longest: float = 10.0
    factor: float = 2.0

    def delays(self) -> Iterator[float]:
        """Seconds to wait, without end: each between a half and the whole of what it has grown to ("equal jitter")."""
        grown = self.first
        while True:
            yield grown * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load, guards nothing
            grown = min(grown * self.factor, self.longest)
