"""Where the keeper sits: what is born beside nobody has a group of its own, and a move keeps nobody waiting."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ccexecd.process import leaves as module
from ccexecd.process.control_groups import Base, Leaf, group_of, move_to
from ccexecd.process.leaves import Leaves

from .programs import python
from .stage import PATIENCE, is_alive


def wait_until(condition: Callable[[], object], what: str) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, f"in vain: waited until {what}"
        time.sleep(0.001)


class Started:
    """A leader that was born where we are."""

    def __init__(self, leaves: Leaves, number: int, *argv: str, alone: bool = False) -> None:
        leaves.prepare(alone=alone)
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)
        self.leaf = leaves.born(number, self.process.pid)

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().decode()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


@pytest.fixture
def leaves(base: Base) -> Iterator[Leaves]:
    """As a keeper has them; afterwards this process is where it was."""
    leaves = Leaves(base.path)
    arrive(leaves)
    yield leaves
    leaves.wait()
    move_to(str(Path(base.path) / "daemon"))


@pytest.fixture
def start(leaves: Leaves) -> Iterator[Callable[..., Started]]:
    """Start leaders; what still runs at the end is ended."""
    started = []

    def start(number: int, *argv: str, alone: bool = False) -> Started:
        started.append(Started(leaves, number, *(argv or ("sleep", "1000")), alone=alone))
        return started[-1]

    yield start
    for each in started:
        each.end()


def arrive(leaves: Leaves) -> None:
    """Wait for the move that is under way, as a keeper does: by looking."""

    def has_arrived() -> bool:
        leaves.arrive()
        return leaves._goal is None

    wait_until(has_arrived, "it has moved")


def leaf_dirs(leaves: Leaves) -> set[str]:
    return {path.name for path in Path(leaves._base).iterdir() if path.is_dir()} - {"daemon"}


def test_a_leader_has_a_leaf_of_its_own_when_the_keeper_has_left(leaves, start):
    """Until then it is known by its leaf, but that is not used as a group: the keeper would be killed with it."""
    one = start(1)
    assert leaves.number_of(one.process.pid) == 1
    assert not one.leaf.is_its_own
    leaves.move()
    arrive(leaves)
    assert one.leaf.is_its_own
    assert leaves.number_of(one.process.pid) == 1
    two = start(2)
    assert two.leaf is not one.leaf
    one.leaf.kill()
    one.process.wait(PATIENCE)
    assert two.process.poll() is None


def test_what_it_starts_is_known_whatever_it_does(leaves, start):
    """A daemon without session, group, parent or environment is still the execution's."""
    escape = (
        "import os\n"
        "for _ in range(2):\n"
        "    if os.fork(): os._exit(0)\n"
        "    os.setsid()\n"
        "os.execve('/bin/sh', ['sh', '-c', 'echo $$; exec sleep 1000'], {})"
    )
    one = start(3, *python(escape))
    pid = int(one.line())
    assert leaves.number_of(pid) == 3
    assert leaves.number_of(os.getpid()) == 3  # we are there, too, and are not asked about
    leaves.move()
    arrive(leaves)
    assert leaves.number_of(os.getpid()) is None
    one.leaf.kill()
    wait_until(lambda: not is_alive(pid), "it is dead")


def test_a_leaf_that_two_share_is_nobodys(leaves, start):
    """Neither is killed for the other; both are told apart without."""
    one, two = start(1), start(2)
    assert one.leaf is two.leaf
    leaves.move()
    arrive(leaves)
    assert not one.leaf.is_its_own
    assert leaves.number_of(one.process.pid) is None
    leaves.forget(one.leaf, 1)
    assert not two.leaf.is_its_own
    leaves.forget(two.leaf, 2)


def test_what_nobody_can_tell_whose_it_is_ends_with_the_last_who_might_have_started_it(leaves, start):
    """Two share a leaf, and one of them leaves a daemon in it without a mark: when both are over, that is."""
    one, two = start(1), start(2, "sh", "-c", "echo $$; exec sleep 1000")
    stray = int(two.line())
    for each in (one, two):
        assert is_alive(stray)
        leaves.forget(each.leaf, 1 if each is one else 2)
    arrive(leaves)
    assert one.leaf is not leaves._here
    for each in (one, two):  # what was killed is in its leaf until it has ended
        each.process.wait(PATIENCE)
    leaves.forget(None, 0)
    assert leaf_dirs(leaves) == {Path(leaves._here.path).name}


