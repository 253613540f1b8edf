"""Delivers events and output of an execution to the hooks that want them.

Owns what waits for each hook: events in their order, and output in batches, both bounded. An execution never waits for
a hook: output that there is no room for is dropped and counted, and the next batch tells how much. Must not call a hook
from within an event: a task of its own does, which lives only as long as there is something to deliver.
"""

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import trio

from ccexecd.core.entries import Stream
from ccexecd.core.hooks import Batch, Hook, HookEvent
from ccexecd.hooks.calls import Calls, HookFailedError, Subject
from ccexecd.process.execution import Execution
from ccexecd.process.listening import Listener

MOST_WAITING = 1000
"""Events of all executions together that may wait for hooks; any more are dropped, and counted as unmade calls."""

MOST_HELD = 32 * 1024 * 1024
"""Bytes of output held for all hooks together: it bounds the memory when hooks hang while many executions write."""


class Shared(Protocol):
    """What the deliveries of all executions share: where their tasks run, and the counts of what waits.

    Attributes:
        waiting: events that wait for hooks.
        held: bytes of output that wait for hooks.
    """

    waiting: int
    held: int

    def start(self, deed: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Run a function in a task of its own. Returns False, and does not run it, if the daemon is ending."""


class Delivery(Listener):
    """Listens to one execution for the hooks that want its events, and delivers them.

    Args:
        execution: the execution.
        hooks: the hooks that want some of its events.
        calls: calls the hooks.
        shared: what the deliveries of all executions share.
    """

    def __init__(self, execution: Execution, hooks: list[Hook], calls: Calls, shared: Shared) -> None:
        self._execution: Execution | None = execution
        self._channels = [_Channel(execution, hook, calls, shared) for hook in hooks]
        self._output_channels = [channel for channel in self._channels if "on_output" in channel.hook.events]
        self.reads = tuple({stream for channel in self._output_channels for stream in channel.hook.streams})

    def has_output(self, stream: Stream, received: bytes) -> None:
        """Called when bytes were read from a stream."""
        for channel in self._output_channels:
            if stream in channel.hook.streams:
                channel.heard(stream, received)

    def is_stalling(self) -> None:
        """Called when the execution has been silent for long."""
        if self._execution is not None:
            self._post("on_stall", {"idle_s": round(self._execution.idle_seconds, 3)})

    def is_ending(self) -> None:
        """Called when no more output comes."""
        for channel in self._output_channels:
            channel.has_heard_all()

    def has_ended(self) -> None:
        """Called when the execution has finished."""
        execution, self._execution = self._execution, None
        if execution is None or execution.outcome is None:
            return
        outcome = {"outcome": execution.completion(execution.outcome), "error": execution.outcome.error}
        if execution.outcome.exit_code != 0:
            self._post("on_error", outcome)
        self._post("post_execute", outcome)
        self._channels, self._output_channels = [], []  # break the cycle: they refer to the execution, and that to this

    def _post(self, event: HookEvent, facts: dict[str, Any]) -> None:
        for channel in self._channels:
            if event in channel.hook.events:
                channel.post(event, facts)


class _Channel:
    """Hands what happens to one execution to one hook, in order.

    Args:
        execution: the execution.
        hook: the hook.
        calls: calls the hook.
        shared: what the deliveries of all executions share.
    """

    def __init__(self, execution: Execution, hook: Hook, calls: Calls, shared: Shared) -> None:
        self.hook = hook
        self._execution = execution
        self._calls = calls
        self._shared = shared
        self._posted: deque[tuple[HookEvent, dict[str, Any]]] = deque()
        self._output = Batch(hook.batch_bytes)
        self._is_last = self._is_delivering = False
        self._urgent = trio.Event()
        self._warned: set[str] = set()

    def heard(self, stream: Stream, received: bytes) -> None:
        """Add output to the batch."""
        before = self._output.size
        self._output.add(stream, received, MOST_HELD - self._shared.held)
        self._shared.held += self._output.size - before
        if self._output.is_full:
            self._urgent.set()
        self._go_on()

    def has_heard_all(self) -> None:
        """Note that no more output comes: the batch goes now, marked as the last."""
        self._is_last = True
        self._urgent.set()
        self._go_on()

    def post(self, event: HookEvent, facts: dict[str, Any]) -> None:
        """Add an event, unless too many wait."""
        if self._shared.waiting >= MOST_WAITING:
            self._calls.figures_of(self.hook).unmade += 1
            return
        self._shared.waiting += 1
        self._posted.append((event, facts))
        self._urgent.set()
        self._go_on()

    def _go_on(self) -> None:
        if not self._is_delivering:
            self._is_delivering = self._shared.start(self._deliver)

    async def _deliver(self) -> None:
        """Call the hook, one call after another, until nothing waits for it."""
        try:
            while True:
                with trio.move_on_after(self.hook.batch_seconds):
                    await self._urgent.wait()
                self._urgent = trio.Event()
                batch = self._taken()
                if batch is not None:
                    await self._call("on_output", {"output": batch})
                elif self._posted:
                    event, facts = self._posted.popleft()
                    self._shared.waiting -= 1
                    await self._call(event, facts)
                else:
                    return
                if self._posted or self._is_last or self._output.is_full:
                    self._urgent.set()
        finally:
            self._is_delivering = False
            self._calls.figures_of(self.hook).unmade += len(self._posted)
            self._shared.waiting -= len(self._posted)
            self._posted.clear()

    def _taken(self) -> dict[str, object] | None:
        before = self._output.size
        batch = self._output.take(is_last=self._is_last)
        self._shared.held -= before - self._output.size
        return batch

    async def _call(self, event: HookEvent, facts: dict[str, Any]) -> None:
        try:
            answer = await self._calls.call(self.hook, event, Subject.of(self._execution), facts)
        except HookFailedError as failure:
            if failure.reason not in self._warned:
                self._warned.add(failure.reason)
                warn(self._execution, self.hook, event, failure.reason, f"{self.hook.name!r} {failure}")
        else:
            if answer.warning:
                warn(self._execution, self.hook, event, "said", answer.warning)


def warn(execution: Execution, hook: Hook, event: HookEvent, reason: str, message: str) -> None:
    """Add a `hook.warning` to the log of an execution, unless that has finished.

    Args:
        execution: the execution.
        hook: the hook that failed, or has something to say.
        event: the event at which it was called.
        reason: the kind of failure, or `said`.
        message: the text for those who watch.
    """
    if execution.is_live:
        execution.note("hook.warning", {"hook": hook.name, "event": event, "reason": reason, "message": message})
