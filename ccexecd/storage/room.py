"""What a log on disk shares with all others, as the log sees it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ccexecd.storage.log_files import LogFiles
    from ccexecd.storage.stored_log import StoredLog


class Room(Protocol):
    """What a log on disk shares with all others."""

    @property
    def most_bytes(self) -> int:
        """What one of them may keep now."""

    def takes(self, size: int) -> None:
        """So many more bytes are kept; fewer, if it is negative."""

    def fails(self, log: "StoredLog", error: OSError) -> None:
        """It could not be written to."""

    def works(self, log: "StoredLog") -> None:
        """It could be written to, after it could not, or for the first time."""

    def reads(self, files: "LogFiles") -> None:
        """A log to which nothing is written any more has its files open, or is about to; others may have to close."""

    def postpone(self, step: Callable[[], None]) -> None:
        """Have something done in a moment, when nobody waits for it."""

    def is_over(self, log: "StoredLog") -> None:
        """Nothing more is written to it."""
