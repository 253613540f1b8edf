"""An execution's own time: what a pause keeps from it."""

import math

import trio
from trio.testing import MockClock

from ccexecd.process.stopwatch import Stopwatch


def test_it_stands_still_between_a_stop_and_its_end():
    """Ten seconds of which four were a pause are six; stopping twice, or going on twice, is nothing new."""

    async def main() -> None:
        stopwatch = Stopwatch(trio.CancelScope())
        began = stopwatch.now
        await trio.sleep(2)
        for _ in range(2):
            stopwatch.stop()
            await trio.sleep(2)
        assert stopwatch.now - began == 2
        assert not stopwatch.going.is_set()
        for _ in range(2):
            stopwatch.go_on()
            await trio.sleep(2)
        assert stopwatch.now - began == 6
        assert stopwatch.going.is_set()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_deadline_stands_still_too():
    """What had three seconds left has three seconds left after a pause."""

    async def main() -> None:
        scope = trio.CancelScope(deadline=trio.current_time() + 5)
        stopwatch = Stopwatch(scope)
        await trio.sleep(2)
        stopwatch.stop()
        assert scope.deadline == math.inf
        await trio.sleep(100)
        stopwatch.go_on()
        assert scope.deadline == trio.current_time() + 3

    trio.run(main, clock=MockClock(autojump_threshold=0))
