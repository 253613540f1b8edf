"""The clock of one execution, which stands still while the execution is paused, as does its deadline.

Owns the arithmetic. Must not stop or end anything.
"""

import trio


class Stopwatch:
    """The clock of one execution.

    Args:
        scope: the scope whose deadline is the execution's time-out; it is moved by the time of each stop.

    Attributes:
        going: set while the clock goes.
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
        """Seconds on Trio's clock, less the time for which this clock stood still."""
        return (trio.current_time() if self.going.is_set() else self._stopped_at) - self._stood_still

    def stop(self) -> None:
        """Stop the clock; does nothing if it stands still."""
        if self.going.is_set():
            self.going = trio.Event()
            self._stopped_at = trio.current_time()
            self._time_left = self._scope.deadline - self._stopped_at
            self._scope.deadline = float("inf")

    def go_on(self) -> None:
        """Let the clock go on; does nothing if it goes."""
        if not self.going.is_set():
            self._scope.deadline = trio.current_time() + self._time_left
            self._stood_still += trio.current_time() - self._stopped_at
            self.going.set()
