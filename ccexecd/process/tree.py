"""The keeper's record of one execution: its leader, control group, limits, and pause or kill under way.

Owns this record, and when the tree has to be looked at again. Standard library only. Must not signal anything.
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
"""Seconds for a leaf to freeze. If one of its processes is in uninterruptible sleep, the others are stopped without."""


class Pause:
    """A stop that is under way.

    The leaf is frozen while each process in it is sent SIGSTOP, so that none can fork in between, and thawed right
    after: so a lost keeper cannot leave it frozen, and the processes show as stopped to everybody.

    Args:
        leaf: the control group that contains the tree and nothing else; None if it has none.

    Attributes:
        requests: ids of the daemon's requests that are answered at its end.
    """

    def __init__(self, leaf: Leaf | None) -> None:
        self.requests: list[int] = []
        self._ends = time.monotonic() + _PAUSE_PATIENCE
        self._frozen = leaf if leaf is not None and leaf.freeze() else None
        self._frozen_by = time.monotonic() + _FREEZING_PATIENCE

    @property
    def is_freezing(self) -> bool:
        """Whether the leaf is not frozen yet, and may still become so in time."""
        return self._frozen is not None and not self._frozen.is_frozen and time.monotonic() < self._frozen_by

    @property
    def is_out_of_patience(self) -> bool:
        """Whether processes that still run are to be reported as not stoppable."""
        return time.monotonic() >= self._ends

    def spares(self, running: list[Process]) -> set[int]:
        """Return the pids that must not be stopped yet. In a frozen leaf, no shell can notice that its job stops."""
        is_frozen = self._frozen is not None and self._frozen.is_frozen
        return let_exec(running) if is_frozen else not_yet(running)

    def wait_for(self, request: int) -> None:
        """Add a request that waits for this stop; the patience begins anew."""
        self.requests.append(request)
        self._ends = time.monotonic() + _PAUSE_PATIENCE

    def thaw(self) -> None:
        """Thaw the leaf: every process in it has been sent SIGSTOP, or the pause is cancelled."""
        if self._frozen is not None:
            self._frozen.thaw()
            self._frozen = None


class Tree:
    """The tree of one execution.

    Args:
        number: the daemon's number for the execution.
        pid: pid of its leader.
        grace: seconds from TERM to KILL if the daemon is lost.
        leaf: the control group that the leader was born in; None if there are no control groups.
        limits: the limits of the execution, by name.

    Attributes:
        leader_reaped: the leader's exit has been reported.
        kill_at: when (monotonic clock, seconds) everything in it is killed on sight; None while it is not to be killed.
        pause: the stop that is under way; None if there is none.
        killed, stopped: identities of the processes that were sent KILL, and STOP before it.
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
        """The control group that contains this tree and nothing else; None if it has none, or not yet."""
        return self.leaf if self.leaf is not None and self.leaf.is_its_own else None

    def limit(self) -> bool:
        """Apply the limits that count for the whole tree. Returns whether some have to be checked from now on."""
        self._watch = on_tree(self.limits, self.group)
        return self._watch is not None

    @property
    def is_to_be_watched(self) -> bool:
        """Whether its limits have to be checked now."""
        return self._watch is not None and time.monotonic() >= self._look_at

    def exceeded(self, processes: Sequence[Process]) -> str | None:
        """Return the name of a limit that it has exceeded, once; else None. `processes` are all its living ones."""
        if self._watch is None:
            return None
        exceeded = self._watch.exceeded(processes)
        self._look_at = time.monotonic() + self._watch.interval
        if exceeded is not None:
            self._watch = None
        return exceeded

    @property
    def counts_reaped(self) -> bool:
        """Whether the processor time of reaped processes has to be passed to `count`; a control group counts it."""
        return self._watch is not None and not self._watch.knows_reaped

    def count(self, seconds: float) -> None:
        """Add the processor time, in seconds, of one of its processes that the keeper has reaped."""
        if self._watch is not None:
            self._watch.reaped_seconds += seconds

    @property
    def next_look(self) -> float | None:
        """When (monotonic clock, seconds) it has to be looked at again; None if nothing is due by time."""
        looks = [self._look_at] if self._watch is not None else []
        if self.pause is not None:
            looks.append(time.monotonic() + _PAUSE_TICK)
        elif self.kill_at is not None:
            looks.append(max(self.kill_at, time.monotonic() + _TICK))
        return min(looks, default=None)
