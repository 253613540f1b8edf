"""Sessions: each is one client's claim, with the nursery that its executions live in and the clock by which it ends.

Owns the register of sessions, how many of them may execute, and when a session ends. Which executions end with it is in
the table of `core.sessions`. Must not start an execution.
"""

import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Iterator

import attrs
import trio

from ccexecd.core.sessions import REASONS, Parting, ends
from ccexecd.keys import Config
from ccexecd.process.execution import Execution
from ccexecd.storage.archive import Archive
from ccexecd.storage.history import SessionRecord

PORTION = 100
"""Executions that are ended in one step of the event loop; to end one that waits for its turn takes 0.1 ms."""


@attrs.define(eq=False)
class Session:
    """A client's claim.

    Attributes:
        principal: name of the principal that it belongs to.
        peer: address of the connection that opened it.
        id: a UUID, by which clients name it.
        resume_token: proves the claim when a client resumes it after a cut.
        executions: its executions that are live or remembered, by id, oldest first.
        live: those of them that have not finished.
        admitted: it counts against `max_sessions`. A session that is not admitted may look, but not execute.
        drop_connection: closes the connection that holds it; None while it has none.
        is_cut: its connection was cut, and it waits to be resumed.
        ended: how it ends; None until that is decided.
        created_at: when it was made, in seconds since the epoch.
        has_run: something was executed in it.
        nursery: its executions live in it; None before `run`.
    """

    principal: str
    peer: str = ""
    id: str = attrs.field(factory=lambda: str(uuid.uuid4()))
    resume_token: str = attrs.field(factory=lambda: secrets.token_urlsafe(32), repr=False)
    executions: dict[str, Execution] = attrs.field(factory=dict)
    live: dict[str, Execution] = attrs.field(factory=dict)
    admitted: bool = False
    drop_connection: Callable[[Parting], None] | None = None
    is_cut: bool = False
    ended: Parting | None = None
    created_at: float = attrs.field(factory=time.time)
    has_run: bool = False
    nursery: trio.Nursery | None = None
    _ending: trio.Event = attrs.field(factory=trio.Event)
    _clock: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def expires_in(self, seconds: float | None) -> None:
        """Let it end after so many seconds, unless this is called again; None is never."""
        self._clock.deadline = float("inf") if seconds is None else trio.current_time() + seconds

    def end(self, parting: Parting) -> None:
        """Decide that it ends. The first decision stands."""
        if self.ended is None:
            self.ended = parting
            self._ending.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the nursery until the session ends and everything in it is over."""
        async with trio.open_nursery() as self.nursery:
            task_status.started()
            with self._clock:
                await self._ending.wait()
            if self._clock.cancelled_caught:
                self.end(Parting.EXPIRED)
            await self._part()
        if self.drop_connection is not None:
            self.drop_connection(self.ended or Parting.EXPIRED)

    async def _part(self) -> None:
        """End its executions, in portions, since thousands may wait, and the newest first, so that none begins."""
        live = list(self.live.values())
        while live:
            part(live[-PORTION:], self.ended or Parting.EXPIRED)
            del live[-PORTION:]
            await trio.lowlevel.checkpoint()


class Sessions:
    """The sessions of a daemon that have not ended.

    Args:
        config: the configuration in force; `reconfigure` replaces it.
        archive: where it is noted which sessions there were; None for nowhere.
    """

    def __init__(self, config: Config, archive: Archive | None) -> None:
        self._config = config
        self._archive = archive
        self._by_id: dict[str, Session] = {}

    def __len__(self) -> int:
        """How many there are, admitted or not."""
        return len(self._by_id)

    def __iter__(self) -> Iterator[Session]:
        """Each of them, oldest first."""
        return iter(self._by_id.values())

    def get(self, session_id: str) -> Session | None:
        """The session of an id; None if there is none."""
        return self._by_id.get(session_id)

    def reconfigure(self, config: Config) -> None:
        """Use other limits and time-outs from now on."""
        self._config = config

    async def open(self, nursery: trio.Nursery, principal: str, peer: str) -> Session:
        """Make a session, and run it in a nursery until it ends.

        Args:
            nursery: the engine's.
            principal: name of the principal that it belongs to.
            peer: address of its connection.
        """
        session = Session(principal, peer)
        self._by_id[session.id] = session
        self.claim(session)
        session.expires_in(self._config.session_timeout)
        await nursery.start(self._run, session)
        return session

    async def _run(self, session: Session, task_status: trio.TaskStatus[None]) -> None:
        try:
            await session.run(task_status)
        finally:
            del self._by_id[session.id]
            self._note(session)

    @property
    def admitted(self) -> int:
        """How many count against `max_sessions`."""
        return sum(session.admitted for session in self)

    def claim(self, session: Session) -> bool:
        """Admit a session if it is not and there is room. Returns whether it is admitted."""
        session.admitted = session.admitted or self.admitted < self._config.max_sessions
        return session.admitted

    def has_run(self, session: Session) -> None:
        """Something is executed in a session: keep a record of it from now on."""
        if not session.has_run:
            session.has_run = True
            self._note(session)
        self.set_clock(session)

    def set_clock(self, session: Session) -> None:
        """Let a session without live executions end after `session_timeout`; one that was cut has its own time."""
        if not session.is_cut:
            session.expires_in(None if session.live else self._config.session_timeout)

    def connection_lost(self, session: Session, parting: Parting) -> None:
        """End a session whose connection has gone or, if that was cut, let it wait to be resumed.

        Args:
            session: which one.
            parting: how the connection left it.
        """
        session.drop_connection = None
        if parting is Parting.CUT and session.executions:
            session.is_cut = True
            part(list(session.live.values()), parting)
            session.expires_in(self._config.resume_window)
        else:
            session.end(parting)

    def take_over(self, session: Session, drop_connection: Callable[[Parting], None]) -> None:
        """Give a session to another connection; the one that held it is dropped.

        Args:
            session: which one.
            drop_connection: closes the connection that holds it from now on.
        """
        previous = session.drop_connection
        session.drop_connection = drop_connection
        session.is_cut = False
        if previous is not None:
            previous(Parting.CUT)
        self.set_clock(session)

    def _note(self, session: Session) -> None:
        """Have a session's record written, if anything was ever executed in it."""
        if self._archive is not None and session.has_run:
            ending = session.ended.value if session.ended is not None else None
            ended_at = time.time() if session.id not in self._by_id else None
            record = SessionRecord(session.id, session.principal, session.created_at, ended_at, ending)
            self._archive.note_session(record)


def part(executions: Iterable[Execution], parting: Parting, grace: float | None = None) -> list[Execution]:
    """End those executions that end with a parting.

    Args:
        executions: those to look at, oldest first.
        parting: how the connection left the session.
        grace: seconds from TERM to KILL; None for each one's own.

    Returns:
        The executions that were live and are being ended.
    """
    ended = [each for each in executions if each.is_live and ends(each.spec.on_disconnect, parting)]
    for execution in reversed(ended):  # the newest first: so none that waits moves up only to be ended
        execution.cancel(REASONS[parting], grace)
    return ended
