"""Remembers past runs, and estimates the next one from those that are most like it.

Runs are kept by the marks of their command (`kinds`), from the closest likeness to the widest; the estimate is that
of the closest one of which enough is known. What may be concluded depends on the likeness, because the marks can
deceive: two directories may hold a `make test` of a second and one of an hour, and nobody knows by a prompt how much
work it is.

- Runs of the same command in the same directory are evidence: they may set a time-out, down to a floor.
- Runs of the same form in the same directory are a hint: they may set one, but never below what a command of that
  category is given when nothing is known of it.
- All else is told to whoever asks, and never acted on.

Bounded: `MOST_GROUPS` groups of `MOST_COMPLETE` and `MOST_CENSORED` runs for each principal, `MOST_PRINCIPALS` of them;
who has not been seen for longest is forgotten. Owns the choice of the likeness. Must not read any clock or disk.
"""

from collections import OrderedDict, deque
from enum import Enum

import attrs

from ccexecd.core.estimate import Bound, bound, confidence, observed
from ccexecd.core.execution import Reason
from ccexecd.core.kinds import Category, Kind

MOST_COMPLETE = 40
"""Complete runs that a group keeps, the newest: twice `OUTLIERS`, so that an accident can be told from a habit."""

MOST_CENSORED = 10
"""Censored runs that a group keeps, the newest: apart, so that a program that keeps hanging pushes out no others."""

MOST_GROUPS = 400
"""Groups of one principal; each takes about 2 KiB of memory."""

MOST_PRINCIPALS = 20
"""Most principals that are remembered."""

LEAST_TOLD = 3
"""Least complete runs for an estimate to be based on a likeness."""


class Likeness(Enum):
    """What runs have in common with a command; the value is its name on the wire."""

    SAME = "same command"
    PLACE = "same form, same directory"
    FORM = "same form"
    PROGRAM = "same program"
    CATEGORY = "same category"
    NONE = "nothing"


CLOSENESS = {
    Likeness.SAME: 1.0,
    Likeness.PLACE: 0.8,
    Likeness.FORM: 0.35,
    Likeness.PROGRAM: 0.2,
    Likeness.CATEGORY: 0.1,
    Likeness.NONE: 0.0,
}
"""Factor of the confidence in an estimate, by what its runs have in common with the command. Chosen so that only the
two likenesses that may end a run reach `ACTING`."""

ACTING = 0.4
"""Least confidence with which an estimate may end a run: five runs of the same command, or seven of the same form in
the same directory, reach it."""


@attrs.frozen
class ColdStart:
    """The estimate for a category of commands of which no runs are known.

    Attributes:
        seconds: a generous time-out in seconds.
        reason: why it is so long.
    """

    seconds: float
    reason: str


COLD_STARTS = {
    Category.AGENT: ColdStart(3600.0, "agents work for minutes to an hour, and nobody can tell by the prompt"),
    Category.TEST: ColdStart(3600.0, "whole test suites take up to an hour"),
    Category.BUILD: ColdStart(3600.0, "builds from scratch take up to an hour"),
    Category.INSTALL: ColdStart(1800.0, "downloads and compilers, mostly minutes"),
    Category.TRANSFER: ColdStart(3600.0, "it depends on the network and on how much there is"),
    Category.CHECK: ColdStart(900.0, "linters and type checkers read each file once"),
    Category.SCRIPT: ColdStart(3600.0, "a script may do anything"),
    Category.SHELL: ColdStart(3600.0, "several programs, of which nothing is known"),
    Category.BRIEF: ColdStart(300.0, "such programs answer within seconds; a slow disk or network gets some minutes"),
    Category.OTHER: ColdStart(3600.0, "a program of which nothing is known"),
}


@attrs.frozen
class Estimate:
    """How long a command may take.

    Attributes:
        kind: the marks of the command.
        seconds: time-out in seconds, before the configured floor and the factor for a busy machine.
        likeness: what the runs that it is based on have in common with the command.
        bound: the result of these runs; None if there are none.
        confidence: how certain it is, from 0 to 1.
        may_act: whether it may end a run.
        is_of_busy: most of these runs were made on a busy machine, so that no factor for load is needed.
    """

    kind: Kind
    seconds: float
    likeness: Likeness
    bound: Bound | None
    confidence: float
    may_act: bool
    is_of_busy: bool = False


