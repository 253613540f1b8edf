"""The queue: which places are taken, who waits in which line, and whose turn it is.

Theory of operation. Three limits apply together: how many run in all, how many run of one owner, and how many run in
each lane. An entry that would exceed one of them waits in the line of its lane, by priority and then by arrival.
The next turn goes to the first entry, of all lines together, that no limit holds up. So a lane that is full, or held
(its limit is 0), delays only its own entries, and an owner who has taken all of its places delays only itself.

After a place was taken or released, or the limits were changed, the caller asks `next` until it returns None. Then no
entry that waits could begin, and so a newcomer whom no limit holds up (`has_room`) overtakes none.

Each lane has two sorted lists: all of its entries, for their positions, and the first entry of each owner that has
room, for the next turn. Owns the arithmetic; knows neither what an entry is nor any clock.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from typing import Protocol

import attrs

Rank = tuple[int, int]
"""What a line is sorted by: the priority, negated, and the number of the arrival, which names the entry."""

TOLD_EACH = 10
"""An entry is told of each of its positions from this one on to the front."""

TOLD_FIRST_DIGITS = (1, 2, 5)
"""Further back, it is told only of positions that are one of these digits and zeros (500, 200, 100, 50, 20): one that
joins at 10,000 is told 19 times in all."""


class Turn(Protocol):
    """The place of an execution that waits or is held, as the execution knows it."""

    @property
    def position(self) -> int | None:
        """Its position in its line; 1 is the front. None while it is held, which is in no line."""

    def give_up(self) -> None:
        """Leave the line, or be held no longer; the execution never runs."""


@attrs.frozen
class Limits:
    """How many may run at a time.

    Attributes:
        running: in all.
        per_owner: of each owner; None for no limit.
        lanes: in each lane that has a limit; 0 holds the lane.
        waiting: how many may wait, in all.
    """

    running: int
    per_owner: int | None = None
    lanes: Mapping[str, int] = attrs.field(factory=dict)
    waiting: int = 0


@attrs.define(eq=False)
class _Line:
    """The line of one lane."""

    running: int = 0
    waiting: list[Rank] = attrs.field(factory=list)
    heads: list[Rank] = attrs.field(factory=list)  # of each owner that has room, the first
    owners: dict[str, list[Rank]] = attrs.field(factory=dict)


@attrs.define(eq=False)
class _Place:
    """One entry that waits."""

    rank: Rank
    owner: str
    lane: str
    told: int


class Queue:
    """The places and the lines.

    Args:
        limits: in force; `limit` replaces them.

    Attributes:
        running: places taken.
    """

    def __init__(self, limits: Limits) -> None:
        self.running = 0
        self._limits = limits
        self._owners: dict[str, int] = {}  # places that each has taken
        self._lines: dict[str, _Line] = {}
        self._places: dict[int, _Place] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._places)

    @property
    def is_full(self) -> bool:
        """Whether nobody else may wait."""
        return len(self._places) >= self._limits.waiting

    def limit(self, limits: Limits) -> None:
        """Use other limits from now on. What runs or waits already goes on doing so."""
        self._limits = limits
        for line in self._lines.values():
            line.heads = sorted(ranks[0] for owner, ranks in line.owners.items() if self._owner_has_room(owner))

    # Places

    def has_room(self, owner: str, lane: str) -> bool:
        """Whether no limit holds up one more."""
        return (
            self.running < self._limits.running
            and (self._limits.per_owner is None or self._owner_has_room(owner))
            and (not lane or self._lane_has_room(lane))
        )

    def take(self, owner: str, lane: str) -> None:
        """One more runs."""
        self.running += 1
        self._owners[owner] = self._owners.get(owner, 0) + 1
        if lane:
            self._line(lane).running += 1
        if self._places:
            self._refresh(owner)

    def release(self, owner: str, lane: str) -> None:
        """One of those that ran has ended."""
        self.running -= 1
        left = self._owners[owner] = self._owners[owner] - 1
        if not left:
            del self._owners[owner]
        if lane:
            self._line(lane).running -= 1
            self._forget_empty(lane)
        if self._places:
            self._refresh(owner)

    # Lines

    def join(self, owner: str, lane: str, priority: int) -> int:
        """One more waits. Returns the number by which it is known."""
        self._arrivals += 1
        rank = (-priority, self._arrivals)
        line = self._line(lane)
        insort(line.waiting, rank)
        insort(line.owners.setdefault(owner, []), rank)
        self._set_head(line, owner)
        self._places[rank[1]] = _Place(rank, owner, lane, bisect_left(line.waiting, rank) + 1)
        return rank[1]

    def position(self, number: int) -> int:
        """Where one stands in the line of its lane; 1 is the front."""
        place = self._places[number]
        return bisect_left(self._lines[place.lane].waiting, place.rank) + 1

    def next(self) -> int | None:
        """The number of the entry whose turn it is; None while limits hold up all of them. It stays until `leave`."""
        if not self._places or self.running >= self._limits.running:
            return None
        heads = (line.heads[0] for lane, line in self._lines.items() if line.heads and self._lane_has_room(lane))
        first = min(heads, default=None)
        return first[1] if first is not None else None

    def leave(self, number: int) -> list[tuple[int, int]]:
        """One waits no longer: it begins, or does not want to any more.

        Returns:
            Who has come so much further by that as to be told, and where they are now: each hears of a position once.
        """
        place = self._places.pop(number)
        line = self._lines[place.lane]
        index = _remove(line.waiting, place.rank)
        _remove(line.owners[place.owner], place.rank)
        self._set_head(line, place.owner, gone=place.rank)
        if not line.owners[place.owner]:
            del line.owners[place.owner]
        self._forget_empty(place.lane)
        return list(self._nearer(line.waiting, index))

    def _nearer(self, waiting: list[Rank], index: int) -> Iterator[tuple[int, int]]:
        """Those from an index of a line on that stand where they are told so."""
        for position in _told_positions(len(waiting)):
            if position > index:
                _, number = waiting[position - 1]
                if position < self._places[number].told:
                    self._places[number].told = position
                    yield number, position

    def _owner_has_room(self, owner: str) -> bool:
        most = self._limits.per_owner
        return most is None or self._owners.get(owner, 0) < most

    def _lane_has_room(self, lane: str) -> bool:
        most = self._limits.lanes.get(lane)
        if most is None:
            return True
        line = self._lines.get(lane)
        return (line.running if line is not None else 0) < most

    def _line(self, lane: str) -> _Line:
        line = self._lines.get(lane)
        if line is None:
            line = self._lines[lane] = _Line()
        return line

    def _forget_empty(self, lane: str) -> None:
        line = self._lines[lane]
        if not line.running and not line.waiting:
            del self._lines[lane]

    def _refresh(self, owner: str) -> None:
        """After an owner has taken a place or left one: update whether its entries are among the heads of the lines."""
        if self._limits.per_owner is not None:
            for line in self._lines.values():
                self._set_head(line, owner)

    def _set_head(self, line: _Line, owner: str, gone: Rank | None = None) -> None:
        """Put the first entry of an owner among the heads of a line if the owner has room; else take it out.

        Args:
            line: the line.
            owner: the owner.
            gone: the rank of an entry of its that has just left the line.
        """
        ranks = line.owners.get(owner, [])
        for rank in ranks[:2]:  # a newcomer may have pushed the first to the second place
            _remove(line.heads, rank)
        if gone is not None:
            _remove(line.heads, gone)
        if ranks and self._owner_has_room(owner):
            insort(line.heads, ranks[0])


def most_told(position: int) -> int:
    """How often an entry that joins at a position is told of its position, at most, until its turn comes."""
    return 1 + sum(1 for _ in _told_positions(position))


def _remove(ranks: list[Rank], rank: Rank) -> int:
    """Take a rank out of a sorted list, if it is in there. Returns where it was, or would have been."""
    index = bisect_left(ranks, rank)
    if index < len(ranks) and ranks[index] == rank:
        del ranks[index]
    return index


def _told_positions(length: int) -> Iterator[int]:
    """The positions of which entries are told, in a line of so many."""
    yield from range(1, min(length, TOLD_EACH) + 1)
    scale = TOLD_EACH
    while scale <= length:
        for digit in TOLD_FIRST_DIGITS:
            if TOLD_EACH < digit * scale <= length:
                yield digit * scale
        scale *= 10
