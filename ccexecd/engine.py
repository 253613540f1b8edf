"""Starts, finds and ends executions; owns the nursery that sessions live in.

Owns the two registers (sessions, executions), admission, and what a parting connection means. Each session has a
nursery of its own, and each execution a task in it; an execution that is to outlive its session runs in the engine's
nursery from the start. Must not know any wire format: it takes a `Spec` and raises `AdmissionError`.
"""

import errno
import logging
import os
import time
from collections.abc import Callable, Mapping

import trio

from ccexecd.accompaniment import accompany
from ccexecd.admission import AdmissionError, Gate, Refusal
from ccexecd.budget import MOST_RUNNING
from ccexecd.config import Config
from ccexecd.core.execution import Event, Outcome, Reason
from ccexecd.core.rules import Policy
from ccexecd.core.sessions import Parting
from ccexecd.core.spec import Spec
from ccexecd.held import Held
from ccexecd.launching import Launching, with_stdio
from ccexecd.preparation import Preparation, WithdrawnError, withdraw
from ccexecd.process.execution import Execution
from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.leader import SpawnError
from ccexecd.process.leftovers import Leftovers
from ccexecd.process.line_buffering import LineBuffering
from ccexecd.process.listening import Companion
from ccexecd.process.pump import Pump
from ccexecd.process.shells import default_shell
from ccexecd.process.supervisor import Start, supervise
from ccexecd.records import Records, retention_of
from ccexecd.repeats import Repeats
from ccexecd.session import Session, part
from ccexecd.storage.archive import Archive
from ccexecd.storage.audit import Audit
from ccexecd.storage.history import SessionRecord, Wanted
from ccexecd.storage.past import HistoryUnavailableError, PastExecution
from ccexecd.turns import Turns

# What the doors are given, executions and their errors among it: they do not import `process`.
__all__ = [
    "AdmissionError",
    "Engine",
    "Execution",
    "HistoryUnavailableError",
    "PastExecution",
    "Refusal",
    "Session",
    "SpawnError",
    "Wanted",
    "default_shell",
    "part",
]

log = logging.getLogger(__name__)

PREFIX_LENGTH = 4
"""Characters of the shortest beginning of an id that can stand for it."""


