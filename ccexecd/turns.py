"""Executions that wait for their turn.

Owns the one queue of a daemon: which executions are in it, what they are told of their way to the front, how many begin
in one step, and after how long another try may be worth it where the queue is full. The arithmetic is `core.queue`'s.
Must not begin or end any execution itself: the engine says how.
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
"""Executions that begin in one step, when many may at once: some milliseconds of the event loop. The rest follows."""

RECENT_ENDS = 32
"""Ends from which it is told how soon a place gets free."""

LEAST_RETRY, MOST_RETRY = 0.1, 60.0
"""Bounds of the seconds that are told where the queue is full: nobody knows how long programs run."""

FIRST_RETRY = 1.0
"""Seconds that are told while too few have ended to tell by."""


class Turns:
    """Who runs and who waits.

    Args:
        config: the configuration in force; `reconfigure` replaces it.
        budget: executions that may run at the same time where `max_running` is not set.
        begin: starts one of a session, whose turn it is.
        withdrawn: one has given up waiting.

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
        """Use other limits from now on. Whoever runs goes on, and whoever waits is not sent away."""
        self._queue.limit(self._limits_of(config))
        self.go_on()

    def _limits_of(self, config: Config) -> Limits:
        self.max_running = self._budget if config.max_running is None else config.max_running
        return Limits(self.max_running, config.max_per_session, config.lane_limits(), config.max_queued)

    def require_room(self, session: Session, lane: str) -> None:
        """See that one more of a session can run, or at least wait.

        Raises:
            AdmissionError: it can do neither.
        """
        if self._queue.is_full and not self._may_begin(session, lane):
            wait = self._retry_after(trio.current_time())
            text = (
                f"queue full: {self._queue.running} executions run and {len(self)} wait, as many as may; try again in "
                f"{wait:g} s, or raise max_running or max_queued"
            )
            raise AdmissionError(Refusal.QUEUE_FULL, text, retry_after=wait)

    def enter(self, execution: Execution, session: Session) -> bool:
        """An execution has been admitted: it takes a place, or waits for one. Returns whether it may begin now."""
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
        """One of those that ran has ended: the next ones may begin."""
        self._queue.release(session.id, execution.spec.lane)
        if self._waiting:
            self._ends.append(trio.current_time())
            self.go_on()

    def go_on(self) -> None:
        """Begin those whose turn it is, as many as one step may; the rest when others have had their turn."""
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
        """Where one stands in its line."""
        return self._queue.position(number)

    def give_up(self, number: int) -> None:
        """One waits no longer."""
        turn = self._take_out(number)
        self._withdrawn(turn.execution, turn.session)

    def _may_begin(self, session: Session, lane: str) -> bool:
        """Whether one more may begin now, and overtakes nobody who may."""
        return self._queue.has_room(session.id, lane) and (not self._waiting or self._queue.next() is None)

    def _take_out(self, number: int) -> "_Turn":
        turn = self._waiting.pop(number)
        turn.execution.turn = None
        for nearer, position in self._queue.leave(number):
            self._waiting[nearer].execution.is_waiting(position)
        return turn

    def _retry_after(self, now: float) -> float:
        """Seconds in which, as it went lately, a place gets free."""
        if len(self._ends) < 2:  # of one alone nobody knows how long it took
            return FIRST_RETRY
        each = (now - self._ends[0]) / len(self._ends)
        return math.ceil(min(max(each, LEAST_RETRY), MOST_RETRY) * 10) / 10


class _Turn:
    """One who waits.

    Args:
        turns: where.
        execution: which.
        session: whose.
        number: by which it is known there.
    """

    __slots__ = ("_turns", "execution", "number", "session")

    def __init__(self, turns: Turns, execution: Execution, session: Session, number: int) -> None:
        self._turns = turns
        self.execution = execution
        self.session = session
        self.number = number

    @property
    def position(self) -> int:
        """Where it stands in its line."""
        return self._turns.position(self.number)

    def give_up(self) -> None:
        """It does not want to begin any more."""
        self._turns.give_up(self.number)
