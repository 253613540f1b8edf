"""An execution that has finished and left the daemon's memory: its record in the history, and its output in the spool.

It can be watched and described like one in memory. Owns nothing.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from ccexecd.core.display import Display
from ccexecd.core.entries import Note
from ccexecd.core.execution import State
from ccexecd.core.output import OutputLog
from ccexecd.storage.history import WHOLE_COMMAND, Record
from ccexecd.storage.stored_log import StoredLog

_START_AND_END = 2
"""Entries of an execution that wrote nothing and was not controlled: its start and its end."""


class HistoryUnavailableError(Exception):
    """The history cannot be read now; the text may be shown to everybody."""

    def __init__(self) -> None:
        super().__init__("the history cannot be read now: it is locked, or its disk fails; ask again in a moment")


class PastExecution:
    """One finished execution.

    Args:
        record: its record in the history.
        reopen: opens its log on disk; returns None if that cannot be read.

    Attributes:
        id: its UUID.
        session_id: the id of its session.
        principal: the name of that session's principal.
        fingerprint: digest of its request, which tells it from another one with the same idempotency key; None without
            a key.
        state: FINISHED.
        is_live: false.
    """

    state = State.FINISHED
    is_live = False

    def __init__(self, record: Record, reopen: Callable[[], StoredLog | None]) -> None:
        self.id = record.id
        self.session_id = record.session_id
        self.principal = record.principal
        self.fingerprint = record.fingerprint
        self._record = record
        self._reopen = reopen

    @cached_property
    def log(self) -> OutputLog:
        """Its output and state changes, as far as they are kept."""
        store = self._reopen() if self._record.output_bytes else None
        known = self._record.description
        sizes = {"stdout": known["stdout_bytes"], "stderr": known["stderr_bytes"]}
        dropped = store.dropped if store is not None else (sum(sizes.values()), 0)
        return OutputLog.restored(store, self._last_notes(), sizes, dropped)  # type: ignore[arg-type]  # those are streams

    def _last_notes(self) -> list[Note]:
        """The entries that are known without a log: the end and, if it did nothing but start and end, the start."""
        known, end = self._record.description, self._record.description["next_seq"] - 1
        notes = [Note(end, "process.completed", self.completion)]
        if end == _START_AND_END and known["pid"] is not None:
            started = {"status": "started", "pid": known["pid"], "pgid": known["pgid"]}
            notes.insert(0, Note(1, "process.started", started))
        return notes

    @property
    def description(self) -> dict[str, Any]:
        """What `list` and `status` tell of it."""
        known = dict(self._record.description)
        known.pop(WHOLE_COMMAND, None)
        if not self._record.output_bytes:
            known |= {"oldest_seq": self._last_notes()[0].seq}
            known["dropped_bytes"] = known["stdout_bytes"] + known["stderr_bytes"]
        return known

    @property
    def looked_up(self) -> dict[str, Any]:
        """The description with current numbers from its log, which is opened: it may have given up output since."""
        return self.description | {"oldest_seq": self.log.oldest_seq, "dropped_bytes": self.log.dropped_bytes}

    @property
    def completion(self) -> dict[str, Any]:
        """The params of its `process.completed`."""
        return dict(self._record.completion or {})

    @property
    def shown_as(self) -> Display:
        """How its request asked for its output to be shown."""
        known = self._record.description
        return Display(known["framing"] == "raw", known["max_line_bytes"])

    # The face of a live execution, for those who watch it: nothing happens any more

    def watch(self, watcher: Callable[[], None]) -> None:
        """Tell somebody whenever the log has grown: never."""

    def unwatch(self, watcher: Callable[[], None]) -> None:
        """Tell them no more."""

    def was_read(self) -> None:
        """A watcher has moved on: nothing waits for it."""
