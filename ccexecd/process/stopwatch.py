"""The clock of one execution: it stands still while that is paused, and so does its deadline.

Owns the arithmetic. Must not stop or end anything.
"""

import trio


class Stopwatch:
    """Seconds of an execution's own time.

    Args:
        scope: the one whose deadline stands still, too.

    Attributes:
        going: set while it goes.
    """

    def __init__(self, scope: trio.CancelScope) -> None:
        self.going = trio.Event()
        self.going.set()
        self._scope = scope
        self._time_left = float("inf")
        self._stopped_at = 0.0
        self._stood_still = 0.0

    @property
    def now(self) -> float:
        """Seconds on Trio's clock, without those in which it stood still."""
        return (trio.current_time() if self.going.is_set() else self._stopped_at) - self._stood_still

    def stop(self) -> None:
        """Stand still from now on; nothing new if it does already."""
        if self.going.is_set():
            self.going = trio.Event()
            self._stopped_at = trio.current_time()
            self._time_left = self._scope.deadline - self._stopped_at
            self._scope.deadline = float("inf")

    def go_on(self) -> None:
        """Go on, if it stands still."""
        if not self.going.is_set():
            self._scope.deadline = trio.current_time() + self._time_left
            self._stood_still += trio.current_time() - self._stopped_at
            self.going.set()
