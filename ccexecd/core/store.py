"""What a log keeps its entries in besides its window, as the log sees it."""

from collections.abc import Callable, Sequence
from typing import Protocol

from ccexecd.core.entries import Entry, Gap, Stream


class Reader(Protocol):
    """One place in a store."""

    def take(self) -> Entry | Gap | None:
        """Give the next entry and move on; None when the store has no more."""

    def close(self) -> None:
        """Read no longer."""


class Store(Protocol):
    """Where a log is kept besides its window. No method raises for what is outside: it fails, and says so."""

    @property
    def oldest_seq(self) -> int | None:
        """The first entry that it holds; None while it holds none."""

    @property
    def is_ready(self) -> bool:
        """Whether it is worth trying to give it something."""

    def write(self, stream: Stream, received: bytes) -> None:
        """Keep what a read brought, before anything is made of it."""

    def record(self, entries: Sequence[Entry | Gap]) -> int:
        """Keep entries: those that follow what it holds. Returns how many it has now: the first ones, or none."""

    def postpone(self, step: Callable[[], None]) -> None:
        """Have a step of what is left to give it done in a moment, when nobody waits."""

    def shed(self) -> Sequence[Entry | Gap]:
        """Give up the oldest entries that are beyond what it may hold. They are gone, and returned for the account."""

    def reader(self, seq: int) -> Reader:
        """A place in it, at the entry that holds `seq`."""

    def finish(self) -> None:
        """Nothing follows but what it has not taken yet: worth trying once more."""

    def close(self) -> None:
        """Nothing follows."""