def test_short_commands_follow_each_other_without_a_move(leaves, start):
    """There is no reason to move on for what has ended, and it costs no group."""
    here = leaves._here
    for number in range(20):
        one = start(number, "true")
        assert one.leaf is here
        assert leaves.move_at is not None
        assert leaves.move_at > time.monotonic()
        one.process.wait(PATIENCE)
        leaves.forget(one.leaf, number)
        assert leaves.move_at is None
    assert len(leaf_dirs(leaves)) == 1


def test_what_is_born_during_a_move_is_where_it_is(leaves, start, monkeypatch: pytest.MonkeyPatch):
    """Before or after the moment of the move: the kernel knows."""
    start(1)
    gates = [module._thread.allocate_lock() for _ in range(2)]
    for gate in gates:
        gate.acquire()

    def slowly(group: str) -> bool:
        with gates[0]:
            done = move_to(group)
        with gates[1]:
            return done

    monkeypatch.setattr(module, "move_to", slowly)
    leaves.move()
    before = start(2)
    gates[0].release()
    wait_until(lambda: leaves._goal.path.endswith(group_of("self").rpartition("/")[2]), "it has moved")
    after = start(3)
    gates[1].release()
    arrive(leaves)
    assert before.leaf.path.endswith(group_of(str(before.process.pid)).rpartition("/")[2])
    assert after.leaf.path.endswith(group_of(str(after.process.pid)).rpartition("/")[2])
    assert before.leaf is not after.leaf
    assert after.leaf is leaves._here
    assert leaves.move_at is not None


def test_who_must_be_alone_is(leaves, start):
    """Nobody was there before it, and nobody comes after it."""
    one = start(1)
    two = start(2, alone=True)
    three = start(3)
    assert len({id(each.leaf) for each in (one, two, three)}) == 3
    assert two.leaf.is_its_own
    leaves.move()
    four = start(4, alone=True)
    arrive(leaves)
    assert four.leaf not in (one.leaf, two.leaf, three.leaf)
    assert not four.leaf.is_shared


def test_a_leaf_is_taken_away_with_its_execution(leaves, start):
    """Fifty executions leave no group behind, and nothing in memory."""
    for number in range(50):
        one = start(number)
        leaves.move()
        arrive(leaves)
        one.end()
        leaves.forget(one.leaf, number)
    assert leaf_dirs(leaves) == {Path(leaves._here.path).name}
    assert len(leaves._leaves) == 1


def test_where_no_more_groups_are_to_be_had_all_share_one(leaves, start, monkeypatch: pytest.MonkeyPatch):
    """It is tried once; what is started is contained without."""
    one = start(1)
    monkeypatch.setattr(module, "move_to", lambda _: False)
    leaves.move()
    arrive(leaves)
    assert leaves.move_at is None
    assert start(2).leaf is one.leaf
    assert start(3, alone=True).leaf is one.leaf
    assert not one.leaf.is_its_own
    assert len(leaf_dirs(leaves)) == 1


def test_without_groups_everything_goes_on():
    """No base: executions are contained without."""
    leaves = Leaves("")
    leaves.prepare(alone=True)
    assert not leaves.bear_memory
    leaf = leaves.born(1, os.getpid())
    assert leaf is None
    assert leaves.move_at is None
    assert leaves.number_of(os.getpid()) is None
    leaves.arrive()
    leaves.forget(leaf, 1)
    leaves.dissolve()


def test_without_a_thread_the_move_is_made_at_once(leaves, start, no_thread):
    """A fork bomb that has taken every process and thread there may be does not end the keeper."""
    one = start(1)
    leaves.move()
    arrive(leaves)
    assert one.leaf is not None
    assert one.leaf.is_its_own
    assert start(2, alone=True).leaf not in (None, one.leaf)


def test_whoever_is_told_of_a_move_finds_it_done(base: Base):
    """The keeper is woken, and need not look by itself."""
    told = module._thread.allocate_lock()
    told.acquire()
    leaves = Leaves(base.path, told.release)
    assert told.acquire(timeout=PATIENCE)
    leaves.arrive()
    assert isinstance(leaves._here, Leaf)
    move_to(str(Path(base.path) / "daemon"))
