"""How far a program may run ahead: holds and their ends, with a pump that is stood in for where time is the subject."""

import pytest
import trio
from trio.testing import MockClock

from ccexecd.process.pacing import BLOCK_BEHIND, PATIENCE, WINDOW_SHARE, Pacing

WINDOW = 8 * 1024 * 1024
MOST = {"block": BLOCK_BEHIND, "drop_oldest": int(WINDOW * WINDOW_SHARE)}
MOST_UNSEEN = MOST["drop_oldest"]


class Alarms:
    """A pump of which only the alarms are needed."""

    def __init__(self):
        self.set = []

    def alarm(self, seconds, ring):
        self.set.append((trio.current_time() + seconds, ring))

    def ring(self):
        """Call every alarm that is due."""
        due = [each for each in self.set if each[0] <= trio.current_time()]
        self.set = [each for each in self.set if each not in due]
        for _, ring in due:
            ring()


class Pipe:
    """A source of which only its being read matters."""

    def __init__(self):
        self.is_read = True

    def hold(self):
        self.is_read = False

    def go_on(self):
        self.is_read = True


@pytest.fixture(params=[("trio", {"clock": MockClock()})], ids=["mock clock"])
def anyio_backend(request):
    return request.param


def pace(policy):
    alarms, pipe = Alarms(), Pipe()
    pacing = Pacing(alarms, policy, WINDOW)
    pacing.sources = (pipe,)
    return pacing, alarms, pipe


def pass_time(seconds):
    """Move the mocked clock."""
    trio.lowlevel.current_clock().jump(seconds)


@pytest.mark.parametrize("policy", ["drop_oldest", "block"])
async def test_a_watcher_that_is_far_behind_is_waited_for(policy):
    """Beyond the limit the pipes are held; when the watcher has caught up half, they are read again."""
    pacing, _, pipe = pace(policy)
    most = MOST[policy]
    pacing.has_grown(most)
    assert pipe.is_read
    pacing.has_grown(most + 1)
    assert not pipe.is_read
    assert pacing.is_held
    assert not pacing.was_read(most // 2 + 1)
    assert pacing.was_read(most // 2)
    assert pipe.is_read


async def test_nobody_is_waited_for_longer_than_the_patience():
    """Under drop_oldest a hold ends by itself, and no other begins before the watcher has caught up."""
    pacing, alarms, pipe = pace("drop_oldest")
    pacing.has_grown(MOST_UNSEEN + 1)
    pass_time(PATIENCE)
    alarms.ring()
    assert pipe.is_read
    pacing.has_grown(4 * MOST_UNSEEN)
    assert pipe.is_read
    assert not pacing.was_read(MOST_UNSEEN // 2)
    pacing.has_grown(MOST_UNSEEN + 1)
    assert not pipe.is_read


async def test_an_alarm_of_an_earlier_hold_does_not_cut_this_one_short():
    """Each hold has its whole patience, and at most one alarm is set."""
    pacing, alarms, pipe = pace("drop_oldest")
    pacing.has_grown(MOST_UNSEEN + 1)
    pass_time(PATIENCE / 2)
    pacing.was_read(0)
    pacing.has_grown(MOST_UNSEEN + 1)
    assert len(alarms.set) == 1
    pass_time(PATIENCE / 2)
    alarms.ring()
    assert not pipe.is_read
    assert len(alarms.set) == 1
    pass_time(PATIENCE / 2)
    alarms.ring()
    assert pipe.is_read


async def test_a_blocking_watcher_is_waited_for_as_long_as_it_takes():
    """Under block there is no alarm."""
    pacing, alarms, pipe = pace("block")
    pacing.has_grown(BLOCK_BEHIND + 1)
    pass_time(3600)
    alarms.ring()
    assert alarms.set == []
    assert not pipe.is_read


@pytest.mark.parametrize("policy", MOST)
async def test_nothing_is_read_while_it_is_being_paused(policy):
    """Whatever its watchers do meanwhile; afterwards it is read as far as they let it."""
    pacing, _, pipe = pace(policy)
    pacing.stand()
    assert not pipe.is_read
    pacing.has_grown(MOST[policy] + 1)
    assert pacing.was_read(0)
    assert not pipe.is_read
    pacing.go_on()
    assert pipe.is_read
    pacing.stand()
    pacing.has_grown(MOST[policy] + 1)
    pacing.go_on()
    assert not pipe.is_read
    pacing.was_read(0)
    assert pipe.is_read
