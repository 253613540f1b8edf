"""Whose turn it is: places, lines, positions, against a model that looks at everything every time."""

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ccexecd.core.queue import Limits, Queue

OWNERS = st.sampled_from(("a", "b", "c"))
LANES = st.sampled_from(("", "builds", "held"))
PRIORITIES = st.integers(-2, 2)
LIMITS = st.builds(
    Limits,
    running=st.integers(1, 5),
    per_owner=st.none() | st.integers(1, 3),
    lanes=st.dictionaries(st.sampled_from(("builds", "held")), st.integers(0, 3)),
    waiting=st.integers(0, 8),
)


@attrs.define
class Waiting:
    """One who waits, as the model knows it."""

    number: int
    owner: str
    lane: str
    priority: int


class Model(RuleBasedStateMachine):
    """A queue, and lists beside it that are searched from end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(running=2, per_owner=1, lanes={"builds": 1, "held": 0}, waiting=4)
        self.queue = Queue(self.limits)
        self.running: list[tuple[str, str]] = []
        self.waiting: list[Waiting] = []
        self.told: dict[int, int] = {}

    def has_room(self, owner: str, lane: str) -> bool:
        of_owner = sum(each == owner for each, _ in self.running)
        in_lane = sum(each == lane for _, each in self.running)
        return (
            len(self.running) < self.limits.running
            and (self.limits.per_owner is None or of_owner < self.limits.per_owner)
            and in_lane < self.limits.lanes.get(lane, in_lane + 1)
        )

    def line(self, lane: str) -> list[Waiting]:
        return sorted(
            (each for each in self.waiting if each.lane == lane), key=lambda each: (-each.priority, each.number)
        )

    def leave(self, gone: Waiting) -> None:
        self.waiting.remove(gone)
        for number, position in self.queue.leave(gone.number):
            assert position == self.queue.position(number)
            assert position < self.told[number], "who has been told a position hears of it once"
            self.told[number] = position

    @rule(owner=OWNERS, lane=LANES, priority=PRIORITIES)
    def come(self, owner: str, lane: str, priority: int) -> None:
        if self.has_room(owner, lane):
            self.queue.take(owner, lane)
            self.running.append((owner, lane))
        elif not self.queue.is_full:
            number = self.queue.join(owner, lane, priority)
            self.waiting.append(Waiting(number, owner, lane, priority))
            self.told[number] = self.queue.position(number)

    @rule(owner=OWNERS, lane=LANES, priority=PRIORITIES)
    def wait_though_there_is_room(self, owner: str, lane: str, priority: int) -> None:
        """Whoever asks may hold everybody up for a while: nothing here depends on its being asked at once."""
        number = self.queue.join(owner, lane, priority)
        self.waiting.append(Waiting(number, owner, lane, priority))
        self.told[number] = self.queue.position(number)

    @precondition(lambda self: self.running)
    @rule(choice=st.randoms())
    def end(self, choice) -> None:
        owner, lane = choice.choice(self.running)
        self.running.remove((owner, lane))
        self.queue.release(owner, lane)

    @precondition(lambda self: self.waiting)
    @rule(choice=st.randoms())
    def give_up(self, choice) -> None:
        self.leave(choice.choice(self.waiting))

    @rule()
    def begin_all(self) -> None:
        while (number := self.queue.next()) is not None:
            begun = next(each for each in self.waiting if each.number == number)
            assert self.has_room(begun.owner, begun.lane)
            self.leave(begun)
            self.queue.take(begun.owner, begun.lane)
            self.running.append((begun.owner, begun.lane))
        assert not [each for each in self.waiting if self.has_room(each.owner, each.lane)]

    @rule(limits=LIMITS)
    def limit(self, limits: Limits) -> None:
        self.limits = limits
        self.queue.limit(limits)

    @invariant()
    def the_next_one_is_the_models(self) -> None:
        able = [each for each in self.waiting if self.has_room(each.owner, each.lane)]
        first = min(able, key=lambda each: (-each.priority, each.number), default=None)
        assert self.queue.next() == (first.number if first is not None else None)

    @invariant()
    def the_account_is_right(self) -> None:
        assert self.queue.running == len(self.running)
        assert len(self.queue) == len(self.waiting)
        assert self.queue.is_full == (len(self.waiting) >= self.limits.waiting)
        for owner in ("a", "b", "c"):
            for lane in ("", "builds", "held"):
                assert self.queue.has_room(owner, lane) == self.has_room(owner, lane)

    @invariant()
    def positions_are_those_of_the_lines(self) -> None:
        for lane in ("", "builds", "held"):
            line = self.line(lane)
            assert [self.queue.position(each.number) for each in line] == list(range(1, len(line) + 1))

    def teardown(self) -> None:
        """Nothing is kept of those who have gone."""
        for owner, lane in self.running:
            self.queue.release(owner, lane)
        for each in self.waiting:
            self.queue.leave(each.number)
        assert not self.queue._lines
        assert not self.queue._owners
        assert not self.queue._places


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def waiting_line(count: int, **limits: object) -> tuple[Queue, list[int]]:
    """A queue with one place, which is taken, and so many who wait for it."""
    queue = Queue(Limits(running=1, waiting=count, **limits))
    queue.take("first", "")
    return queue, [queue.join("a", "", 0) for _ in range(count)]


def test_the_highest_priority_first_and_then_who_came_first():
    """A later one of a higher priority overtakes, one of the same does not."""
    queue, _ = waiting_line(0)
    plain, urgent, second, late = (queue.join("a", "", each) for each in (0, 5, 5, -1))
    assert [queue.position(each) for each in (plain, urgent, second, late)] == [3, 1, 2, 4]
    assert queue.next() is None
    queue.release("first", "")
    assert queue.next() == urgent


def test_a_lane_that_is_full_or_held_holds_up_nobody_else():
    """However urgent what waits in it is; it goes on when there is room in it."""
    queue = Queue(Limits(running=10, lanes={"builds": 1, "held": 0}, waiting=10))
    queue.take("a", "builds")
    build, held, plain = queue.join("a", "builds", 9), queue.join("a", "held", 9), queue.join("a", "", 0)
    assert queue.next() == plain
    queue.leave(plain)
    assert queue.next() is None
    queue.release("a", "builds")
    assert queue.next() == build
    queue.leave(build)
    assert queue.next() is None
    queue.limit(Limits(running=10, lanes={"held": 1}, waiting=10))
    assert queue.next() == held


def test_who_gives_up_behind_its_owners_first_takes_nobody_elses_turn():
    """The first one has one turn, however many behind it have gone."""
    queue = Queue(Limits(running=1, waiting=10))
    late, first = queue.join("a", "", -1), queue.join("a", "", 0)
    queue.leave(late)
    assert queue.next() == first
    queue.leave(first)
    assert queue.next() is None


def test_an_owner_with_all_its_places_taken_holds_up_nobody_else():
    """The next one of another owner begins, though it came later."""
    queue = Queue(Limits(running=10, per_owner=1, waiting=10))
    queue.take("a", "")
    first, second = queue.join("a", "", 0), queue.join("b", "", 0)
    assert queue.next() == second
    queue.leave(second)
    queue.release("a", "")
    assert queue.next() == first


def test_it_is_full_at_its_bound():
    """Those that run do not count, and none may wait where nobody is to."""
    queue, _ = waiting_line(3)
    assert queue.is_full
    assert Queue(Limits(running=1)).is_full


def test_positions_are_told_ever_more_often_and_each_once():
    """Of a thousand that wait, the last one hears sixteen times of its way to the front."""
    queue, numbers = waiting_line(1000)
    heard: dict[int, list[int]] = {number: [] for number in numbers}
    for each in numbers[:-1]:
        for number, position in queue.leave(each):
            heard[number].append(position)
    assert heard[numbers[-1]] == [500, 200, 100, 50, 20, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]


def test_who_is_overtaken_and_comes_back_hears_nothing():
    """It is told where it stands only when that is nearer to the front than ever."""
    queue, (first, second) = waiting_line(2)
    urgent = queue.join("a", "", 1)
    assert queue.position(second) == 3
    assert queue.leave(urgent) == []
    assert queue.leave(first) == [(second, 1)]


@pytest.mark.parametrize("per_owner", [None, 1], ids=["no limit of owners", "owners at their limit"])
def test_ten_thousand_wait_for_little(per_owner):
    """Each turn looks at the front of each lane, and not at all who wait: counted in what is compared."""
    compared = 0

    class Counted(int):
        def __lt__(self, other: int) -> bool:
            nonlocal compared
            compared += 1
            return int(self) < int(other)

    queue = Queue(Limits(running=1, per_owner=per_owner, waiting=10_000))
    queue.take("first", "")
    for number in range(10_000):
        queue.join(f"owner {number % 100}", "", Counted(0))
    queue.release("first", "")
    compared = 0
    for _ in range(1000):
        number = queue.next()
        assert number is not None
        queue.leave(number)
    assert compared < 1000 * 200


@given(st.lists(st.tuples(OWNERS, LANES, PRIORITIES), max_size=30), LIMITS)
def test_everybody_gets_a_turn(arrivals, limits):
    """Where no lane is held, whoever waits begins once enough have ended."""
    open_limits = attrs.evolve(limits, lanes={lane: max(1, most) for lane, most in limits.lanes.items()})
    queue = Queue(open_limits)
    places = {queue.join(*each): each[:2] for each in arrivals}
    while places:
        number = queue.next()
        assert number is not None
        owner, lane = places.pop(number)
        queue.leave(number)
        queue.take(owner, lane)
        queue.release(owner, lane)
