"""The interface of listeners, which follow one execution from inside the daemon.

A watcher reads the log at its own pace. A listener is called in the step in which something happens: it reads what an
agent says of itself, calls hooks, or learns how long commands take. Must not know what any listener does.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ccexecd.core.entries import Stream

if TYPE_CHECKING:  # an execution has listeners
    from ccexecd.process.execution import Execution


class Listener:
    """Base class of listeners: every method does nothing until a subclass overrides it.

    Each method is called in the event loop, in the step in which the event happens, and must neither block nor raise.
    """

    reads: tuple[Stream, ...] = ()
    """Streams for which `has_output` is called; output of the others costs nothing here."""

    understands_silence = False
    """Whether `is_at_work` can tell work from a stall: then silence alone is no stall."""

    def has_started(self) -> None:
        """The execution has started; its leader runs."""

    def has_output(self, stream: Stream, received: bytes) -> None:
        """A read has brought output, which is in the log by now.

        Args:
            stream: one of `reads`.
            received: the bytes as they came, cut anywhere.
        """

    def is_stalling(self) -> None:
        """The execution has been silent for so long that its stall time-out is near."""

    def is_at_work(self) -> bool:
        """Whether the execution is known to be working although it writes nothing."""
        return False

    def is_ending(self) -> None:
        """All output has been read. What is added to the log now comes before `process.completed`."""

    def has_ended(self) -> None:
        """The execution has finished, and `process.completed` is in the log. Called as well if it has never run."""

    def facts(self) -> Mapping[str, object]:
        """Fields to add to what `status`, `list` and the history show of the execution, as JSON values."""
        return {}

    def kept(self) -> Mapping[str, Any]:
        """Values for columns of the history's record (`storage.history.Record`), by name; no client sees them here."""
        return {}

    def final_facts(self) -> Mapping[str, object]:
        """Fields to add to the params of `process.completed`, as JSON values. The outcome is known by then."""
        return {}


ListenerFactory = Callable[["Execution"], Listener | None]
"""Called with each new execution; returns a listener to it, or None."""
