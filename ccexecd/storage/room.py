"""What a log on disk shares with all others, as the log sees it: the spool is one."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ccexecd.storage.log_files import LogFiles
    from ccexecd.storage.stored_log import StoredLog


class Room(Protocol):
    """What a log on disk shares with all others: the count of bytes, problems, and open files."""

    @property
    def most_bytes(self) -> int:
        """Bytes that one log may keep now."""

    def takes(self, size: int) -> None:
        """Count `size` more bytes on disk; fewer, if it is negative."""

    def fails(self, log: "StoredLog", error: OSError) -> None:
        """Note that a log could not be written to."""

    def works(self, log: "StoredLog") -> None:
        """Note that a log could be written to: for the first time, or again after a failure."""

    def reads(self, files: "LogFiles") -> None:
        """Note that a log that is only read has its files open, or is about to open them; others may be closed."""

    def postpone(self, step: Callable[[], None]) -> None:
        """Have a step done soon, when nobody waits for the event loop."""

    def is_over(self, log: "StoredLog") -> None:
        """Note that nothing more is written to a log."""
