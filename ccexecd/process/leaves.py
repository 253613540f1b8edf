"""Puts each leader into a control group of its own, by moving the keeper from group to group.

A process is born in the control group of its parent. So the keeper sits in an empty leaf, where the next leader is
born, and moves on to another one when that leader has lived for a moment. A move takes the kernel some ten
milliseconds, because it waits for every processor, so a thread makes it. Leaders that are started in the meantime share
a leaf; their trees are told apart without it, as all trees are where there are no control groups. Standard library
only. Must not decide when anything ends.
"""

import _thread
import contextlib
import itertools
import os
import time
from collections.abc import Callable

from ccexecd.process.control_groups import Leaf, group_of, move_to, remove

_STAY = 0.005
"""Seconds that a leader has to live before the keeper moves on: short commands use the same leaf one after another."""


class Leaves:
    """The leaves of one keeper.

    Args:
        base: path of the daemon's `control_groups.Base`; empty if there are no control groups.
        moved: called in another thread at the end of a move; the main thread has to call `arrive` then.
    """

    def __init__(self, base: str, moved: Callable[[], object] = lambda: None) -> None:
        self._base = base
        self._can_move = bool(base)
        self._moved = moved
        self._names = map(str, itertools.count(1))
        self._run = os.urandom(4).hex()  # the leaves of a lost keeper may still be there
        self._leaves: dict[str, Leaf] = {}
        self._here: Leaf | None = None
        self._emptied: list[Leaf] = []  # killed, and to be removed as soon as they are empty
        self._goal: Leaf | None = None  # leaf that a move under way leads to
        self._moving = _thread.allocate_lock()
        self._occupied_since = 0.0
        if base:
            self.move()

    # Births

    def prepare(self, *, alone: bool) -> None:
        """Prepare for the start of a leader. Waits some ten milliseconds if that needs an empty leaf and has none.

        Args:
            alone: it needs a leaf to itself, because its limits are to be set there.
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
        """Whether the leaf that the next leader will be born in can limit memory."""
        return self._here is not None and self._here.can_limit_memory

    def born(self, number: int, pid: int) -> Leaf | None:
        """Note that a leader was started, and return its leaf.

        Args:
            number: the number of its execution.
            pid: its pid.

        Returns:
            The leaf that it was born in; None if there are no control groups.
        """
        leaf = self._here if self._goal is None else self._leaves.get(self._name_of(pid))
        if leaf is not None:
            if not leaf.numbers:
                self._occupied_since = time.monotonic()
            leaf.numbers.add(number)
            leaf.is_shared = len(leaf.numbers) > 1
        return leaf

    def number_of(self, pid: int) -> int | None:
        """Return the number of the execution whose leaf a process is in; None if in no leaf, or in a shared one."""
        leaf = self._leaves.get(self._name_of(pid)) if self._leaves else None
        return next(iter(leaf.numbers)) if leaf is not None and leaf.numbers and not leaf.is_shared else None

    def forget(self, leaf: Leaf | None, number: int) -> None:
        """Forget an execution that is over; its leaf is killed and removed if no other is left in it."""
        if leaf is not None:
            leaf.numbers.discard(number)
            self._drop_if_empty(leaf)
        if self._emptied:
            self._sweep()

    # Moves

    @property
    def move_at(self) -> float | None:
        """When the keeper is to move on (monotonic clock, seconds); None while it need not."""
        if not self._can_move or self._goal is not None or self._here is None or not self._here.numbers:
            return None
        return self._occupied_since + (0.0 if self._here.is_reserved else _STAY)

    def move(self) -> None:
        """Begin to move to a new leaf, in a thread if there is one to be had."""
        name = f"{self._run}-{next(self._names)}"
        self._goal = self._leaves[name] = Leaf(os.path.join(self._base, name))
        with contextlib.suppress(OSError):  # if no group can be made, the move fails too
            os.mkdir(self._goal.path)
        self._moving.acquire()
        try:
            _thread.start_new_thread(self._move, (self._goal,))
        except RuntimeError:  # no thread is to be had, as when a fork bomb has filled pids.max: then all wait for it
            self._move(self._goal)

    def _move(self, goal: Leaf) -> None:
        goal.is_reached = move_to(goal.path)
        self._moving.release()
        self._moved()

    def arrive(self) -> None:
        """Take note of a finished move: the leaf that the keeper has left can now be killed, frozen and limited."""
        goal = self._goal
        if goal is None or self._moving.locked():
            return
        self._goal = None
        if not goal.is_reached:
            self._can_move = False  # all further leaders share the present leaf
            self._leaves.pop(os.path.basename(goal.path))
            goal.remove()
            return
        left, self._here = self._here, goal
        if left is not None:
            left.is_vacated = True
            self._drop_if_empty(left)

    def wait(self) -> None:
        """Wait until a move that is under way has ended."""
        with self._moving:
            pass
        self.arrive()

    def dissolve(self) -> None:
        """Remove all groups, once the daemon is lost and every tree has ended."""
        if self._base:
            self.wait()
            move_to(os.path.dirname(self._base))
            remove(self._base)

    def _drop_if_empty(self, leaf: Leaf) -> None:
        """Kill and remove a leaf whose executions are all over; move out of it first if the keeper is in it."""
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
        """Remove the leaves that are over and empty; a killed process may take a moment to leave its leaf."""
        self._emptied = [leaf for leaf in self._emptied if not leaf.remove()]

    def _name_of(self, pid: int) -> str:
        """Return the name of the leaf that a process is in, or below; empty if it is in none."""
        names = iter((group_of(str(pid)) or "").split("/"))
        base = os.path.basename(self._base)
        return next(names, "") if any(name == base for name in names) else ""
