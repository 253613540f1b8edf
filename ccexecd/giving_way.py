"""Giving way: a flood of requests or of output waits a little for whoever asks a small thing.

A question takes several steps of the event loop until it is answered. Without this, each of them would also hold a
whole read of a program that floods output, and a request of each connection that floods those, and the question would
wait for several of each. It costs nothing while nobody asks.
"""

import trio

MOST_STEPS = 3
"""Steps of the event loop that are passed at most: as many as a question takes from its arrival to its answer."""

_asking: trio.lowlevel.RunVar[int] = trio.lowlevel.RunVar("asking", 0)


class Asking:
    """Whether one connection has sent something that is being read."""

    def __init__(self) -> None:
        self._is_marked = False

    def begins(self) -> None:
        """Something has come."""
        if not self._is_marked:
            self._is_marked = True
            _asking.set(_asking.get() + 1)

    def ends(self) -> None:
        """It has been read; or the connection has ended."""
        if self._is_marked:
            self._is_marked = False
            _asking.set(_asking.get() - 1)


async def let_others_go_first(own: int = 0) -> None:
    """Pass some steps of the event loop while others ask.

    Args:
        own: how many of those who ask are oneself.
    """
    for _ in range(MOST_STEPS):
        if _asking.get() <= own:
            return
        await trio.lowlevel.checkpoint()
