"""One execution as the keeper sees it, between two looks.

Owns what is remembered of it, and when it has to be looked at again. Standard library only. Must not signal anything.
"""

import time
from collections.abc import Sequence

from ccexecd.process.containment import Process, let_exec, not_yet
from ccexecd.process.control_groups import Leaf
from ccexecd.process.limits import Limits, Watch, on_tree

_TICK = 0.02  # seconds between looks at a kill that is under way
_PAUSE_TICK = 0.001  # seconds between looks at a pause: a signalled process stops when it is next scheduled
_PAUSE_PATIENCE = 2.0  # seconds until a process that does not stop (uninterruptible sleep) is reported

_FREEZING_PATIENCE = 0.05
"""Seconds for a leaf to freeze. One of whose processes sleeps uninterruptibly, the others are stopped as they run."""


class Pause:
    """A stop that is under way.

    While everything in a leaf stands still, each process gets its SIGSTOP, so that none can fork past it. Then the leaf
    goes on: frozen only for a moment, it cannot be left so by a keeper that is lost, and that something is stopped is
    seen by everybody who looks at it.

    Args:
        leaf: where its tree is; None where there are no control groups.

    Attributes:
        requests: who waits for it.
    """

    def __init__(self, leaf: Leaf | None) -> None:
        self.requests: list[int] = []
        self._ends = time.monotonic() + _PAUSE_PATIENCE
        self._frozen = leaf if leaf is not None and leaf.freeze() else None
        self._frozen_by = time.monotonic() + _FREEZING_PATIENCE

    @property
    def is_freezing(self) -> bool:
        """Whether the leaf has yet to come to a stand."""
        return self._frozen is not None and not self._frozen.is_frozen and time.monotonic() < self._frozen_by

    @property
    def is_out_of_patience(self) -> bool:
        """Whether what runs now will not stop."""
        return time.monotonic() >= self._ends

    def spares(self, running: list[Process]) -> set[int]:
        """The pids of those that must not be stopped yet. Nobody learns of a stop while everything stands still."""
        is_frozen = self._frozen is not None and self._frozen.is_frozen
        return let_exec(running) if is_frozen else not_yet(running)

    def wait_for(self, request: int) -> None:
        """Somebody else waits for it, as long as the first."""
        self.requests.append(request)
        self._ends = time.monotonic() + _PAUSE_PATIENCE

    def thaw(self) -> None:
        """Every process of the leaf has been signalled, or is to run after all."""
        if self._frozen is not None:
            self._frozen.thaw()
            self._frozen = None


class Tree:
    """One execution.

    Args:
        number: the daemon's number for it.
        pid: its leader.
        grace: seconds from TERM to KILL if the daemon is lost.
        leaf: the control group that it was born in; None where there are none.
        limits: what it may use.

    Attributes:
        leader_reaped: the exit has been reported.
        kill_at: moment (monotonic) from which everything in it is killed on sight.
        pause: the stop that is under way.
        killed, stopped: the identities of processes that were sent KILL, and STOP before it.
    """

    __slots__ = (
        "_look_at",
        "_watch",
        "grace",
        "kill_at",
        "killed",
        "leader_reaped",
        "leaf",
        "limits",
        "number",
        "pause",
        "pid",
        "stopped",
    )

    def __init__(self, number: int, pid: int, grace: float, leaf: Leaf | None, limits: Limits) -> None:
        self.number = number
        self.pid = pid
        self.grace = grace
        self.leaf = leaf
        self.limits = limits
        self.leader_reaped = False
        self.kill_at: float | None = None
        self.pause: Pause | None = None
        self.killed: set[tuple[int, int]] = set()
        self.stopped: set[tuple[int, int]] = set()
        self._watch: Watch | None = None
        self._look_at = 0.0

    @property
    def group(self) -> Leaf | None:
        """The control group in which there is nothing but it; None where it has none, or not yet."""
        return self.leaf if self.leaf is not None and self.leaf.is_its_own else None

    def limit(self) -> bool:
        """Put on all of it together what was asked for; returns whether there is something to look at from now on."""
        self._watch = on_tree(self.limits, self.group)
        return self._watch is not None

    @property
    def is_to_be_watched(self) -> bool:
        """Whether its limits have to be looked at now."""
        return self._watch is not None and time.monotonic() >= self._look_at

    def exceeded(self, processes: Sequence[Process]) -> str | None:
        """The limit that it is beyond, told once. `processes` are all that is alive of it."""
        if self._watch is None:
            return None
        exceeded = self._watch.exceeded(processes)
        self._look_at = time.monotonic() + self._watch.interval
        if exceeded is not None:
            self._watch = None
        return exceeded

    @property
    def counts_reaped(self) -> bool:
        """Whether it matters what its dead have used: a control group knows by itself."""
        return self._watch is not None and not self._watch.knows_reaped

    def count(self, seconds: float) -> None:
        """Processor time of something of it that has been reaped and was nobody's child any more."""
        if self._watch is not None:
            self._watch.reaped_seconds += seconds

    @property
    def next_look(self) -> float | None:
        """The moment (monotonic) at which it has to be looked at again; None until something of it ends."""
        looks = [self._look_at] if self._watch is not None else []
        if self.pause is not None:
            looks.append(time.monotonic() + _PAUSE_TICK)
        elif self.kill_at is not None:
            looks.append(max(self.kill_at, time.monotonic() + _TICK))
        return min(looks, default=None)