class _Group:
    """Runs that have a mark in common."""

    __slots__ = ("_bound", "_busy", "_censored", "_complete", "_is_known")

    def __init__(self) -> None:
        self._complete: deque[float] = deque(maxlen=MOST_COMPLETE)
        self._busy: deque[bool] = deque(maxlen=MOST_COMPLETE)  # of each complete one
        self._censored: deque[float] = deque(maxlen=MOST_CENSORED)
        self._bound: Bound | None = None
        self._is_known = True

    def add(self, run: float, *, is_busy: bool) -> None:
        if run > 0:
            self._complete.append(run)
            self._busy.append(is_busy)
        else:
            self._censored.append(run)
        self._is_known = False

    @property
    def is_of_busy(self) -> bool:
        return 2 * sum(self._busy) > len(self._busy)

    def has(self, complete: int) -> bool:
        return len(self._complete) >= complete

    @property
    def bound(self) -> Bound | None:
        if not self._is_known:
            self._bound, self._is_known = bound([*self._complete, *self._censored]), True
        return self._bound


class Experience:
    """The remembered runs, each principal's apart: nobody's estimates depend on, or reveal, the runs of others."""

    def __init__(self) -> None:
        self._principals: OrderedDict[str, OrderedDict[tuple[Likeness, str], _Group]] = OrderedDict()

    def learn(self, principal: str, kind: Kind, seconds: float, *, is_complete: bool, is_busy: bool = False) -> None:
        """Remember a run.

        Args:
            principal: name of the principal that it belongs to.
            kind: the marks of its command.
            seconds: how long it ran, pauses not counted.
            is_complete: whether it ended by itself, successfully.
            is_busy: whether the machine was busy.
        """
        groups = self._principals.setdefault(principal, OrderedDict())
        self._principals.move_to_end(principal)
        if len(self._principals) > MOST_PRINCIPALS:
            self._principals.popitem(last=False)
        run = observed(seconds, is_complete=is_complete)
        for key in reversed(_keys(kind)):  # what is widest is used most often, and yet forgotten first among equals
            group = groups.get(key)
            if group is None:
                group = groups[key] = _Group()
            else:
                groups.move_to_end(key)
            group.add(run, is_busy=is_busy)
        while len(groups) > MOST_GROUPS:
            groups.popitem(last=False)

    def estimate(self, principal: str, kind: Kind) -> Estimate:
        """Estimate how long a command of a principal may take, by the runs that are most like it."""
        cold = COLD_STARTS[kind.category]
        groups = self._principals.get(principal)
        told: Estimate | None = None
        for key in _keys(kind) if groups is not None else ():
            group = groups.get(key) if groups is not None else None
            if group is None or not group.has(LEAST_TOLD) or group.bound is None:
                continue
            estimate = _estimate(kind, key[0], group.bound, cold, is_of_busy=group.is_of_busy)
            if estimate.may_act:
                return estimate
            told = told or estimate
        return told or Estimate(kind, cold.seconds, Likeness.NONE, None, 0.0, may_act=False)


def came_to_its_end(reason: str | None, exit_code: int | None, judged: object = None) -> bool:
    """Whether a run shows how long its command takes: it ended by itself, successfully.

    Args:
        reason: value of the `Reason` why it ended; None if it is not known.
        exit_code: its exit code.
        judged: whether an agent succeeded: true or false, or 1 or 0; None if there is no verdict.
    """
    return reason in _BY_ITSELF and exit_code == 0 and judged != 0


_BY_ITSELF = frozenset({Reason.EXITED.value, Reason.POST_RESULT.value})


def _keys(kind: Kind) -> tuple[tuple[Likeness, str], ...]:
    """The groups that a run belongs to, the closest first."""
    return (
        (Likeness.SAME, kind.same),
        (Likeness.PLACE, kind.place),
        (Likeness.FORM, kind.form),
        (Likeness.PROGRAM, kind.program),
        (Likeness.CATEGORY, kind.category.value),
    )


def _estimate(kind: Kind, likeness: Likeness, known: Bound, cold: ColdStart, *, is_of_busy: bool) -> Estimate:
    sure = CLOSENESS[likeness] * confidence(known.complete)
    seconds = known.seconds if likeness is Likeness.SAME else max(known.seconds, cold.seconds)
    return Estimate(kind, seconds, likeness, known, round(sure, 3), may_act=sure >= ACTING, is_of_busy=is_of_busy)
