"""What a row of the table is, and what all rows have in common."""

import random
from base64 import encodebytes
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import quantiles

from checks import digest
from targets import Target

GIVE_UP_SECONDS = 120.0
"""Seconds after which a stream counts as failed."""


@dataclass(frozen=True)
class Sizes:
    """How much each row does; `--small` is for trying the benchmark, not for figures."""

    round_trips: int = 500
    busy_seconds: float = 5
    lines: int = 1_000_000
    bulk_mib: int = 256
    first_bytes: int = 50
    ticks: int = 500
    crowd: int = 100
    stall_seconds: float = 10
    pauses: int = 100
    idle_seconds: float = 10
    ticks_of_each: int = 1000


SMALL = Sizes(
    round_trips=30, busy_seconds=1, lines=50_000, bulk_mib=8, first_bytes=5, ticks=100, crowd=20, stall_seconds=2,
    pauses=10, idle_seconds=2, ticks_of_each=200,
)  # fmt: skip


@dataclass(frozen=True)
class Bulk:
    """A file of text for streams: random base64 in lines of 76 characters."""

    path: Path
    size: int
    digest: str


@dataclass(frozen=True)
class Bench:
    """What rows are given.

    Attributes:
        work: a directory for everything that is made.
        ticker: the shell words that run the ticker.
        ccexecd: the program `ccexecd`.
        sizes: how much to do.
    """

    work: Path
    ticker: str
    ccexecd: Path
    sizes: Sizes

    @cached_property
    def bulk(self) -> Bulk:
        """The file for bulk output, made when it is first wanted."""
        path = self.work / "bulk.txt"
        size = self.sizes.bulk_mib << 20
        block = 57 << 14  # what base64 makes whole lines of
        noise = random.Random(4)
        with path.open("wb") as file:
            while file.tell() < size:
                file.write(encodebytes(noise.randbytes(block))[: size - file.tell()])
        return Bulk(path, size, digest([path.read_bytes()]))  # and now it is in the page cache


@dataclass(frozen=True)
class Goal:
    """What a figure of ccexecd should reach, from the project's plan.

    Attributes:
        bound: the figure itself, or its ratio to that of a peer.
        of: the peer, or None.
        at_least: whether more is better.
    """

    bound: float
    of: str | None = None
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}{f' * {self.of}' if self.of else ''}"

    def is_met(self, value: float) -> bool:
        """Whether a figure, or ratio, reaches it."""
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Figure:
    """One line of the table: a key of what `measure` returns, what it is called there, digits, and a goal."""

    key: str
    label: str
    digits: int = 2
    goal: Goal | None = None


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        name: as M1.
        about: what is done.
        figures: those of the result that the table shows.
        measure: does it once, on a server of its own; raises checks.WrongOutputError when an output is wrong.
    """

    name: str
    about: str
    figures: Sequence[Figure]
    measure: Callable[[Target, Bench], Awaitable[dict[str, float]]]


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many of a hundred are not above, interpolated."""
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def milliseconds(nanoseconds: Sequence[int], name: str) -> dict[str, float]:
    """Middle, 99th percentile and maximum of durations."""
    return {
        f"{name}_p50_ms": percentile(nanoseconds, 50) / 1e6,
        f"{name}_p99_ms": percentile(nanoseconds, 99) / 1e6,
        f"{name}_max_ms": max(nanoseconds) / 1e6,
    }
