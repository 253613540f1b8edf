"""What an earlier daemon has left, as the history is to know it: read from the logs on disk, and from the audit.

Owns telling what was running from what had ended and from what only waited. Must not write. It blocks.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ccexecd.core.execution import Reason
from ccexecd.storage.history import History, Record
from ccexecd.storage.journal import JournalError
from ccexecd.storage.recovery import Trace, begun, concluded, recorded, trace
from ccexecd.storage.spool import Spool

log = logging.getLogger(__name__)


class LeftBehind:
    """What is there of earlier lives of the daemon.

    Args:
        history: what is known.
        spool: the logs.
        audit: where the audit's files are.
    """

    def __init__(self, history: History, spool: Spool, audit: Path) -> None:
        self._history = history
        self._spool = spool
        self._audit = audit

    def begun_of(self, waiting: Iterable[str]) -> set[str]:
        """Those that did not wait any more, though a crash has left what is kept of those that do."""
        waiting = set(waiting)
        if not waiting:
            return set()
        unfinished = {record.id: record for record in self._history.unfinished()}
        finished = waiting - unfinished.keys() - self._history.unknown(waiting)
        started = {name for name in waiting & unfinished.keys() if unfinished[name].description.get("started_at")}
        return finished | started | (waiting & self._spool.ids())

    def lost(self, besides: set[str]) -> Iterator[Record]:
        """Those that an earlier daemon has not seen to their end, or has not noted.

        Args:
            besides: those that are none of these: begun by this daemon, or still to be run.
        """
        unfinished = {record.id: record for record in self._history.unfinished() if record.id not in besides}
        audited = {name: told for name, told in recorded(self._audit).items() if name not in besides}
        ids = self._spool.ids() - besides
        for name in unfinished.keys() | self._history.unknown(ids | audited.keys()):
            try:
                known, left = unfinished.get(name), self._trace(name) if name in ids else None
                told = audited.get(name)
                if known is None and left is None and told is not None:
                    known = begun(name, told.decision)
                if known is not None or left is not None:
                    yield self._concluded(known, left, told.outcome if told is not None else None)
            except (KeyError, TypeError, ValueError, OSError) as error:  # somebody has written something else there
                log.warning("what is left of execution %s cannot be read: %r", name, error)

    def finished_before(self, live: set[str]) -> Iterator[Record]:
        """Those that have finished, as their logs tell it: all that a history can be given once we run.

        Args:
            live: whose logs are still written to.
        """
        ids = self._spool.ids()
        for name in self._history.unknown(ids - live):
            left = self._trace(name)
            if left is not None and left.completion is not None:
                yield self._concluded(None, left)

    def _concluded(self, known: Record | None, left: Trace | None, outcome: Mapping[str, Any] | None = None) -> Record:
        record = concluded(known, left, outcome)
        if record.reason == Reason.LOST.value:
            log.warning("execution %s: lost", record.id, extra={"command": record.command})
        return record

    def _trace(self, execution_id: str) -> Trace | None:
        try:
            return trace(self._spool.root / execution_id, self._spool)
        except (JournalError, OSError) as error:
            log.warning("%s holds no output that can be read: %s", self._spool.root / execution_id, error)
            return None
