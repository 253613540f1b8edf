"""Starts, finds and ends executions; owns the nursery that sessions live in.

Owns the register of executions and the order of their lives: admitted, queued or started, supervised, remembered. Each
session has a nursery of its own, and each execution a task in it; an execution that is to outlive its session runs in
the engine's nursery from the start. Must not know any wire format: it takes a `Spec` and raises `AdmissionError`.
"""

import errno
import logging
import os
from collections.abc import Callable, Mapping

import trio

from ccexecd.admission import AdmissionError, Gate, Refusal
from ccexecd.agent_detection import agent_listener
from ccexecd.budget import MOST_RUNNING
from ccexecd.config import Config
from ccexecd.core.execution import Event, Outcome, Reason
from ccexecd.core.rules import Policy
from ccexecd.core.sessions import Parting
from ccexecd.core.spec import Spec
from ccexecd.held import Held
from ccexecd.idempotency import IdempotencyKeys
from ccexecd.launching import Launching, with_stdio
from ccexecd.preparation import Preparation, WithdrawnError, withdraw
from ccexecd.process.execution import Execution
from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.leader import SpawnError
from ccexecd.process.leftovers import Leftovers
from ccexecd.process.line_buffering import LineBuffering
from ccexecd.process.listening import ListenerFactory
from ccexecd.process.pump import Pump
from ccexecd.process.shells import default_shell
from ccexecd.process.supervisor import Start, supervise
from ccexecd.records import Records, retention_of
from ccexecd.session import Session, Sessions, part
from ccexecd.storage.archive import Archive
from ccexecd.storage.audit import Audit
from ccexecd.storage.history import Wanted
from ccexecd.storage.past import HistoryUnavailableError, PastExecution
from ccexecd.turns import Turns

# The doors import these from here, since they must not import `process` or `storage`.
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
"""Characters of the shortest prefix of an id by which people may name an execution."""


