"""Starts, finds and ends executions; owns the nursery that sessions live in.

Owns the two registers (sessions, executions), admission, what a parting connection means, and how long finished
executions are remembered. Each session has a nursery of its own, and each execution a task in it; an execution that
is to outlive its session runs in the engine's nursery from the start. Must not know any wire format: it takes a
`Spec` and raises `AdmissionError`.
"""

import logging
import os
import secrets
import shutil
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum

import attrs
import trio

from ccexecd.agents.claude import is_claude, reader_for
from ccexecd.config import Config
from ccexecd.core import policy
from ccexecd.core.execution import Event, Outcome, Reason
from ccexecd.core.sessions import REASONS, Parting, ends
from ccexecd.core.shells import is_plain
from ccexecd.core.spec import Spec
from ccexecd.process.execution import Execution
from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.leader import Launch, SpawnError
from ccexecd.process.leftovers import Leftovers
from ccexecd.process.line_buffering import PRELOAD, LineBuffering
from ccexecd.process.pump import Pump
from ccexecd.process.shells import argv_of, default_shell
from ccexecd.process.supervisor import Start, supervise

# What the doors are given, executions and their errors among it: they do not import `process`.
__all__ = ["AdmissionError", "Engine", "Execution", "Refusal", "Session", "SpawnError", "default_shell", "part"]

log = logging.getLogger(__name__)

REMEMBERED_EXECUTIONS = 1000
"""Finished executions that `list`, `status` and `logs` still answer for."""

REMEMBERED_BYTES = 32 * 1024 * 1024
"""Bytes of output of finished executions that stay in memory; the oldest go first."""

REMOVED_WHEN_EMPTY = ("ANTHROPIC_API_KEY",)
"""Names that must not be passed on empty: an empty key makes Claude Code wait for ever."""


TERMINAL_KIND = "xterm-256color"
"""TERM of a program on a terminal, where nobody names another: what people's terminals, and browsers', are like."""
PREFIX_LENGTH = 4
"""Characters of the shortest beginning of an id that can stand for it."""


class Refusal(Enum):
    """Why an execution was not admitted."""

    SESSION_LIMIT = "session limit"
    NOT_ALLOWED = "not allowed"
    DRAINING = "draining"


class AdmissionError(Exception):
    """An execution is not admitted. Nothing of it exists.

    Attributes:
        refusal: which rule refused.
        facts: further facts for the client.
    """

    def __init__(self, refusal: Refusal, message: str, **facts: object) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.facts = facts


@attrs.define(eq=False)
class Session:
    """A client's claim.

    Attributes:
        id: what clients call it.
        principal: whose it is, by name, and so its executions.
        resume_token: proves the claim after a cut.
        executions: all of it that are remembered, by id, oldest first.
        live: those of them that have not finished.
        admitted: it counts against the limit; a session beyond it may look, not execute.
        drop_connection: closes the connection that holds it; None while it has none.
        is_cut: its connection was cut, and it waits to be resumed.
        ended: how, once it has been decided.
    """

    principal: str
    id: str = attrs.field(factory=lambda: str(uuid.uuid4()))
    resume_token: str = attrs.field(factory=lambda: secrets.token_urlsafe(32), repr=False)
    executions: dict[str, Execution] = attrs.field(factory=dict)
    live: dict[str, Execution] = attrs.field(factory=dict)
    admitted: bool = False
    drop_connection: Callable[[Parting], None] | None = None
    is_cut: bool = False
    ended: Parting | None = None
    nursery: trio.Nursery | None = None
    _ending: trio.Event = attrs.field(factory=trio.Event)
    _clock: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def expires_in(self, seconds: float | None) -> None:
        """Set its clock: it ends after so many seconds unless told otherwise; None stops the clock."""
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
            part(list(self.live.values()), self.ended or Parting.EXPIRED)
        if self.drop_connection is not None:
            self.drop_connection(self.ended or Parting.EXPIRED)


def part(executions: Iterable[Execution], parting: Parting, grace: float | None = None) -> list[Execution]:
    """End those live executions that a parting ends, and return them."""
    ended = [each for each in executions if each.is_live and ends(each.spec.on_disconnect, parting)]
    for execution in ended:
        execution.cancel(REASONS[parting], grace)
    return ended


