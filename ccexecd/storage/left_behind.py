"""Records of what an earlier daemon left, made for the history from the logs on disk and from the audit.

Owns telling executions that were running from those that had ended and those that only waited. Must not write to the
history; an unfinished log is completed while it is read (`recovery`). It blocks.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ccexecd.core.execution import Reason
from ccexecd.storage.history import History, Record, is_sound
from ccexecd.storage.journal import JournalError
from ccexecd.storage.recovery import Trace, begun, concluded, recorded, trace
from ccexecd.storage.spool import Spool

log = logging.getLogger(__name__)


class LeftBehind:
    """What earlier daemons on this state directory left.

    Args:
        history: the history, which may be incomplete.
        spool: the logs.
        audit: directory of the audit's files.
    """

    def __init__(self, history: History, spool: Spool, audit: Path) -> None:
        self._history = history
        self._spool = spool
        self._audit = audit

    def begun_of(self, waiting: Iterable[str]) -> set[str]:
        """Which of the executions that are still in the queue file had begun: a crash left their lines there.

        Args:
            waiting: the ids of all executions in the queue file.

        Raises:
            sqlite3.Error: the history cannot be read.
            OSError: the spool cannot be read.
        """
        waiting = set(waiting)
        if not waiting:
            return set()
        unfinished = {record.id: record for record in self._history.unfinished()}
        finished = waiting - unfinished.keys() - self._history.unknown(waiting)
        started = {name for name in waiting & unfinished.keys() if unfinished[name].description.get("started_at")}
        return finished | started | (waiting & self._spool.ids())

    def lost(self, besides: set[str]) -> Iterator[Record]:
        """Records of executions that an earlier daemon did not see to their end, or did not write to the history.

        Args:
            besides: ids to leave out: executions begun by this daemon, and those that are still to be run.
        """
        unfinished = {record.id: record for record in self._history.unfinished() if record.id not in besides}
        audited = {name: told for name, told in recorded(self._audit).items() if name not in besides}
        ids = self._spool.ids() - besides
        for name in unfinished.keys() | self._history.unknown(ids | audited.keys()):
            with _unless_edited(name):
                known, left = unfinished.get(name), self._trace(name) if name in ids else None
                told = audited.get(name)
                if known is None and left is None and told is not None:
                    known = begun(name, told.decision)
                if known is not None or left is not None:
                    yield self._concluded(known, left, told.outcome if told is not None else None)

    def finished_before(self, live: set[str]) -> Iterator[Record]:
        """Records of finished executions that the history lacks, made from their logs alone.

        Args:
            live: ids to leave out, since their logs are still written to.
        """
        ids = self._spool.ids()
        for name in self._history.unknown(ids - live):
            with _unless_edited(name):
                left = self._trace(name)
                if left is not None and left.completion is not None:
                    yield self._concluded(None, left)

    def _concluded(self, known: Record | None, left: Trace | None, outcome: Mapping[str, Any] | None = None) -> Record:
        record = concluded(known, left, outcome)
        labels = record.description.get("labels", {})
        if not is_sound(record) or not all(isinstance(value, str) for value in labels.values()):
            raise ValueError("it is not as this program writes it")
        if record.reason == Reason.LOST.value:
            log.warning("execution %s: lost", record.id, extra={"command": record.command})
        return record

    def _trace(self, execution_id: str) -> Trace | None:
        try:
            return trace(self._spool.root / execution_id, self._spool)
        except (JournalError, OSError) as error:
            log.warning("%s holds no output that can be read: %s", self._spool.root / execution_id, error)
            return None


@contextlib.contextmanager
def _unless_edited(execution_id: str) -> Iterator[None]:
    """Pass over an execution whose files somebody else has changed, so that the others are recovered."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        log.warning("what is left of execution %s cannot be read: %r", execution_id, error)
