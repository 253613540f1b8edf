"""Executions that waited when an earlier daemon ended: they are held until somebody releases or drops them.

Theory of operation. An execution that waits has a line on disk (`storage.queue_file`), which is blanked before it
begins. So whatever a dead daemon has left there has not run, and nothing runs twice. Whether it should still run is for
people to decide: nothing that is held begins by itself, not after another restart either. One that is released is
admitted anew, with its own id, principal and lane, and then waits for its turn like any other. Its client's connection
ended with the daemon, so no lost connection ends it.

Owns the register of held executions, and the sessions that they run in, which no client can resume. Must not start or
end an execution itself: the engine hands in how.
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
    """The held executions of a daemon.

    Args:
        enter: called with an execution to be released, and its session: begins it or lets it wait for its turn. Raises
            `AdmissionError` if it may not run.
        withdrawn: called with an execution that is dropped, and its session.
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
        """How many are held."""
        return len(self._held)

    def session_of(self, waiting: Waiting) -> Session:
        """The session that an execution will run in if it is released: one of the same id, without a client."""
        session = self._sessions.get(waiting.session_id)
        if session is None or session.principal != waiting.principal:
            session = self._sessions[waiting.session_id] = Session(waiting.principal, id=waiting.session_id)
        return session

    def hold(self, execution: Execution, session: Session) -> None:
        """Hold an execution that waited when an earlier daemon ended."""
        execution.apply(Event.HOLD)
        execution.turn = self._held[execution.id] = _Place(self, execution, session)
        execution.log.note("process.held", {"status": "held"})

    def release(self, execution: Execution) -> None:
        """Let a held execution begin, or wait for its turn.

        Raises:
            AdmissionError: it may not run, or not now; it stays held.
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
        """Drop a held execution: it ends without having run."""
        session = self._held.pop(execution.id).session
        execution.turn = None
        self._withdrawn(execution, session)

    async def each(self, mine: Callable[[Execution], bool], deed: Callable[[Execution], None]) -> tuple[int, int]:
        """Release or drop many, the oldest first, in portions so that thousands do not hold up the event loop.

        Args:
            mine: whether an execution is among those that are meant.
            deed: `release` or `let_go`; what raises `AdmissionError` stays held.

        Returns:
            How many were released or dropped, and how many of those that are meant stay held.
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
    """The place of a held execution; what `core.queue.Turn` is for one that waits.

    Args:
        held: the register.
        execution: the one that is held.
        session: the session that it would run in.
    """

    __slots__ = ("_held", "execution", "session")

    position = None

    def __init__(self, held: Held, execution: Execution, session: Session) -> None:
        self._held = held
        self.execution = execution
        self.session = session

    def give_up(self) -> None:
        """Drop the execution."""
        self._held.let_go(self.execution)
