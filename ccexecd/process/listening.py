"""Who is told what becomes of an execution while it happens, besides its watchers.

A watcher reads the log at its own pace. A listener is called in the step in which something happens: it reads what an
agent says of itself, begins what a hook wants, or notes what is to be proved later. Owns the face of one. Must not know
what any of them does.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ccexecd.core.entries import Stream

if TYPE_CHECKING:  # an execution has listeners
    from ccexecd.process.execution import Execution


class Listener:
    """Told of one execution; does nothing where it has nothing to do.

    Each method is called in the event loop, in the step in which it happens, and must neither block nor raise.
    """

    reads: tuple[Stream, ...] = ()
    """Streams of which `has_output` is to be told; nobody else's output costs anything."""

    understands_silence = False
    """Whether `is_at_work` knows: then silence alone is no stall."""

    def has_started(self) -> None:
        """There is a leader."""

    def has_output(self, stream: Stream, received: bytes) -> None:
        """Bytes were read, and are in the log.

        Args:
            stream: from where; one of `reads`.
            received: as they came, cut anywhere.
        """

    def is_stalling(self) -> None:
        """It has been silent for so long that its stall time-out is near."""

    def is_at_work(self) -> bool:
        """Whether it is known to do something although it writes nothing."""
        return False

    def is_ending(self) -> None:
        """All of its output has been read, and its outcome is not told yet: what is noted now comes before that."""

    def has_ended(self) -> None:
        """It has finished: its outcome is known and told. Called for one that has never run, too."""

    def facts(self) -> Mapping[str, object]:
        """What `status` and the history are to tell of it besides, as JSON has it."""
        return {}

    def kept(self) -> Mapping[str, Any]:
        """What the history is to keep of it besides, in the columns of its record of these names; it is not told."""
        return {}

    def final_facts(self) -> Mapping[str, object]:
        """What `process.completed` is to tell of it besides. Its outcome is known by then."""
        return {}


Companion = Callable[["Execution"], Listener | None]
"""Gives an execution that is being admitted a listener, if it wants to listen to that one."""