class Engine:
    """All sessions and executions of a daemon.

    Args:
        config: the configuration in force; `reconfigure` replaces it.
        keeper: starts and signals all leaders.
        pump: reads all pipes and terminals.
        environ: the environment that executions inherit.
        archive: keeps output and records on disk; None for in memory only.
        audit: records decisions and outcomes; None for no audit.
        rules: the policy in force; None for no policy.
        budget: executions that may run at the same time where the configuration sets no limit.

    Attributes:
        config: the configuration in force.
        gate: judges every execution, and puts it on record, before it begins.
        preparation: what an execution waits for before its start: hooks, for instance.
        turns: the queue: which executions run, and which wait.
        held: the executions that waited when an earlier daemon ended.
        idempotency_keys: which execution a request that is sent again means.
        records: what is kept of executions in memory and in the archive.
        inherited: the environment that executions inherit.
        listener_factories: called with every execution that is made; each may return a listener to it.
        executions: every execution that is live or remembered, by id, oldest first.
        live: those of them that have not finished.
        sessions: the sessions that have not ended.
        draining: no new execution is admitted.
        started_total: executions admitted or released since the start.
        leftovers: processes that finished executions have left running.
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
        self.idempotency_keys = IdempotencyKeys(archive)
        self.listener_factories: list[ListenerFactory] = [agent_listener, self.records.estimates.listen]
        self.executions: dict[str, Execution] = {}
        self.live: dict[str, Execution] = {}
        self.sessions = Sessions(config, archive)
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
        """Hold the nursery that sessions live in, until cancelled.

        Args:
            task_status: called when executions can be admitted.
        """
        async with trio.open_nursery() as self._nursery:
            self._restore()
            self._nursery.start_soon(self.turns.run)
            task_status.started()
            await trio.sleep_forever()

    def reconfigure(self, config: Config, rules: Policy | None = None) -> None:
        """Use another configuration and policy from now on. What runs keeps what it was started with.

        Args:
            config: the new configuration.
            rules: the new policy; None for no policy.
        """
        self.config = config
        self.sessions.reconfigure(config)
        self.gate.reconfigure(config, rules)
        self.turns.reconfigure(config)
        if self._archive is not None:
            self._archive.retain(retention_of(config))

    # Sessions

    async def open_session(self, principal: str, peer: str = "") -> Session:
        """Make a session, admitted if there is room (see `Session.admitted`).

        Args:
            principal: name of the principal that it belongs to.
            peer: address of its connection.

        Raises:
            AdmissionError: the daemon is shutting down.
        """
        if self.turns.is_over:
            raise self.gate.closed()
        return await self.sessions.open(self._require_nursery(), principal, peer)

    # Executions

    def admit(self, session: Session, spec: Spec) -> Execution:
        """Accept a command, and start it or put it into the queue.

        Args:
            session: the session that it is to belong to.
            spec: what to run.

        Returns:
            The execution: it is being started (`Execution.spawned` tells when it runs), or has a `turn` to wait for.

        Raises:
            AdmissionError: it is not accepted.
        """
        try:
            execution = self._admitted(session, spec)
        except AdmissionError as refused:
            self.gate.refused(session, spec, refused)
            raise
        self.idempotency_keys.add(execution)
        if not self.turns.enter(execution, session):
            self.records.waits(execution)
        elif self.preparation.is_needed(execution):
            self._begin(execution, session)
        else:
            execution.apply(Event.ADMIT)
            self._supervise(execution, session, self._start(execution))
        return execution

    def _begin(self, execution: Execution, session: Session) -> None:
        """Begin an execution whose turn has come. Its own task starts it, so that a failure concerns no other one."""
        execution.apply(Event.ADMIT)
        self._supervise(execution, session, None)

    def _supervise(self, execution: Execution, session: Session, start: Start | None) -> None:
        nursery = self._require_nursery() if execution.spec.on_disconnect == "detach" else session.nursery
        (nursery or self._require_nursery()).start_soon(self._run_execution, execution, session, start)

    def _start(self, execution: Execution) -> Start:
        launch = self._launching.launch(execution, self.config, self.preparation.line_buffering)
        start = Start(execution, self._keeper, launch)
        self.records.begin(execution)  # the disk is written while the keeper starts the leader
        return start

    def _withdrawn(self, execution: Execution, session: Session) -> None:
        """End an execution that waited or was held, and never ran."""
        withdraw(execution)
        self._has_ended(execution, session)

    def _admitted(self, session: Session, spec: Spec) -> Execution:
        if self.draining or session.nursery is None or session.ended:
            raise self.gate.closed()
        if not self.sessions.claim(session):
            limit = self.config.max_sessions
            raise AdmissionError(
                Refusal.SESSION_LIMIT,
                f"session limit reached: all {limit} sessions are taken; end one, or raise max_sessions",
                max_sessions=limit,
            )
        self.turns.require_room(session, spec.lane)
        ruling = self.gate.ruling(session, spec)
        spec = with_stdio(ruling.spec, self._pump)
        execution = self._made(spec, session)
        self.gate.admitted(session, execution, ruling)
        self.executions[execution.id] = session.executions[execution.id] = execution
        self._goes_live(execution, session)
        self.sessions.has_run(session)
        return execution

    def _made(self, spec: Spec, session: Session, execution_id: str = "") -> Execution:
        window, lines = self.config.max_buffer_size, self.config.max_buffer_lines
        execution = Execution(spec, session.id, self._keeper, self._pump, window, lines, execution_id)
        execution.principal = session.principal
        offered = [factory(execution) for factory in self.listener_factories]
        execution.listeners = tuple(listener for listener in offered if listener is not None)
        return execution

    def _goes_live(self, execution: Execution, session: Session) -> None:
        self.live[execution.id] = session.live[execution.id] = execution
        self.started_total += 1

    # What an earlier daemon has left waiting

    def _restore(self) -> None:
        """Hold what an earlier daemon has left waiting, the oldest first."""
        for left in self.records.left():
            session = self.held.session_of(left)
            execution = self._made(left.spec, session, left.execution_id)
            execution.created_at = left.accepted_at
            execution.log.number_from(left.next_seq)
            self.executions[execution.id] = session.executions[execution.id] = execution
            self.held.hold(execution, session)
            self.idempotency_keys.add(execution)
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
        """Find an execution in memory.

        Args:
            execution_id: its id or, with `prefix`, at least `PREFIX_LENGTH` characters of its beginning.
            prefix: whether a beginning that only one visible execution has is enough.
            visible: whether whoever asks may see an execution.

        Returns:
            The execution; None where none, or more than one, is meant.
        """
        found = self.executions.get(execution_id)
        if found is None and prefix and len(execution_id) >= PREFIX_LENGTH:
            matching = [each for key, each in self.executions.items() if key.startswith(execution_id) and visible(each)]
            found = matching[0] if len(matching) == 1 else None
        return found if found is not None and visible(found) else None

    async def recall(
        self, execution_id: str, principal: str | None = None, *, prefix: bool = False
    ) -> list[PastExecution]:
        """Find executions that have left the memory.

        Args:
            execution_id: an id or, with `prefix`, at least `PREFIX_LENGTH` characters of its beginning.
            principal: name of the principal that they belong to; None for any.
            prefix: whether a beginning is enough.

        Returns:
            Those that match, two at most: two say that the beginning is ambiguous.

        Raises:
            HistoryUnavailableError: the history cannot be read now.
        """
        return await self.records.recall(execution_id, principal, prefix=prefix and len(execution_id) >= PREFIX_LENGTH)

    async def end_all(self, grace: float | None) -> list[Execution]:
        """End every execution and what executions left running, and wait until that is done.

        The wait is bounded, because the escalation of each execution is.

        Args:
            grace: seconds from TERM to KILL; None for each one's own.

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
        """Run one execution. This is the barrier around it: whatever goes wrong in here ends this execution only.

        Args:
            execution: admitted.
            session: the session that it belongs to.
            start: its start, which is under way; None where the execution has to be prepared first.
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
        """Remember an execution that has finished, whether it has run or not."""
        for register in (self.live, session.live):
            register.pop(execution.id, None)  # one that was held is in neither
        self._remember(execution)
        self.sessions.set_clock(session)
        self.gate.ended(session, execution)

    def _remember(self, execution: Execution) -> None:
        """Keep a finished execution for a while, and forget those that no longer fit."""
        for forgotten in self.records.finished(execution):
            del self.executions[forgotten.id]
            self.idempotency_keys.forget(forgotten)
            if (owner := self.sessions.get(forgotten.session_id)) is not None:
                owner.executions.pop(forgotten.id, None)

    def _require_nursery(self) -> trio.Nursery:
        if self._nursery is None:
            raise AssertionError("the engine is not running")
        return self._nursery
