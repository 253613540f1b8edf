"""Executions that wait for their turn.

Owns the one queue of a daemon: which executions are in it, when they are told of their position, how many begin in one
step, and when a client may try again if the queue is full. The arithmetic is in `core.queue`. Must not begin or end an
execution itself: the engine hands in how.
"""

import math
from collections import deque
from collections.abc import Callable

import trio

from ccexecd.admission import AdmissionError, Refusal
from ccexecd.core.queue import Limits, Queue
from ccexecd.keys import Config
from ccexecd.process.execution import Execution
from ccexecd.session import Session

BURST = 16
"""Executions that begin in one step of the event loop, which takes some milliseconds; more begin in the next steps."""

RECENT_ENDS = 32
"""Latest ends from whose frequency `retry_after` is estimated."""

LEAST_RETRY, MOST_RETRY = 0.1, 60.0
"""Bounds of `retry_after`, in seconds: it is a guess, since nobody knows how long programs run."""

FIRST_RETRY = 1.0
"""`retry_after` in seconds, while too few executions have ended for an estimate."""


class Turns:
    """Which executions run, and which wait.

    Args:
        config: the configuration in force; `reconfigure` replaces it.
        budget: executions that may run at the same time where `max_running` is not set.
        begin: called with an execution whose turn it is, and its session; starts it.
        withdrawn: called with an execution that gave up waiting, and its session.

    Attributes:
        max_running: executions that may run at the same time, as in force.
        is_over: nothing begins any more: the daemon ends.
    """

    def __init__(
        self,
        config: Config,
        budget: int,
        begin: Callable[[Execution, Session], None],
        withdrawn: Callable[[Execution, Session], None],
    ) -> None:
        self._budget = budget
        self._begin = begin
        self._withdrawn = withdrawn
        self._queue = Queue(self._limits_of(config))
        self._waiting: dict[int, _Turn] = {}
        self._ends: deque[float] = deque(maxlen=RECENT_ENDS)
        self._more = trio.Event()
        self._is_beginning = False
        self.is_over = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many run."""
        return self._queue.running

    async def run(self) -> None:
        """Begin what one step was not enough for, until cancelled; nothing begins any more then."""
        try:
            while True:
                await self._more.wait()
                self._more = trio.Event()
                self.go_on()
                await trio.lowlevel.checkpoint()
        finally:
            self.is_over = True

    def reconfigure(self, config: Config) -> None:
        """Use other limits from now on. Executions that run or wait already go on doing so."""
        self._queue.limit(self._limits_of(config))
        self.go_on()

    def _limits_of(self, config: Config) -> Limits:
        self.max_running = self._budget if config.max_running is None else config.max_running
        return Limits(self.max_running, config.max_per_session, config.lane_limits(), config.max_queued)

    def require_room(self, session: Session, lane: str) -> None:
        """Make sure that one more execution can run, or at least wait.

        Args:
            session: the session that it is to belong to.
            lane: its lane; empty for none.

        Raises:
            AdmissionError: it can do neither, since the queue is full.
        """
        if self._queue.is_full and not self._may_begin(session, lane):
            wait = self._retry_after(trio.current_time())
            text = (
                f"queue full: {self._queue.running} executions run and {len(self)} wait, as many as may; try again in "
                f"{wait:g} s, or raise max_running or max_queued"
            )
            raise AdmissionError(Refusal.QUEUE_FULL, text, retry_after=wait)

    def enter(self, execution: Execution, session: Session) -> bool:
        """Give an admitted execution a place, or put it into the queue. Returns whether it may begin now."""
        lane = execution.spec.lane
        if self._may_begin(session, lane):
            self._queue.take(session.id, lane)
            return True
        turn = _Turn(self, execution, session, self._queue.join(session.id, lane, execution.spec.priority))
        self._waiting[turn.number] = turn
        execution.turn = turn
        execution.is_waiting(turn.position)
        return False

    def left(self, execution: Execution, session: Session) -> None:
        """Take back the place of an execution that has ended, and begin those that waited for it."""
        self._queue.release(session.id, execution.spec.lane)
        if self._waiting:
            self._ends.append(trio.current_time())
            self.go_on()

    def go_on(self) -> None:
        """Begin the executions whose turn it is, `BURST` at most; `run` begins the rest in later steps."""
        if self._is_beginning or self.is_over:
            return
        self._is_beginning = True
        try:
            for _ in range(BURST):
                number = self._queue.next()
                if number is None:
                    return
                turn = self._take_out(number)
                self._queue.take(turn.session.id, turn.execution.spec.lane)
                self._begin(turn.execution, turn.session)
        finally:
            self._is_beginning = False
        self._more.set()

    def position(self, number: int) -> int:
        """The position of a waiting execution in its line; 1 is the front."""
        return self._queue.position(number)

    def give_up(self, number: int) -> None:
        """Take a waiting execution out of the queue; it never runs."""
        turn = self._take_out(number)
        self._withdrawn(turn.execution, turn.session)

    def _may_begin(self, session: Session, lane: str) -> bool:
        """Whether one more execution may begin now without overtaking one that waits and could begin."""
        return self._queue.has_room(session.id, lane) and (not self._waiting or self._queue.next() is None)

    def _take_out(self, number: int) -> "_Turn":
        turn = self._waiting.pop(number)
        turn.execution.turn = None
        for nearer, position in self._queue.leave(number):
            self._waiting[nearer].execution.is_waiting(position)
        return turn

    def _retry_after(self, now: float) -> float:
        """Seconds until a place is likely to get free, by the ends of the last executions."""
        if len(self._ends) < 2:  # an interval takes two
            return FIRST_RETRY
        each = (now - self._ends[0]) / len(self._ends)
        return math.ceil(min(max(each, LEAST_RETRY), MOST_RETRY) * 10) / 10


class _Turn:
    """The place of a waiting execution in the queue.

    Args:
        turns: the queue.
        execution: the one that waits.
        session: the session that it belongs to.
        number: names it in `core.queue`.
    """

    __slots__ = ("_turns", "execution", "number", "session")

    def __init__(self, turns: Turns, execution: Execution, session: Session, number: int) -> None:
        self._turns = turns
        self.execution = execution
        self.session = session
        self.number = number

    @property
    def position(self) -> int:
        """Its position in its line; 1 is the front."""
        return self._turns.position(self.number)

    def give_up(self) -> None:
        """Leave the queue; the execution never runs."""
        self._turns.give_up(self.number)
