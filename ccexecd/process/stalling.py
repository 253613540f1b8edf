"""When silence is a stall.

A command that has written nothing for its stall time-out is ended, after a warning. Of some executions more is known:
an agent whose tool runs is silent and at work, and one that computes is not stuck either. So for those whose listener
understands silence, it is a stall only if nothing is known to go on and the processes use next to no processor time,
too. That is measured when the warning is due and when the time is up, and never else. Owns the judgement and the wait.
"""

import attrs
import trio

from ccexecd.core.execution import Reason
from ccexecd.process.execution import Execution
from ccexecd.process.measure import usage

STALL_WARNING = 0.8
"""Share of the stall time-out after which the silence is told of: time for somebody to look before it acts."""

AT_WORK = 0.05
"""Share of one processor from which processes count as at work: an agent that waits for an answer takes up to 0.01."""


@attrs.frozen
class _Sample:
    """What the processes of an execution had used at a moment.

    Attributes:
        at: on the execution's clock.
        seconds: processor time of each, by pid.
    """

    at: float
    seconds: dict[int, float]

    def share_until(self, later: "_Sample") -> float:
        """Processor time a second since then; what has ended meanwhile is not counted."""
        used = sum(seconds - self.seconds.get(pid, 0.0) for pid, seconds in later.seconds.items())
        return used / max(later.at - self.at, 0.001)


async def heed_silence(execution: Execution, limit: float) -> None:
    """Warn of a stall, and end what has stalled.

    Args:
        execution: that runs.
        limit: seconds of silence.
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
    """One execution's silence.

    Args:
        execution: whose.
        warn_at: seconds of it after which that is told.

    Attributes:
        has_warned: whether it has been told of, or was found to be none.
    """

    def __init__(self, execution: Execution, warn_at: float) -> None:
        self.warn_at = warn_at
        self.has_warned = False
        self._execution = execution
        self._knowing = [each for each in execution.listeners if each.understands_silence]
        self._excused = float("-inf")  # on its own clock: until then it was at work
        self._before: _Sample | None = None

    @property
    def idle(self) -> float:
        """Seconds for which nothing has happened."""
        return min(self._execution.idle_seconds, self._execution.clock.now - self._excused)

    async def warn(self) -> None:
        """Tell of the silence, unless something is known to go on."""
        self.has_warned = True
        if self._is_known_to_work:
            return
        if self._knowing:
            self._before = await self._sample()
        if self._execution.clock.going.is_set() and self.idle >= self.warn_at:
            self._execution.is_stalling()

    async def is_over(self, limit: float) -> bool:
        """Whether it is a stall; if not, the silence begins anew."""
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
