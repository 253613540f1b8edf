"""Executions that waited when an earlier daemon ended: they are held until somebody releases or drops them.

Theory of operation. What waits has a line on disk (`storage.shelf`), which is taken before it begins; so what a daemon
that died leaves there has not run, and nothing runs twice. Whether it should run at all after what has happened is for
people to say: nothing that is held begins by itself, not after another restart either. Who is released is admitted
anew, under its own id, for its own principal, in its own lane, and then waits for its turn like everybody. Its client
has gone with its connection, so nobody's leaving ends it.

Owns the register of what is held, and the sessions that they run in, which no client can resume. Must not start or
end anything itself: the engine says how.
"""

import logging
from collections.abc import Callable

import attrs
import trio

from ccexecd.admission import AdmissionError
from ccexecd.core.execution import Event, State
from ccexecd.process.execution import Execution
from ccexecd.session import PORTION, Session
from ccexecd.waiting import Waiting

log = logging.getLogger(__name__)


class Held:
    """Who is held.

    Args:
        enter: one of a session is to be released: it begins, or waits for its turn; raises `AdmissionError` if it may
            not.
        withdrawn: one of a session is dropped.
    """

    def __init__(
        self,
        enter: Callable[[Execution, Session], None],
        withdrawn: Callable[[Execution, Session], None],
    ) -> None:
        self._enter = enter
        self._withdrawn = withdrawn
        self._held: dict[str, _Place] = {}
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        """How many."""
        return len(self._held)

    def session_of(self, waiting: Waiting) -> Session:
        """The session that one runs in, if it is released: the one that it was asked for in, without a client."""
        session = self._sessions.get(waiting.session_id)
        if session is None or session.principal != waiting.principal:
            session = self._sessions[waiting.session_id] = Session(waiting.principal, id=waiting.session_id)
        return session

    def hold(self, execution: Execution, session: Session) -> None:
        """Hold one that an earlier daemon has left."""
        execution.apply(Event.HOLD)
        execution.turn = self._held[execution.id] = _Place(self, execution, session)
        execution.log.note("process.held", {"status": "held"})

    def release(self, execution: Execution) -> None:
        """Let one begin, or wait for its turn.

        Raises:
            AdmissionError: it may not run, or not now. It stays held.
        """
        place, spec = self._held[execution.id], execution.spec
        execution.turn, execution.spec = None, attrs.evolve(spec, on_disconnect="detach")
        try:
            self._enter(execution, place.session)
        except AdmissionError:
            execution.turn, execution.spec = place, spec
            raise
        del self._held[execution.id]

    def let_go(self, execution: Execution) -> None:
        """One is not wanted any more."""
        session = self._held.pop(execution.id).session
        execution.turn = None
        self._withdrawn(execution, session)

    async def each(self, mine: Callable[[Execution], bool], deed: Callable[[Execution], None]) -> tuple[int, int]:
        """Do something with all that are somebody's, the oldest first and in portions: there may be thousands.

        Args:
            mine: whether one is that somebody's.
            deed: what to do; what it refuses stays held.

        Returns:
            With how many it was done, and how many are still held.
        """
        done = refused = 0
        every = [place.execution for place in self._held.values()]
        for number, execution in enumerate(filter(mine, every), 1):
            if execution.state is State.HELD:
                try:
                    deed(execution)
                    done += 1
                except AdmissionError:
                    refused += 1
            if not number % PORTION:
                await trio.lowlevel.checkpoint()
        return done, refused


class _Place:
    """One who is held.

    Args:
        held: where.
        execution: which.
        session: whose.
    """

    __slots__ = ("_held", "execution", "session")

    position = None

    def __init__(self, held: Held, execution: Execution, session: Session) -> None:
        self._held = held
        self.execution = execution
        self.session = session

    def give_up(self) -> None:
        """It is not to run any more."""
        self._held.let_go(self.execution)
