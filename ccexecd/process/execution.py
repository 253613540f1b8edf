"""One execution while it lives, and what is known of it afterwards.

Owns its state, its output log and its watchers, and tells the latter, in the same step, whenever the log has grown.
What is asked of it (pause, resume, cancel, signal) goes through here, so that the table in `core.execution` sees
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
from ccexecd.core.execution import Event, IllegalTransitionError, Outcome, Reason, State, step
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
        session_id: whose it is.
        keeper: whom to ask about its processes.
        pump: what reads its output.
        window: bytes of output that are kept in memory, and the longest line that is waited for.
        most_lines: lines of output that are kept in memory; None is without limit.
        execution_id: the one that it has had under an earlier daemon; empty for a fresh one.

    Attributes:
        id: its UUID, never reused.
        principal: whose it is, by name; nobody else's until it has been admitted.
        state: where it stands.
        turn: its place among those that wait or are held; None if it does neither.
        log: its output and state changes.
        watchers: who is told when the log has grown.
        listeners: who is told, while it happens, what becomes of it.
        signs_of_life: streams that end a silence by what is written to them.
        leader: its first process, once there is one.
        spawned: set when it has started, or could not be.
        terminal: what it runs on; None if it has pipes.
        stdin: what it reads: the terminal, or its own.
        spawn_error: why it could not.
        outcome: how it ended, once it has.
        pacing: how far it may run ahead of its watchers.
        clock: its own time, which stands still while it is paused.
        finished: set when nothing of it is left and `process.completed` is in the log.
        scope: its supervisor waits in it for the end; cancelling it begins the escalation from TERM to KILL.
        final_result: what its agent said last; None where nobody waits for that.
        counts_by: the final result by which it counts, since it was ended because of it.
        hurry: the wait from TERM to KILL; cancelling it makes it KILL now.
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
        self._control_done: trio.Event | None = None
        self._told = "resumed"
        self._deferred: list[Callable[[], None]] = []
        self._framers = {stream: Framer(spec.framing, window) for stream in self.log.sizes}

    # What its supervisor reports, and whoever lets it wait

    def is_waiting(self, position: int) -> None:
        """It waits for its turn, at so many from the front."""
        self.note("process.queued", {"status": "queued", "queue_position": position})

    def has_started(self, leader: Leader) -> None:
        """There is a leader; the clock runs."""
        self.leader = leader
        self.started_at = datetime.now(UTC)
        self._started_clock = time.monotonic()
        self._last_output = self.clock.now
        if self.spec.timeout is not None:
            self.scope.deadline = trio.current_time() + self.spec.timeout
        self.apply(Event.SPAWNED)
        self.note("process.started", {"status": "started", **self._process_ids()})
        self.spawned.set()
        for decide in self._deferred:
            decide()
        for listener in self.listeners:
            listener.has_started()

    def could_not_start(self, error: SpawnError) -> None:
        """There will never be a leader."""
        self.stdin.drop()
        self.spawn_error = error
        self.has_ended(Outcome(None, Reason.SPAWN_FAILED, error=str(error)))

    def has_output(self, stream: Stream, received: bytes) -> None:
        """Bytes were read."""
        if stream in self.signs_of_life:
            self._last_output = self.clock.now
        self.log.extend(stream, received, self._framers[stream].feed(received))
        self._wake_watchers()
        self.pacing.has_grown(self.log.backlog)

    def was_read(self) -> None:
        """A watcher has moved on, or gone."""
        if self.pacing.was_read(self.log.backlog):
            self._last_output = self.clock.now

    def is_stalling(self) -> None:
        """It has been silent for so long that its stall time-out is near."""
        idle = self.idle_seconds
        since = datetime.now(UTC) - timedelta(seconds=idle)
        self.note("process.stalled", {"idle_s": round(idle, 3), "last_output_at": since.isoformat()})
        for listener in self.listeners:
            listener.is_stalling()

    def is_beyond(self, limit: str) -> None:
        """Its tree uses more than it may. What takes memory or forks is not asked to leave off: it is ended now."""
        if self.intent is None and self.is_live:
            self.cancel(Reason.LIMIT, None if limit == "cpu_seconds" else 0.0)

    def outstays(self, shown: ResultWatch) -> None:
        """Its agent has shown its final result and has not ended: it is ended now, and counts by that."""
        self.counts_by = shown.result
        self.note("task.early_completion", {**shown.told(self.spec), **self._process_ids()})
        self.cancel(Reason.POST_RESULT)

    def has_no_more_output(self) -> None:
        """Both pipes are at their end: what the framers held goes out now."""
        for stream, framer in self._framers.items():
            self.log.extend(stream, b"", framer.finish())
        for listener in self.listeners:
            listener.is_ending()

    def has_ended(self, outcome: Outcome) -> None:
        """All of it is over."""
        self.apply(Event.END)
        self.outcome = outcome
        self.finished_at = datetime.now(UTC)
        self._finished_clock = time.monotonic()
        if outcome.reason is Reason.CANCELLED:
            self.note("process.cancelled", {"status": "cancelled", **self._process_ids()})
        self.note("process.completed", self.completion(outcome))
        self.log.close()
        self.spawned.set()
        self.finished.set()
        self._wake_watchers()
        for listener in self.listeners:
            listener.has_ended()

    def completion(self, outcome: Outcome) -> dict[str, Any]:
        """The params of `process.completed`."""
        told = {**outcome.told(self.duration, self.log.sizes, self.log.dropped_bytes), **self._process_ids()}
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
        """How its output is shown."""
        return Display(self.spec.framing == "raw", self.spec.max_line_bytes)

    @property
    def leaves_running(self) -> bool:
        """Whether it has finished, was told to leave what it left running, and some of that still runs."""
        detached = self.outcome is not None and self.outcome.detached
        return detached and self.leader is not None and not self.leader.gone.is_set()

    @property
    def duration(self) -> float:
        """Seconds from its start to its end, or to now."""
        if self.started_at is None:
            return 0.0
        end = time.monotonic() if self.is_live else self._finished_clock
        return round(end - self._started_clock, 6)

    @property
    def idle_seconds(self) -> float:
        """Seconds since it wrote, or since it started; pauses are not counted."""
        if self.pacing.is_held:  # it is we who keep it from writing
            return 0.0
        return self.clock.now - self._last_output

    @property
    def pid(self) -> int | None:
        """Its leader's pid, which is its process group too; None before it has started."""
        return self.leader.pid if self.leader else None

    def apply(self, event: Event) -> None:
        """Take an event.

        Raises:
            IllegalTransitionError: the state does not admit it; nothing has changed.
        """
        self.state = step(self.state, event)

    def cancel(self, reason: Reason, grace: float | None = None) -> None:
        """Decide that it ends; its supervisor does the rest. What waits for its turn has ended when this returns.

        Args:
            reason: why; the first decision gives the reason.
            grace: seconds from TERM to KILL; None is the spec's. Asked again, a shorter one counts from now.

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
        """Stop every process of it; its clock stands still.

        Returns:
            What to await for the stop: the pids that could not be stopped. Raises, too, where an end has overtaken it.

        Raises:
            IllegalTransitionError: at once, if it is not running. While it is being started, that is decided when it
                has, in the order in which it was asked for; so it is raised by what is awaited.
        """
        if self.state is State.STARTING:
            return self._once_started(self.pause, Event.PAUSE)
        self.apply(Event.PAUSE)
        self.clock.stop()  # where a resume has been decided and not been done, it stands still already
        return self._in_turn(Event.PAUSE, self._stop, "process.paused", "paused")

    def resume(self) -> Awaitable[list[int]]:
        """Let it go on, and its clock.

        Returns:
            What to await for it.

        Raises:
            IllegalTransitionError: at once, if it is not paused; likewise.
        """
        if self.state is State.STARTING:
            return self._once_started(self.resume, Event.RESUME)
        self.apply(Event.RESUME)
        return self._in_turn(Event.RESUME, self._continue, "process.resumed", "resumed")

    def _once_started(self, decide: Callable[[], Awaitable[list[int]]], event: Event) -> Awaitable[list[int]]:
        """Leave a decision for the moment in which there is a leader."""
        decided: list[Awaitable[list[int]] | IllegalTransitionError] = []

        def decide_now() -> None:
            try:
                decided.append(decide())
            except IllegalTransitionError as refused:
                decided.append(refused)

        self._deferred.append(decide_now)

        async def wait() -> list[int]:
            with trio.CancelScope(shield=True):  # the start is bounded
                await self.spawned.wait()
            outcome = decided[0] if decided else IllegalTransitionError(self.state, event)  # there is no leader
            if isinstance(outcome, IllegalTransitionError):
                raise outcome
            return await outcome

        return wait()

    def _in_turn(
        self, event: Event, deed: Callable[[], Awaitable[list[int]]], method: str, status: str
    ) -> Awaitable[list[int]]:
        """Do a deed after those decided before it, and say that it is done.

        Once decided it is done, whoever asked for it having gone or not: it is shielded, and bounded by the keeper.
        """
        previous, done = self._control_done, trio.Event()
        self._control_done = done
        state = self.state

        async def act() -> list[int]:
            with trio.CancelScope(shield=True):
                try:
                    if previous is not None:
                        await previous.wait()
                    if self.state in (State.TERMINATING, State.FINISHED):  # it must not be stopped in its TERM handler
                        raise IllegalTransitionError(self.state, event)
                    result = await deed()
                finally:
                    done.set()
            if self.state is state and self._told != status:  # what was taken back meanwhile is not told of
                self._told = status
                self.note(method, {"status": status, **self._process_ids()})
            return result

        return act()

    async def _stop(self) -> list[int]:
        self.pacing.stand()
        try:
            return await self._keeper.pause(self._led())
        finally:
            self.pacing.go_on()

    async def _continue(self) -> list[int]:
        await self._keeper.resume(self._led())
        if self.state is not State.PAUSED:
            self.clock.go_on()
        return []

    async def signal(self, signum: int) -> None:
        """Send any signal to every process of it."""
        await self._keeper.signal(self._led(), signum)

    async def processes(self) -> list[int]:
        """The pids of its living processes: none before it has started, what it left running after it has ended."""
        return await self._keeper.members(self.leader) if self.leader is not None else []

    def watch(self, watcher: Watcher) -> None:
        """Tell somebody whenever the log has grown."""
        self.watchers.add(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Tell them no more."""
        self.watchers.discard(watcher)

    def _led(self) -> Leader:
        if self.leader is None:
            raise AssertionError(f"execution {self.id} is {self.state.value} without a leader")
        return self.leader

    def _process_ids(self) -> dict[str, int | None]:
        return {"pid": self.pid, "pgid": self.pid}

    def note(self, method: str, params: dict[str, Any]) -> None:
        """Put what is to be told of it into its log."""
        self.log.note(method, params)
        self._wake_watchers()

    def _wake_watchers(self) -> None:
        for watcher in tuple(self.watchers):
            watcher()
