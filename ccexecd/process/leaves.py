"""Where the keeper is among the control groups, and thereby where what it starts is born.

A process is born where its parent is. So the keeper sits in an empty leaf, in which the next leader is born, and when
that has lived for a moment, it moves on to another one. To move takes the kernel some ten milliseconds, because it
waits for every processor; a thread waits for that. What is started in the meantime shares the leaf, which is then
nobody's: these are told apart without, as everything is where there are no groups. Standard library only.
"""

import _thread
import contextlib
import itertools
import os
import time
from collections.abc import Callable

from ccexecd.process.control_groups import Leaf, group_of, move_to, remove

_STAY = 0.005
"""Seconds that a leader lives until it is worth a move: short commands follow each other in the same leaf."""


class Leaves:
    """The leaves of one keeper, which alone moves between them.

    Args:
        base: the daemon's group; empty where there are none.
        moved: called in another thread when it has moved: `arrive` is to follow.
    """

    def __init__(self, base: str, moved: Callable[[], object] = lambda: None) -> None:
        self._base = base
        self._can_move = bool(base)
        self._moved = moved
        self._names = map(str, itertools.count(1))
        self._run = os.urandom(4).hex()  # the leaves of a lost keeper may still be there
        self._leaves: dict[str, Leaf] = {}
        self._here: Leaf | None = None
        self._emptied: list[Leaf] = []  # those that are to be taken away
        self._goal: Leaf | None = None  # of the move that is under way
        self._moving = _thread.allocate_lock()
        self._occupied_since = 0.0
        if base:
            self.move()

    # Births

    def prepare(self, *, alone: bool) -> None:
        """A leader is about to be started. Waits some ten milliseconds where it must be alone and would not be.

        Args:
            alone: it needs a leaf that nobody shares, because that is to bear its limits.
        """
        if alone or (self._here is not None and self._here.is_reserved):
            self.wait()
            if self._can_move and (self._here is None or self._here.numbers):
                self.move()
                self.wait()
            if self._here is not None:
                self._here.is_reserved = alone

    @property
    def bear_memory(self) -> bool:
        """Whether the leaf that has been prepared can limit memory."""
        return self._here is not None and self._here.can_limit_memory

    def born(self, number: int, pid: int) -> Leaf | None:
        """Note where the leader of an execution has just been born."""
        leaf = self._here if self._goal is None else self._leaves.get(self._name_of(pid))
        if leaf is not None:
            if not leaf.numbers:
                self._occupied_since = time.monotonic()
            leaf.numbers.add(number)
            leaf.is_shared = len(leaf.numbers) > 1
        return leaf

    def number_of(self, pid: int) -> int | None:
        """The execution in whose leaf a process is; None where it is in none, or in one that several share."""
        leaf = self._leaves.get(self._name_of(pid)) if self._leaves else None
        return next(iter(leaf.numbers)) if leaf is not None and leaf.numbers and not leaf.is_shared else None

    def forget(self, leaf: Leaf | None, number: int) -> None:
        """An execution is over."""
        if leaf is not None:
            leaf.numbers.discard(number)
            self._drop_if_empty(leaf)
        if self._emptied:
            self._sweep()

    # Moves

    @property
    def move_at(self) -> float | None:
        """The moment (monotonic) to move on; None while there is no reason to."""
        if not self._can_move or self._goal is not None or self._here is None or not self._here.numbers:
            return None
        return self._occupied_since + (0.0 if self._here.is_reserved else _STAY)

    def move(self) -> None:
        """Move on to an empty leaf, without waiting for it."""
        name = f"{self._run}-{next(self._names)}"
        self._goal = self._leaves[name] = Leaf(os.path.join(self._base, name))
        with contextlib.suppress(OSError):  # where no more groups are to be had, the move fails too
            os.mkdir(self._goal.path)
        self._moving.acquire()
        _thread.start_new_thread(self._move, (self._goal,))

    def _move(self, goal: Leaf) -> None:
        goal.is_reached = move_to(goal.path)
        self._moving.release()
        self._moved()

    def arrive(self) -> None:
        """A move may have come to its end: what we have left can be used as a group."""
        goal = self._goal
        if goal is None or self._moving.locked():
            return
        self._goal = None
        if not goal.is_reached:
            self._can_move = False  # all that follow share where we are
            self._leaves.pop(os.path.basename(goal.path))
            goal.remove()
            return
        left, self._here = self._here, goal
        if left is not None:
            left.is_vacated = True
            self._drop_if_empty(left)

    def wait(self) -> None:
        """Let the move that is under way come to its end."""
        with self._moving:
            pass
        self.arrive()

    def dissolve(self) -> None:
        """The daemon is lost, and nothing is left of what we started: leave nothing of the groups either."""
        if self._base:
            self.wait()
            move_to(os.path.dirname(self._base))
            remove(self._base)

    def _drop_if_empty(self, leaf: Leaf) -> None:
        """All whose leaf it was are over: what is still in it is nobody's, and is ended."""
        if leaf.numbers:
            return
        if leaf.is_vacated:
            self._leaves.pop(os.path.basename(leaf.path), None)
            leaf.kill()
            self._emptied.append(leaf)
            self._sweep()
        elif leaf.is_shared and self._can_move and self._goal is None and leaf.has_others:
            self.move()  # it can be killed when we have left it
        leaf.is_shared = leaf.is_reserved = False

    def _sweep(self) -> None:
        """Take away the leaves that are over; what was killed in one may take a moment to leave it."""
        self._emptied = [leaf for leaf in self._emptied if not leaf.remove()]

    def _name_of(self, pid: int) -> str:
        """The name of the leaf that a process is in, or below; empty if it is in none."""
        names = iter((group_of(str(pid)) or "").split("/"))
        base = os.path.basename(self._base)
        return next(names, "") if any(name == base for name in names) else ""
