"""What a log needs of a store, which keeps its entries beyond the window; `storage.stored_log` is one.

Owns the interface, so that the log stays pure. Must not know a file.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from ccexecd.core.entries import Entry, Gap, Stream


class Reader(Protocol):
    """A place in a store, from which a cursor reads."""

    def take(self) -> Entry | Gap | None:
        """Give the next entry and move on; None when the store has no more."""

    def close(self) -> None:
        """Stop reading."""


class Store(Protocol):
    """Keeps all entries of one log. No method raises because of the disk: what was not taken, the log offers again."""

    @property
    def oldest_seq(self) -> int | None:
        """The first entry that it holds; None while it holds none."""

    @property
    def is_ready(self) -> bool:
        """Whether `record` is worth a try: False for a while after a failure."""

    def write(self, stream: Stream, received: bytes) -> None:
        """Keep the bytes of one read, before they are cut into entries."""

    def record(self, entries: Sequence[Entry | Gap]) -> int:
        """Keep entries, which follow those that it holds. Returns how many it took, counted from the first."""

    def when_wanted(self, hand_in: Callable[[], None]) -> None:
        """Call a function when the store is about to begin: it then takes what was noted so far."""

    def postpone(self, step: Callable[[], None]) -> None:
        """Call a function in a moment, when the event loop has nothing more urgent to do."""

    def shed(self) -> Sequence[Entry | Gap]:
        """Give up the oldest entries, as far as it holds more than it may. Returns them, for the account."""

    def reader(self, seq: int) -> Reader:
        """Begin reading at the entry that holds `seq`."""

    def finish(self) -> None:
        """Get ready to take the rest: no entry will come but those that it has not taken yet."""

    def close(self) -> None:
        """Let go of the files: nothing follows."""
