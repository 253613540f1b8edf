"""How far a program may run ahead of those who watch it.

Theory of operation. The pump reads faster than any client takes, so without measure a program that writes much would
push output out of the window before even a quick watcher has had it. When the slowest watcher is too far behind, the
program's pipes are held: read no more, so that it waits as for any pipe. Under policy `block`, that is at
`BLOCK_BEHIND`, and until the watcher has caught up half. Under `drop_oldest`, it is shortly before the window would
overtake the watcher, and for `PATIENCE` at most, since agents lose what their pipe does not take: a watcher that needs
longer is left behind, and nothing is held for it again until it has caught up.

While an execution is being paused its pipes are held, too: whoever asked for silence does not wait behind the flood.
"""

from collections.abc import Sequence
from typing import Literal

import trio

from ccexecd.process.pump import OutputSource, Pump

BLOCK_BEHIND = 1024 * 1024
"""Bytes that the slowest watcher may be behind under `block`. As much again is in a pipe, and all of it fits into the
window when the program ends."""

WINDOW_SHARE = 0.75
"""Share of the window that the slowest watcher may be behind under `drop_oldest`: what an agent writes at its end (2 MB
are much) goes into the window and never waits."""

PATIENCE = 0.25
"""Seconds of one hold under `drop_oldest`: a tenth of the shortest stall after which Claude Code was seen to lose
output. A watcher that takes 12 MB/s catches up within it."""


class Pacing:
    """The pace of one execution.

    Args:
        pump: rings the alarm that ends a hold.
        policy: `block` or `drop_oldest`, from the spec.
        window: bytes of output that the log keeps in memory.

    Attributes:
        sources: the pipes, terminal or files that its output is read from.
        is_held: the sources are not being read.
    """

    def __init__(self, pump: Pump, policy: Literal["drop_oldest", "block"], window: int) -> None:
        self.sources: Sequence[OutputSource] = ()
        self.is_held = False
        self._pump = pump
        self._blocks = policy == "block"
        self._most = min(BLOCK_BEHIND, window // 4) if self._blocks else int(window * WINDOW_SHARE)
        self._held_since = 0.0
        self._is_left_behind = False
        self._is_standing = False
        self._alarm_is_set = False

    def has_grown(self, backlog: int) -> None:
        """Hold the sources if the slowest watcher is too far behind; `backlog` is the bytes that it has not seen."""
        if backlog > self._most and not self.is_held and not self._is_left_behind:
            self.is_held = True
            self._held_since = trio.current_time()
            for source in self.sources:
                source.hold()
            if not self._blocks and not self._alarm_is_set:
                self._alarm_is_set = True
                self._pump.alarm(PATIENCE, self._hold_is_over)

    def was_read(self, backlog: int) -> bool:
        """Note that a watcher has read on or left. Returns whether this has ended a hold.

        Args:
            backlog: bytes that the slowest watcher has not seen.
        """
        if backlog > self._most // 2:
            return False
        self._is_left_behind = False
        return self._release()

    def stand(self) -> None:
        """Hold the sources until `go_on`, because the execution is being paused."""
        self._is_standing = True
        for source in self.sources:
            source.hold()

    def go_on(self) -> None:
        """Read the sources again, unless a watcher is too far behind."""
        self._is_standing = False
        if not self.is_held:
            self._read_on()

    def _release(self) -> bool:
        was_held, self.is_held = self.is_held, False
        if was_held and not self._is_standing:
            self._read_on()
        return was_held

    def _read_on(self) -> None:
        for source in self.sources:
            source.go_on()

    def _hold_is_over(self) -> None:
        self._alarm_is_set = False
        if self.is_held:
            left = self._held_since + PATIENCE - trio.current_time()
            if left > 0:  # that was an earlier hold's alarm
                self._alarm_is_set = True
                self._pump.alarm(left, self._hold_is_over)
            else:
                self._is_left_behind = True
                self._release()
