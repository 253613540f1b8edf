"""Fairness: a connection or a pipe that floods the daemon waits a little while another connection sends a request.

A request takes several steps of the event loop until it is answered. Without this, each of these steps would also take
a full read of every program that floods output, and a request of every connection that floods those, and the request
would wait for all of them. It costs nothing while no request is being read.
"""

import trio

MOST_STEPS = 3
"""Steps of the event loop for which a flood waits at most: as many as a request takes from arrival to answer."""

_arriving: trio.lowlevel.RunVar[int] = trio.lowlevel.RunVar("arriving", 0)
"""How many connections are marked as having a request that is being read."""


class RequestArrival:
    """Marks one connection as having a request that is being read."""

    def __init__(self) -> None:
        self._is_marked = False

    def begins(self) -> None:
        """Mark the connection: a request has begun to arrive."""
        if not self._is_marked:
            self._is_marked = True
            _arriving.set(_arriving.get() + 1)

    def ends(self) -> None:
        """Remove the mark: the request has been read, or the connection has ended."""
        if self._is_marked:
            self._is_marked = False
            _arriving.set(_arriving.get() - 1)


async def yield_to_requests(own: int = 0) -> None:
    """Wait up to `MOST_STEPS` steps of the event loop, as long as other connections are marked.

    Args:
        own: how many of the marked connections are the caller's own.
    """
    for _ in range(MOST_STEPS):
        if _arriving.get() <= own:
            return
        await trio.lowlevel.checkpoint()