def _with_stdio(spec: Spec) -> Spec:
    """Where its output goes: into files for what may exit before a pipe has taken it all, where they hold nobody up."""
    if spec.stdio != "auto" or spec.pty is not None or spec.policy == "block" or not is_claude(spec):
        return spec
    return attrs.evolve(spec, stdio="file")


class Engine:
    """All sessions and executions of a daemon.

    Args:
        config: the configuration in force; `reconfigure` replaces it.
        keeper: parent of all leaders.
        pump: reader of all pipes.
        environ: what executions inherit.

    Attributes:
        executions: every one that is live or remembered, by id, oldest first.
        live: those of them that have not finished.
        sessions: every one that has not ended.
        draining: no new execution is admitted.
        started_total: how many have been admitted since the start.
        leftovers: what finished ones have left running.
    """

    def __init__(self, config: Config, keeper: KeeperClient, pump: Pump, environ: Mapping[str, str]) -> None:
        self.config = config
        self.executions: dict[str, Execution] = {}
        self.live: dict[str, Execution] = {}
        self.sessions: dict[str, Session] = {}
        self.draining = False
        self.started_total = 0
        self.leftovers = Leftovers(keeper)
        self._keeper = keeper
        self._pump = pump
        self._inherited = {"PYTHONUNBUFFERED": "1", **environ}
        self._is_plain = is_plain(self._inherited)
        self._line_buffering = LineBuffering(self._inherited.get("PATH", os.defpath))
        keeper.inherit(self._inherited)
        self._remembered: deque[Execution] = deque()
        self._remembered_bytes = 0
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the nursery that sessions live in, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def reconfigure(self, config: Config) -> None:
        """Use another configuration from now on; what runs keeps what it was started with."""
        self.config = config

    # Sessions

    async def open_session(self, principal: str) -> Session:
        """Make a session, counted against the limit where there is room."""
        session = Session(principal)
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

    def _set_idle_clock(self, session: Session) -> None:
        """A session without live executions ends after `session_timeout`; a cut one after its own time."""
        if not session.is_cut:
            session.expires_in(None if session.live else self.config.session_timeout)

    # Executions

    def admit(self, session: Session, spec: Spec) -> Execution:
        """Accept a command and start it in the background; `Execution.spawned` tells when it runs.

        Raises:
            AdmissionError: it is not accepted.
        """
        if self.draining or session.nursery is None or session.ended:
            raise AdmissionError(Refusal.DRAINING, "the daemon is shutting down and takes no new commands")
        if not self._claim(session):
            limit = self.config.max_sessions
            raise AdmissionError(
                Refusal.SESSION_LIMIT,
                f"session limit reached: all {limit} sessions are taken; end one, or raise max_sessions",
                max_sessions=limit,
            )
        spec = _with_stdio(self._judged(spec))
        window = self.config.max_buffer_size
        execution = Execution(spec, session.id, self._keeper, self._pump, window, reader_for(spec))
        execution.principal = session.principal
        execution.apply(Event.ADMIT)
        self.executions[execution.id] = self.live[execution.id] = execution
        session.executions[execution.id] = session.live[execution.id] = execution
        self.started_total += 1
        self._set_idle_clock(session)
        nursery = self._require_nursery() if spec.on_disconnect == "detach" else session.nursery
        is_ready = not spec.stdbuf or self._line_buffering.is_known
        start = Start(execution, self._keeper, self._launch(execution)) if is_ready else None
        nursery.start_soon(self._run_execution, execution, session, start)
        return execution

    def find(
        self, execution_id: str, *, prefix: bool = False, visible: Callable[[Execution], bool] = lambda _: True
    ) -> Execution | None:
        """An execution by its id or, where asked for, by the only id that starts so; only of those that are visible."""
        found = self.executions.get(execution_id)
        if found is None and prefix and len(execution_id) >= PREFIX_LENGTH:
            matching = [each for key, each in self.executions.items() if key.startswith(execution_id) and visible(each)]
            found = matching[0] if len(matching) == 1 else None
        return found if found is not None and visible(found) else None

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

    def _judged(self, spec: Spec) -> Spec:
        """The spec as the policy lets it run: under an allow-list, a command string runs without its shell."""
        allowed = self.config.allowed_commands
        if allowed is None:
            return spec
        try:
            argv = policy.words_of(spec.display) if spec.shell else spec.argv
            policy.judge(argv, self._changes_of(spec), allowed, self._resolve)
        except policy.RefusedError as refused:
            facts = {"environment": list(refused.environment)} if refused.environment else {}
            raise AdmissionError(Refusal.NOT_ALLOWED, f"command not allowed: {refused}", **facts) from None
        return attrs.evolve(spec, argv=argv, shell=False)

    def _changes_of(self, spec: Spec) -> dict[str, str]:
        """What of a client's environment is not inherited anyway: a terminal's is mostly the daemon's own."""
        withheld = self.config.unset_environment
        removed = {name: "" for name in spec.unset if name in self._inherited}
        added = spec.env.items()
        return removed | {name: text for name, text in added if name in withheld or self._inherited.get(name) != text}

    def _resolve(self, program: str) -> str | None:
        found = shutil.which(program, path=self._inherited.get("PATH", os.defpath))
        return os.path.realpath(found) if found else None

    async def _run_execution(self, execution: Execution, session: Session, start: Start | None) -> None:
        """The barrier around one execution: whatever goes wrong in here ends that one only.

        Args:
            execution: admitted.
            session: whose it is.
            start: its leader; None where it has to be found out first how that is started.
        """
        try:
            if start is None:
                await self._line_buffering.find()
                start = Start(execution, self._keeper, self._launch(execution))
            await supervise(execution, self._keeper, self._pump, start)
        except SpawnError as error:
            execution.could_not_start(error)
        except Exception:
            log.exception("execution %s failed inside the daemon", execution.id)
            if start is not None:
                await start.abandon(self._keeper)
            execution.stdin.drop()
            if execution.is_live:
                execution.has_ended(Outcome(None, Reason.LOST, error="the daemon failed; its log says how"))
        finally:
            del self.live[execution.id], session.live[execution.id]
            if execution.leader is not None and execution.leaves_running:
                self.leftovers.add(execution.leader, execution.grace)
            self._remember(execution)
            self._set_idle_clock(session)

    def _launch(self, execution: Execution) -> Launch:
        """What the keeper is asked to start, in the inherited environment with the client's changes and who it is."""
        spec = execution.spec
        removed = {*self.config.unset_environment, *spec.unset}
        where = {"PWD": os.path.join("/", spec.cwd or "")}  # noqa: PTH118  # ours, which it would inherit, is another place
        added = {**where, **spec.env, "CCEXEC_SESSION_ID": execution.session_id, "CCEXEC_EXECUTION_ID": execution.id}
        if spec.pty is not None and not added.get("TERM", self._inherited.get("TERM")):
            added["TERM"] = TERMINAL_KIND
        for name in REMOVED_WHEN_EMPTY:
            if not added.get(name, self._inherited.get(name)):
                removed.add(name)
        if spec.stdbuf:
            preloaded = None if PRELOAD in removed else added.get(PRELOAD, self._inherited.get(PRELOAD))
            names = self._line_buffering.names(preloaded)
            added, removed = {**added, **names}, removed - names.keys()
        argv = spec.argv
        if spec.shell and self.config.shell is None and self._is_plain and is_plain(spec.env):
            path = None if "PATH" in removed else added.get("PATH", self._inherited.get("PATH"))
            argv = argv_of(spec.display, path or os.defpath)
        return Launch(argv, spec.cwd, added, spec.grace, tuple(removed), spec.limits.as_set())

    def _remember(self, execution: Execution) -> None:
        """Keep a finished execution for a while, and forget those that no longer fit."""
        self._remembered.append(execution)
        self._remembered_bytes += execution.log.held_bytes
        while len(self._remembered) > 1 and (
            len(self._remembered) > REMEMBERED_EXECUTIONS or self._remembered_bytes > REMEMBERED_BYTES
        ):
            forgotten = self._remembered.popleft()
            self._remembered_bytes -= forgotten.log.held_bytes
            del self.executions[forgotten.id]
            session = self.sessions.get(forgotten.session_id)
            if session is not None:
                session.executions.pop(forgotten.id, None)

    def _require_nursery(self) -> trio.Nursery:
        if self._nursery is None:
            raise AssertionError("the engine is not running")
        return self._nursery
