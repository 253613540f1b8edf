"""Pausing and resuming one execution, each carried out after those that were asked for before it.

A request decides at once (the table in `core.execution` admits it or not) and is carried out afterwards, by whatever is
awaited. Owns that order. It keeps no reference to its execution, which keeps one to it: with a cycle, the output of a
finished execution would stay in memory until the collector comes around.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from ccexecd.core.execution import Event, IllegalTransitionError, State
from ccexecd.process.keeper_client import KeeperClient

if TYPE_CHECKING:
    from ccexecd.process.execution import Execution


class Pausing:
    """The pauses and resumes of one execution.

    Args:
        keeper: stops and continues its processes.
    """

    def __init__(self, keeper: KeeperClient) -> None:
        self._keeper = keeper
        self._last_done: trio.Event | None = None  # of the request that was decided last
        self._announced = "resumed"
        self._deferred: list[Callable[[], None]] = []  # decisions for when there is a leader

    def pause(self, execution: "Execution") -> Awaitable[list[int]]:
        """See `Execution.pause`."""
        if execution.state is State.STARTING:
            return self._once_started(execution, self.pause, Event.PAUSE)
        execution.apply(Event.PAUSE)
        execution.clock.stop()  # already stopped if an earlier resume is decided and not carried out yet
        return self._in_turn(execution, Event.PAUSE, self._stop, "process.paused", "paused")

    def resume(self, execution: "Execution") -> Awaitable[list[int]]:
        """See `Execution.resume`."""
        if execution.state is State.STARTING:
            return self._once_started(execution, self.resume, Event.RESUME)
        execution.apply(Event.RESUME)
        return self._in_turn(execution, Event.RESUME, self._continue, "process.resumed", "resumed")

    def has_started(self) -> None:
        """Decide, in their order, the requests that came while the execution was being started."""
        deferred, self._deferred = self._deferred, []
        for decide in deferred:
            decide()

    def _once_started(
        self, execution: "Execution", decide: Callable[["Execution"], Awaitable[list[int]]], event: Event
    ) -> Awaitable[list[int]]:
        """Put a decision off until there is a leader, or it is known that there will be none."""
        decided: list[Awaitable[list[int]] | IllegalTransitionError] = []

        def decide_now() -> None:
            try:
                decided.append(decide(execution))
            except IllegalTransitionError as refused:
                decided.append(refused)

        self._deferred.append(decide_now)

        async def wait() -> list[int]:
            with trio.CancelScope(shield=True):  # the start is bounded
                await execution.spawned.wait()
            outcome = decided[0] if decided else IllegalTransitionError(execution.state, event)  # there is no leader
            if isinstance(outcome, IllegalTransitionError):
                raise outcome
            return await outcome

        return wait()

    def _in_turn(
        self,
        execution: "Execution",
        event: Event,
        act: Callable[["Execution"], Awaitable[list[int]]],
        method: str,
        status: str,
    ) -> Awaitable[list[int]]:
        """Act after the requests that were decided before this one, and announce that it is done.

        What has been decided is carried out even if whoever asked for it has gone: it is shielded, and bounded by the
        keeper.
        """
        previous, done = self._last_done, trio.Event()
        self._last_done = done
        state = execution.state

        async def carry_out() -> list[int]:
            with trio.CancelScope(shield=True):
                try:
                    if previous is not None:
                        await previous.wait()
                    # What is being ended must not be stopped while it handles TERM.
                    if execution.state in (State.TERMINATING, State.FINISHED):
                        raise IllegalTransitionError(execution.state, event)
                    result = await act(execution)
                finally:
                    done.set()
            # Nothing is announced that a later request has reversed meanwhile.
            if execution.state is state and self._announced != status:
                self._announced = status
                execution.note(method, {"status": status, **execution.process_ids})
            return result

        return carry_out()

    async def _stop(self, execution: "Execution") -> list[int]:
        execution.pacing.stand()
        try:
            return await self._keeper.pause(execution.require_leader())
        finally:
            execution.pacing.go_on()

    async def _continue(self, execution: "Execution") -> list[int]:
        await self._keeper.resume(execution.require_leader())
        if execution.state is not State.PAUSED:
            execution.clock.go_on()
        return []
