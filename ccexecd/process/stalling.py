"""Decides when silence is a stall.

A command that has written nothing for its stall time-out is ended, after a warning. An agent is judged better: it may
be silent because a tool runs, or because it computes. So if a listener of the execution understands silence, it is a
stall only if the listener knows of no work and the processes use next to no processor time. That is measured when the
warning is due and when the time is up, and at no other time. Owns the judgement and the wait. Must not signal anything.
"""

import attrs
import trio

from ccexecd.core.execution import Reason
from ccexecd.process.execution import Execution
from ccexecd.process.measure import usage

STALL_WARNING = 0.8
"""Share of the stall time-out after which watchers are warned, so that somebody can look before it is over."""

AT_WORK = 0.05
"""Share of one processor above which processes count as at work. An agent that waits for an answer uses up to 0.01."""


@attrs.frozen
class _Sample:
    """Processor time that the processes of an execution had used at some moment.

    Attributes:
        at: the moment, in seconds on the execution's clock.
        seconds: processor time in seconds, by pid.
    """

    at: float
    seconds: dict[int, float]

    def share_until(self, later: "_Sample") -> float:
        """Return the share of one processor used between two samples; processes that have ended are not counted."""
        used = sum(seconds - self.seconds.get(pid, 0.0) for pid, seconds in later.seconds.items())
        return used / max(later.at - self.at, 0.001)


async def heed_silence(execution: Execution, limit: float) -> None:
    """Warn when an execution is about to stall, and end it when it has stalled.

    Args:
        execution: a running execution.
        limit: its stall time-out: seconds of silence, on its own clock.
    """
    watch = _Watch(execution, limit * STALL_WARNING)
    while True:
        await execution.clock.going.wait()
        idle = watch.idle
        if idle < watch.warn_at:
            watch.has_warned = False
            await trio.sleep(watch.warn_at - idle)
        elif not watch.has_warned:
            await watch.warn()
        elif idle < limit:
            await trio.sleep(limit - idle)
        elif await watch.is_over(limit):
            execution.cancel(Reason.STALLED)
            return


class _Watch:
    """Watches the silence of one execution.

    Args:
        execution: the execution.
        warn_at: seconds of silence after which watchers are warned.

    Attributes:
        has_warned: the warning of this silence is done with: it was given, or the execution was found at work.
    """

    def __init__(self, execution: Execution, warn_at: float) -> None:
        self.warn_at = warn_at
        self.has_warned = False
        self._execution = execution
        self._knowing = [each for each in execution.listeners if each.understands_silence]
        self._excused = float("-inf")  # moment on the execution's clock up to which it counts as at work
        self._before: _Sample | None = None

    @property
    def idle(self) -> float:
        """Seconds since the last output, or since the execution was last found at work."""
        return min(self._execution.idle_seconds, self._execution.clock.now - self._excused)

    async def warn(self) -> None:
        """Warn of the silence, unless a listener knows that the execution is at work."""
        self.has_warned = True
        if self._is_known_to_work:
            return
        if self._knowing:
            self._before = await self._sample()
        if self._execution.clock.going.is_set() and self.idle >= self.warn_at:
            self._execution.is_stalling()

    async def is_over(self, limit: float) -> bool:
        """Whether silence of `limit` seconds is a stall; if not, the silence is counted anew."""
        if not self._knowing:
            return True
        if self._is_known_to_work:
            self._excuse(0.0)
            return False
        sample = await self._sample()
        before, self._before = self._before, None
        if not self._execution.clock.going.is_set() or self.idle < limit:
            return False
        if before is None:  # it was at work when the warning was due: it gets the rest of the time
            self._excuse(self.warn_at)
            return False
        if before.share_until(sample) >= AT_WORK:
            self._excuse(0.0)
            return False
        return True

    @property
    def _is_known_to_work(self) -> bool:
        return any(each.is_at_work() for each in self._knowing)

    def _excuse(self, idle: float) -> None:
        self._excused = self._execution.clock.now - idle
        self.has_warned = False

    async def _sample(self) -> _Sample:
        used = await usage(await self._execution.processes())
        seconds = {each["pid"]: each["cpu_seconds"] for each in used["processes"]}
        return _Sample(self._execution.clock.now, seconds)
