"""One execution while it lives, and what is known of it afterwards.

Owns its state, its output log and its watchers, which are called in the same step in which the log has grown. Whatever
is asked of an execution (pause, resume, cancel, signal) goes through here, so that the table in `core.execution` sees
every event. Must not start or end anything by itself: its supervisor does.
"""

import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import trio

from ccexecd.core.display import Display
from ccexecd.core.entries import Stream
from ccexecd.core.execution import Event, Outcome, Reason, State, step
from ccexecd.core.framing import Framer
from ccexecd.core.output import OutputLog
from ccexecd.core.queue import Turn
from ccexecd.core.result import FinalResult
from ccexecd.core.spec import Spec
from ccexecd.process.final_result import ResultWatch
from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.leader import Leader, SpawnError
from ccexecd.process.listening import Listener
from ccexecd.process.pacing import Pacing
from ccexecd.process.pausing import Pausing
from ccexecd.process.pump import Pump
from ccexecd.process.standard_input import StandardInput
from ccexecd.process.stopwatch import Stopwatch
from ccexecd.process.terminal import Terminal

Watcher = Callable[[], None]
"""Called in the step in which the log has grown. Must neither block nor raise."""


class Execution:
    """One accepted command.

    Args:
        spec: what to run.
        session_id: the session that it belongs to.
        keeper: signals and lists its processes.
        pump: reads its output.
        window: bytes of output that are kept in memory; a line is passed on in parts when it gets longer.
        most_lines: lines of output that are kept in memory; None for no limit.
        execution_id: its id under an earlier daemon; empty for a new execution.

    Attributes:
        id: its UUID, never reused.
        principal: name of the principal that it belongs to; empty until it is admitted.
        state: where it stands.
        turn: its place in the queue, or among those that are held; None if it neither waits nor is held.
        log: its output and state changes.
        watchers: called whenever the log has grown.
        listeners: called at each event of its life, in the step in which it happens.
        signs_of_life: the streams on which output ends a silence (see `idle_seconds`).
        leader: its first process; None until it has started.
        spawned: set when it has started, or could not be started.
        terminal: the terminal that it runs on; None if it has pipes.
        stdin: its standard input: the terminal or a pipe.
        spawn_error: why it could not be started; None otherwise.
        outcome: how it ended; None until it has.
        pacing: how far it may run ahead of its watchers.
        clock: its own time, which stands still while it is paused.
        finished: set when nothing of it is left and `process.completed` is in the log.
        scope: its supervisor waits in it for the end; cancelling it begins the escalation from TERM to KILL.
        hurry: its supervisor waits in it from TERM to KILL; cancelling it sends KILL now.
        final_result: what its agent said last; None where no final result is waited for.
        counts_by: the final result that decides its outcome, if it was ended because of that; else None.
        intent: why it is being ended, from the first decision on; None before.
        grace: seconds from TERM to KILL, as the spec or whoever ends it says.
        created_at: when it was accepted.
        started_at: when it started; None until then.
        finished_at: when it finished; None until then.
    """

    def __init__(
        self,
        spec: Spec,
        session_id: str,
        keeper: KeeperClient,
        pump: Pump,
        window: int,
        most_lines: int | None = None,
        execution_id: str = "",
    ) -> None:
        self.principal = ""
        self.id = execution_id or str(uuid.uuid4())
        self.spec = spec
        self.session_id = session_id
        self.state = State.QUEUED
        self.turn: Turn | None = None
        self.log = OutputLog(window, most_lines=most_lines)
        self.watchers: set[Watcher] = set()
        self.listeners: tuple[Listener, ...] = ()
        self.signs_of_life: tuple[Stream, ...] = ("stdout", "stderr")
        self.leader: Leader | None = None
        self.spawned = trio.Event()
        self.terminal = Terminal(self.id, self.spawned, spec.pty) if spec.pty is not None else None
        self.stdin = self.terminal or StandardInput(self.id, self.spawned)
        self.spawn_error: SpawnError | None = None
        self.outcome: Outcome | None = None
        self.finished = trio.Event()
        self.pacing = Pacing(pump, spec.policy, window)
        self.final_result: ResultWatch | None = None
        self.counts_by: FinalResult | None = None
        self.scope, self.hurry = trio.CancelScope(), trio.CancelScope()
        self.clock = Stopwatch(self.scope)
        self.intent: Reason | None = None
        self.grace = spec.grace
        self.created_at = datetime.now(UTC)
        self.started_at: datetime | None = None
        self.finished_at: datetime | None = None
        self._started_clock = self._finished_clock = time.monotonic()
        self._keeper = keeper
        self._last_output = 0.0  # on its own clock
        self._pausing = Pausing(keeper)
        self._framers = {stream: Framer(spec.framing, window) for stream in self.log.sizes}

    # What the supervisor and the queue report

    def is_waiting(self, position: int) -> None:
        """It waits for its turn.

        Args:
            position: its place in the queue; 1 is the front.
        """
        self.note("process.queued", {"status": "queued", "queue_position": position})

    def has_started(self, leader: Leader) -> None:
        """Its leader runs; its time-out and its clock begin."""
        self.leader = leader
        self.started_at = datetime.now(UTC)
        self._started_clock = time.monotonic()
        self._last_output = self.clock.now
        if self.spec.timeout is not None:
            self.scope.deadline = trio.current_time() + self.spec.timeout
        self.apply(Event.SPAWNED)
        self.note("process.started", {"status": "started", **self.process_ids})
        self.spawned.set()
        self._pausing.has_started()
        for listener in self.listeners:
            listener.has_started()

    def could_not_start(self, error: SpawnError) -> None:
        """It has ended without a leader: nothing of it ever ran."""
        self.stdin.drop()
        self.spawn_error = error
        self.has_ended(Outcome(None, Reason.SPAWN_FAILED, error=str(error)))

    def has_output(self, stream: Stream, received: bytes) -> None:
        """Take what one read brought: into the log, and on to the watchers, in this step."""
        if stream in self.signs_of_life:
            self._last_output = self.clock.now
        self.log.extend(stream, received, self._framers[stream].feed(received))
        self._wake_watchers()
        self.pacing.has_grown(self.log.backlog)

    def was_read(self) -> None:
        """A watcher has read on, or has left: output that was held for it may go on."""
        if self.pacing.was_read(self.log.backlog):
            self._last_output = self.clock.now

    def is_stalling(self) -> None:
        """It has been silent for so long that its stall time-out is near: warn its watchers."""
        idle = self.idle_seconds
        since = datetime.now(UTC) - timedelta(seconds=idle)
        self.note("process.stalled", {"idle_s": round(idle, 3), "last_output_at": since.isoformat()})
        for listener in self.listeners:
            listener.is_stalling()

    def is_beyond(self, limit: str) -> None:
        """Its tree is beyond a limit: end it, at once unless the limit is `cpu_seconds`, which leaves time for TERM.

        Args:
            limit: which one, as `core.spec.Limits` names it.
        """
        if self.intent is None and self.is_live:
            self.cancel(Reason.LIMIT, None if limit == "cpu_seconds" else 0.0)

    def outstays(self, shown: ResultWatch) -> None:
        """Its agent has stayed too long after its final result: end it; that result decides the outcome."""
        self.counts_by = shown.result
        self.note("task.early_completion", {**shown.told(self.spec), **self.process_ids})
        self.cancel(Reason.POST_RESULT)

    def has_no_more_output(self) -> None:
        """Its output has ended: log the unfinished lines that the framers still hold."""
        for stream, framer in self._framers.items():
            self.log.extend(stream, b"", framer.finish())
        for listener in self.listeners:
            listener.is_ending()

    def has_ended(self, outcome: Outcome) -> None:
        """Nothing of it is left: log the outcome as the last entry, and tell watchers and listeners."""
        self.apply(Event.END)
        self.outcome = outcome
        self.finished_at = datetime.now(UTC)
        self._finished_clock = time.monotonic()
        try:
            if outcome.reason is Reason.CANCELLED:
                self.note("process.cancelled", {"status": "cancelled", **self.process_ids})
            self.note("process.completed", self.completion(outcome))
            self.log.close()
        finally:  # should that fail: the daemon's own end waits for this
            self.spawned.set()
            self.finished.set()
        self._wake_watchers()
        for listener in self.listeners:
            listener.has_ended()

    def completion(self, outcome: Outcome) -> dict[str, Any]:
        """The params of `process.completed`."""
        told = {**outcome.told(self.duration, self.log.sizes, self.log.dropped_bytes), **self.process_ids}
        for listener in self.listeners:
            told.update(listener.final_facts())
        return told

    # What others ask of it

    @property
    def is_live(self) -> bool:
        """Whether it has not finished."""
        return self.state is not State.FINISHED

    @property
    def shown_as(self) -> Display:
        """How its output is shown to watchers."""
        return Display(self.spec.framing == "raw", self.spec.max_line_bytes)

    @property
    def leaves_running(self) -> bool:
        """Whether it has finished with `leftovers: "detach"`, and processes of it still run."""
        detached = self.outcome is not None and self.outcome.detached
        return detached and self.leader is not None and not self.leader.gone.is_set()

    @property
    def duration(self) -> float:
        """Seconds from its start to its end, or to now; 0 if it never started."""
        if self.started_at is None:
            return 0.0
        end = time.monotonic() if self.is_live else self._finished_clock
        return round(end - self._started_clock, 6)

    @property
    def idle_seconds(self) -> float:
        """Seconds since its last output, or since its start; pauses are not counted."""
        if self.pacing.is_held:  # its output is not being read, so it may be waiting for us
            return 0.0
        return self.clock.now - self._last_output

    @property
    def pid(self) -> int | None:
        """Its leader's pid, which is its process group too; None before it has started."""
        return self.leader.pid if self.leader else None

    @property
    def process_ids(self) -> dict[str, int | None]:
        """Its pid and process group, as notifications name them."""
        return {"pid": self.pid, "pgid": self.pid}

    def apply(self, event: Event) -> None:
        """Change its state by an event.

        Raises:
            IllegalTransitionError: its state does not admit the event; nothing has changed.
        """
        self.state = step(self.state, event)

    def cancel(self, reason: Reason, grace: float | None = None) -> None:
        """Decide that it ends. Its supervisor carries that out; one that waits for its turn has ended on return.

        Args:
            reason: why. Only the first decision gives the reason.
            grace: seconds from TERM to KILL; None for the spec's. In a repeated call, a shorter grace counts from now.

        Raises:
            IllegalTransitionError: it has finished.
        """
        self.apply(Event.TERMINATE)
        self.intent = self.intent or reason
        if self.turn is not None:
            self.turn.give_up()
            return
        if grace is not None:
            self.grace = grace
            self.hurry.deadline = min(self.hurry.deadline, trio.current_time() + grace)
        self.scope.cancel(reason=self.intent.value)

    def pause(self) -> Awaitable[list[int]]:
        """Decide to stop every process of it; its clock stands still from now on.

        While it is being started, the decision is put off until it has, and `IllegalTransitionError` comes from what is
        awaited.

        Returns:
            To be awaited until they have stopped: gives the pids that could not be stopped, and raises
            `IllegalTransitionError` if the execution is being ended by then.

        Raises:
            IllegalTransitionError: it is not running.
        """
        return self._pausing.pause(self)

    def resume(self) -> Awaitable[list[int]]:
        """Decide to let all of its processes go on, and its clock. It is put off like `pause`.

        Returns:
            To be awaited until they go on; gives an empty list, and raises as for `pause`.

        Raises:
            IllegalTransitionError: it is not paused.
        """
        return self._pausing.resume(self)

    async def signal(self, signum: int) -> None:
        """Send a signal to every process of it.

        Args:
            signum: any signal's number.
        """
        await self._keeper.signal(self.require_leader(), signum)

    async def processes(self) -> list[int]:
        """The pids of its living processes; after its end, of those that it left running."""
        return await self._keeper.members(self.leader) if self.leader is not None else []

    def watch(self, watcher: Watcher) -> None:
        """Call a watcher whenever the log has grown."""
        self.watchers.add(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Call a watcher no longer."""
        self.watchers.discard(watcher)

    def require_leader(self) -> Leader:
        """Return its leader, which it has whenever its state admits what this is asked for.

        Raises:
            AssertionError: it has none.
        """
        if self.leader is None:
            raise AssertionError(f"execution {self.id} is {self.state.value} without a leader")
        return self.leader

    def note(self, method: str, params: dict[str, Any]) -> None:
        """Add a notification to its log: a state change, or a warning."""
        self.log.note(method, params)
        self._wake_watchers()

    def _wake_watchers(self) -> None:
        for watcher in tuple(self.watchers):
            watcher()