class Engine:
    """All sessions and executions of a daemon.

    Args:
        config: the configuration in force; `reconfigure` replaces it.
        keeper: parent of all leaders.
        pump: reader of all pipes.
        environ: what executions inherit.
        archive: what outlives them; None where nothing does.
        audit: where decisions and outcomes are recorded; None is nowhere.
        rules: the policy in force; None is none.
        budget: executions that may run at the same time where the configuration does not say.

    Attributes:
        gate: what every execution passes before it begins.
        preparation: what some have to wait for then.
        turns: who runs, and who waits.
        held: those that an earlier daemon has left waiting.
        repeats: which executions requests mean that are sent again.
        records: what is kept of them.
        inherited: the environment that executions inherit.
        companions: who may listen to executions; whoever makes the engine adds more.
        executions: every one that is live or remembered, by id, oldest first.
        live: those of them that have not finished.
        sessions: every one that has not ended.
        draining: no new execution is admitted.
        started_total: how many have been admitted since the start.
        leftovers: what finished ones have left running.
    """

    def __init__(
        self,
        config: Config,
        keeper: KeeperClient,
        pump: Pump,
        environ: Mapping[str, str],
        archive: Archive | None = None,
        audit: Audit | None = None,
        rules: Policy | None = None,
        budget: int = MOST_RUNNING,
    ) -> None:
        self.config = config
        self.turns = Turns(config, budget, self._begin, self._withdrawn)
        self.held = Held(self._released, self._withdrawn)
        self.records = Records(archive, config, environ)
        self.repeats = Repeats(archive)
        self.companions: list[Companion] = [accompany, self.records.estimates.listen]
        self.executions: dict[str, Execution] = {}
        self.live: dict[str, Execution] = {}
        self.sessions: dict[str, Session] = {}
        self.draining = False
        self.started_total = 0
        self.leftovers = Leftovers(keeper)
        self._keeper = keeper
        self._pump = pump
        self.inherited = {"PYTHONUNBUFFERED": "1", **environ}
        self.gate = Gate(config, self.inherited, audit, rules)
        self._launching = Launching(self.inherited)
        self.preparation = Preparation(self.gate, LineBuffering(self.inherited.get("PATH", os.defpath)))
        keeper.inherit(self.inherited)
        self._archive = archive
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the nursery that sessions live in, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._restore()
            self._nursery.start_soon(self.turns.run)
            task_status.started()
            await trio.sleep_forever()

    def reconfigure(self, config: Config, rules: Policy | None = None) -> None:
        """Use another configuration and policy from now on; what runs keeps what it was started with."""
        self.config = config
        self.gate.reconfigure(config, rules)
        self.turns.reconfigure(config)
        if self._archive is not None:
            self._archive.retain(retention_of(config))

    # Sessions

    async def open_session(self, principal: str, peer: str = "") -> Session:
        """Make a session, counted against the limit where there is room; AdmissionError where the daemon ends."""
        if self.turns.is_over:
            raise self.gate.closed()
        session = Session(principal, peer)
        self.sessions[session.id] = session
        self._claim(session)
        session.expires_in(self.config.session_timeout)
        await self._require_nursery().start(self._run_session, session)
        return session

    def connection_lost(self, session: Session, parting: Parting) -> None:
        """A session's connection has gone: its executions go, or stay for a resume, as the contract says."""
        session.drop_connection = None
        if parting is Parting.CUT and session.executions:
            session.is_cut = True
            part(list(session.live.values()), parting)
            session.expires_in(self.config.resume_window)
        else:
            session.end(parting)

    def take_over(self, session: Session, drop_connection: Callable[[Parting], None]) -> None:
        """Another connection holds the session from now on; the one that held it is dropped."""
        previous = session.drop_connection
        session.drop_connection = drop_connection
        session.is_cut = False
        if previous is not None:
            previous(Parting.CUT)
        self._set_idle_clock(session)

    @property
    def admitted_sessions(self) -> int:
        """How many count against the limit."""
        return sum(session.admitted for session in self.sessions.values())

    def _claim(self, session: Session) -> bool:
        session.admitted = session.admitted or self.admitted_sessions < self.config.max_sessions
        return session.admitted

    async def _run_session(self, session: Session, task_status: trio.TaskStatus[None]) -> None:
        try:
            await session.run(task_status)
        finally:
            del self.sessions[session.id]
            self._note_session(session)

    def _note_session(self, session: Session) -> None:
        """Keep what is known of a session that has ever run anything."""
        if self._archive is not None and session.has_run:
            ending = session.ended.value if session.ended is not None else None
            ended_at = time.time() if session.id not in self.sessions else None
            record = SessionRecord(session.id, session.principal, session.created_at, ended_at, ending)
            self._archive.note_session(record)

    def _set_idle_clock(self, session: Session) -> None:
        """A session without live executions ends after `session_timeout`; a cut one after its own time."""
        if not session.is_cut:
            session.expires_in(None if session.live else self.config.session_timeout)

    # Executions

    def admit(self, session: Session, spec: Spec) -> Execution:
        """Accept a command; `Execution.spawned` tells when it runs. It is being started, or has a `turn` to wait for.

        Raises:
            AdmissionError: it is not accepted.
        """
        try:
            execution = self._admitted(session, spec)
        except AdmissionError as refused:
            self.gate.refused(session, spec, refused)
            raise
        self.repeats.add(execution)
        if not self.turns.enter(execution, session):
            self.records.waits(execution)
        elif self.preparation.is_needed(execution):
            self._begin(execution, session)
        else:
            execution.apply(Event.ADMIT)
            self._supervise(execution, session, self._start(execution))
        return execution

    def _begin(self, execution: Execution, session: Session) -> None:
        """Its turn has come: it is started by its own task, in which whatever may go wrong is its own."""
        execution.apply(Event.ADMIT)
        self._supervise(execution, session, None)

    def _supervise(self, execution: Execution, session: Session, start: Start | None) -> None:
        nursery = self._require_nursery() if execution.spec.on_disconnect == "detach" else session.nursery
        (nursery or self._require_nursery()).start_soon(self._run_execution, execution, session, start)

    def _start(self, execution: Execution) -> Start:
        launch = self._launching.launch(execution, self.config, self.preparation.line_buffering)
        start = Start(execution, self._keeper, launch)
        self.records.begin(execution)  # while it is being started, nobody waits for a disk
        return start

    def _withdrawn(self, execution: Execution, session: Session) -> None:
        """It does not wait for its turn any more, and has never run."""
        withdraw(execution)
        self._has_ended(execution, session)

    def _admitted(self, session: Session, spec: Spec) -> Execution:
        if self.draining or session.nursery is None or session.ended:
            raise self.gate.closed()
        if not self._claim(session):
            limit = self.config.max_sessions
            raise AdmissionError(
                Refusal.SESSION_LIMIT,
                f"session limit reached: all {limit} sessions are taken; end one, or raise max_sessions",
                max_sessions=limit,
            )
        self.turns.require_room(session, spec.lane)
        ruling = self.gate.ruling(session, spec)
        spec = with_stdio(ruling.spec)
        execution = self._made(spec, session)
        self.gate.admitted(session, execution, ruling)
        self.executions[execution.id] = session.executions[execution.id] = execution
        self._goes_live(execution, session)
        if not session.has_run:
            session.has_run = True
            self._note_session(session)
        self._set_idle_clock(session)
        return execution

    def _made(self, spec: Spec, session: Session, execution_id: str = "") -> Execution:
        window, lines = self.config.max_buffer_size, self.config.max_buffer_lines
        execution = Execution(spec, session.id, self._keeper, self._pump, window, lines, execution_id)
        execution.principal = session.principal
        offered = [companion(execution) for companion in self.companions]
        execution.listeners = tuple(listener for listener in offered if listener is not None)
        return execution

    def _goes_live(self, execution: Execution, session: Session) -> None:
        self.live[execution.id] = session.live[execution.id] = execution
        self.started_total += 1

    # What an earlier daemon has left waiting

    def _restore(self) -> None:
        """Hold it, the oldest first."""
        for left in self.records.left():
            session = self.held.session_of(left)
            execution = self._made(left.spec, session, left.execution_id)
            execution.created_at = left.accepted_at
            execution.log.number_from(left.next_seq)
            self.executions[execution.id] = session.executions[execution.id] = execution
            self.held.hold(execution, session)
            self.repeats.add(execution)
            self.records.is_held(execution)

    def _released(self, execution: Execution, session: Session) -> None:
        if self.draining:
            raise self.gate.closed()
        self.gate.admit_again(session, execution)
        execution.apply(Event.RELEASE)
        self._goes_live(execution, session)
        if self.turns.enter(execution, session):
            self._begin(execution, session)
        else:
            self.records.waits(execution)

    def find(
        self, execution_id: str, *, prefix: bool = False, visible: Callable[[Execution], bool] = lambda _: True
    ) -> Execution | None:
        """An execution by its id or, where asked for, by the only id that starts so; only of those that are visible."""
        found = self.executions.get(execution_id)
        if found is None and prefix and len(execution_id) >= PREFIX_LENGTH:
            matching = [each for key, each in self.executions.items() if key.startswith(execution_id) and visible(each)]
            found = matching[0] if len(matching) == 1 else None
        return found if found is not None and visible(found) else None

    async def recall(
        self, execution_id: str, principal: str | None = None, *, prefix: bool = False
    ) -> list[PastExecution]:
        """A principal's executions that have left the memory, by id or, where asked for, by its beginning: two at most.

        Args:
            execution_id: an id, or its beginning.
            principal: whose; None is anybody's.
            prefix: whether the beginning is enough, if it is long enough.
        """
        return await self.records.recall(execution_id, principal, prefix=prefix and len(execution_id) >= PREFIX_LENGTH)

    async def end_all(self, grace: float | None) -> list[Execution]:
        """End every session and execution and what they left running, and wait until that is done.

        It is bounded by each one's own escalation.

        Returns:
            The executions that were live.
        """
        self.draining = True
        ended = part(list(self.live.values()), Parting.SHUTDOWN, grace)
        for execution in ended:
            await execution.finished.wait()
        await self.leftovers.end(grace)
        return ended

    async def _run_execution(self, execution: Execution, session: Session, start: Start | None) -> None:
        """The barrier around one execution: whatever goes wrong in here ends that one only.

        Args:
            execution: admitted.
            session: whose it is.
            start: its leader; None where it has to be found out first whether and how that is started.
        """
        try:
            if start is None:
                await self.preparation.prepare(execution, session)
                self.records.begins(execution)
                start = self._start(execution)
            await supervise(execution, self._keeper, self._pump, start)
        except SpawnError as error:
            execution.could_not_start(error)
        except WithdrawnError:
            withdraw(execution)
        except AdmissionError as refused:
            self.gate.refused(session, execution.spec, refused)
            execution.could_not_start(SpawnError(errno.EACCES, str(refused), "program"))
        except Exception:
            log.exception("execution %s failed inside the daemon", execution.id)
            if start is not None:
                await start.abandon(self._keeper)
            execution.stdin.drop()
            if execution.is_live:
                execution.has_ended(Outcome(None, Reason.LOST, error="the daemon failed; its log says how"))
        finally:
            if execution.leader is not None and execution.leaves_running:
                self.leftovers.add(execution.leader, execution.grace)
            self._has_ended(execution, session)
            self.turns.left(execution, session)

    def _has_ended(self, execution: Execution, session: Session) -> None:
        """It is over, whether it has run or not."""
        for register in (self.live, session.live):
            register.pop(execution.id, None)  # what was held is in none
        self._remember(execution)
        self._set_idle_clock(session)
        self.gate.ended(session, execution)

    def _remember(self, execution: Execution) -> None:
        """Keep a finished execution for a while, and forget those that no longer fit."""
        for forgotten in self.records.finished(execution):
            del self.executions[forgotten.id]
            self.repeats.forget(forgotten)
            if (owner := self.sessions.get(forgotten.session_id)) is not None:
                owner.executions.pop(forgotten.id, None)

    def _require_nursery(self) -> trio.Nursery:
        if self._nursery is None:
            raise AssertionError("the engine is not running")
        return self._nursery
