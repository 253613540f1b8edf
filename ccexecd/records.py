"""Keeps executions: their logs and records in the archive, and the finished ones for a while in memory.

Owns the way between an execution and the archive, and the finished executions in memory. Must not start or end an
execution.
"""

import errno
import hashlib
import logging
import os
import sqlite3
from collections import ChainMap, Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import attrs
import trio

from ccexecd.config import Config
from ccexecd.core.execution import State
from ccexecd.estimates import Estimates
from ccexecd.process.description import describe
from ccexecd.process.execution import Execution
from ccexecd.storage.archive import Archive
from ccexecd.storage.history import WHOLE_COMMAND, Record, Wanted
from ccexecd.storage.ledger import Ledger, LedgerError
from ccexecd.storage.past import PastExecution
from ccexecd.storage.recovery import ONCE
from ccexecd.storage.spool import Retention
from ccexecd.storage.stored_log import StoredLog
from ccexecd.threads import NoThreadError, in_thread
from ccexecd.waiting import UnreadableError, Waiting, as_text, from_text

# For the methods about prompts, which must not import `storage`.
__all__ = ["Ledger", "LedgerError", "Records", "Totals", "retention_of"]

log = logging.getLogger(__name__)

T = TypeVar("T")

REMEMBERED_EXECUTIONS = 1000
"""Most finished executions that stay in memory, so that `list` after a burst needs no disk."""

REMEMBERED_BYTES = 32 * 1024 * 1024
"""Bytes of output of finished executions that stay in memory; the oldest go first."""

REMEMBERED_WINDOW = 256 * 1024
"""Bytes of one finished execution's output that stay in memory, where all of it is on disk."""

RECALLED = 32
"""Executions of the past that are cached after a look-up: output is read in many calls."""


@attrs.define
class Totals:
    """Counters of all executions that have finished since the start.

    Attributes:
        finished: number of executions, by reason.
        output_bytes: bytes that they have written, by stream.
        dropped_bytes, dropped_lines: output that was lost by the time they finished.
    """

    finished: Counter[str] = attrs.field(factory=Counter)
    output_bytes: Counter[str] = attrs.field(factory=Counter)
    dropped_bytes: int = 0
    dropped_lines: int = 0

    def add(self, execution: Execution) -> None:
        """Count an execution that has finished."""
        if execution.outcome is not None:
            self.finished[execution.outcome.reason.value] += 1
        for stream, size in execution.log.sizes.items():
            self.output_bytes[stream] += size
        self.dropped_bytes += execution.log.dropped_bytes
        self.dropped_lines += execution.log.dropped_lines


def retention_of(config: Config) -> Retention:
    """Return the retention rules of a configuration."""
    return Retention(
        execution_bytes=config.spool_execution_bytes,
        total_bytes=config.spool_total_bytes,
        output_seconds=config.spool_max_age,
        history_seconds=config.history_max_age,
        receipts=config.receipts,
    )


class Records:
    """What is kept of all executions of a daemon.

    Args:
        archive: keeps output and records on disk; None for in memory only.
        config: the configuration in force, for the estimates.
        environ: the daemon's environment.

    Attributes:
        totals: counters of the finished executions.
        estimates: learns how long commands take.
    """

    def __init__(self, archive: Archive | None, config: Config, environ: Mapping[str, str]) -> None:
        self.totals = Totals()
        self.estimates = Estimates(config, archive, environ.get("PATH", os.defpath))
        self._archive = archive
        self._one_at_a_time = trio.CapacityLimiter(1)
        self._left: list[Waiting] = []
        if archive is not None:
            archive.is_left = self._is_left
        self._stores: dict[str, StoredLog] = {}
        self._remembered: deque[tuple[Execution, int]] = deque()  # with its bytes of memory when it finished
        self._remembered_bytes = 0
        self._recalled: OrderedDict[str, PastExecution] = OrderedDict()

    def left(self) -> list[Waiting]:
        """Return the executions that an earlier daemon has left waiting, the oldest first; a second call has none."""
        left, self._left = self._left, []
        if left:
            text = "%d executions waited when the last daemon died and are held: see ccexecctl release, ccexecctl drop"
            log.warning(text, len(left))
        return sorted(left, key=lambda each: each.created_at)

    def _is_left(self, name: str, text: bytes) -> bool:
        try:
            self._left.append(from_text(name, text))
        except UnreadableError as error:
            log.warning("execution %s waited, and cannot be run any more: %s", name, error)
            return False
        return True

    def waits(self, execution: Execution) -> None:
        """Write down an execution that waits for its turn, with all it takes to run it. Its log stays in memory."""
        if self._archive is not None:
            position = execution.turn.position if execution.turn is not None else None
            self._archive.queue_file.put(execution.id, as_text(execution, position or 1))
            self.is_held(execution)

    def is_held(self, execution: Execution) -> None:
        """Write the record of an execution that is held or waits, as it is now."""
        if self._archive is not None:
            self._archive.note(execution.id, lambda: _record(execution, None))

    def begins(self, execution: Execution) -> None:
        """Blank the line of a waiting execution before it is started, so that no later daemon can start it again."""
        if self._archive is not None:
            self._archive.queue_file.remove(execution.id)

    def begin(self, execution: Execution) -> None:
        """Give the log of an execution that is being started a place on disk, and write its record."""
        if self._archive is None:
            return
        once = execution.spec.once
        besides = {ONCE: [once.key, once.fingerprint]} if once is not None else {}
        store = self._archive.begin(execution.id, describe(execution) | besides | _whole_command(execution))
        if store is not None:
            execution.log.keep_in(store)
            store.started_at = partial(_start, execution)
            self._stores[execution.id] = store
        self._archive.note(execution.id, lambda: _record(execution, store))

    def finished(self, execution: Execution) -> list[Execution]:
        """Write the final record of an execution once its log is complete, and keep it in memory for a while.

        Returns:
            The executions that leave the memory for it.
        """
        self.begins(execution)
        self.totals.add(execution)
        store = self._stores.pop(execution.id, None)
        if store is not None:
            store.when_closed(partial(self._archived, execution, store))
        else:
            self._archived(execution, None)
        weight = _weight(execution)
        self._remembered.append((execution, weight))
        self._remembered_bytes += weight
        forgotten = []
        while len(self._remembered) > 1 and (
            len(self._remembered) > REMEMBERED_EXECUTIONS or self._remembered_bytes > REMEMBERED_BYTES
        ):
            oldest, weight = self._remembered.popleft()
            self._remembered_bytes -= weight
            forgotten.append(oldest)
        return forgotten

    def _archived(self, execution: Execution, store: StoredLog | None) -> None:
        """Write the final record of an execution whose log is complete on disk."""
        if self._archive is not None and execution.finished_at is not None:
            size = store.disk_bytes if store is not None else 0
            moment = execution.finished_at.timestamp()
            self._archive.finished(execution.id, moment, size, lambda: _record(execution, store))
            execution.log.shrink(REMEMBERED_WINDOW)

    async def recall(self, name: str, principal: str | None, *, prefix: bool) -> list[PastExecution]:
        """Find executions that have left the memory: see `Archive.find`."""
        if name in self._recalled and principal in (None, self._recalled[name].principal):
            self._recalled.move_to_end(name)
            return [self._recalled[name]]
        found = await self._archive.find(name, principal, prefix=prefix) if self._archive is not None else []
        if len(found) == 1:
            self._recalled[found[0].id] = found[0]
            while len(self._recalled) > RECALLED:
                self._recalled.popitem(last=False)
        return found

    async def verify(self, execution_id: str, uuid: str | None) -> dict[str, Any] | None:
        """Verify the evidence of an execution that has ended: see `Evidence.verify`."""
        return await self._archive.evidence.verify(execution_id, uuid) if self._archive is not None else None

    async def receipt(self, execution_id: str) -> dict[str, Any] | None:
        """The receipt of an execution that has ended: see `Evidence.receipt`."""
        return await self._archive.evidence.receipt(execution_id) if self._archive is not None else None

    async def receipts_status(self) -> dict[str, Any]:
        """Return the public key of receipts, and their directory; empty if there are none."""
        return await self._archive.evidence.status() if self._archive is not None else {}

    async def in_ledger(self, deed: Callable[[Ledger], T]) -> T:
        """Call a function with the ledger of prompts, in a thread, one call after another, and return its result.

        Raises:
            LedgerError: `deed` refused; the text says why.
            OSError: the ledger cannot be used.
        """
        if self._archive is None:
            raise LedgerError("nothing is kept here")
        ledger = self._archive.ledger
        try:
            return await in_thread(lambda: deed(ledger), self._one_at_a_time)
        except (sqlite3.Error, NoThreadError) as error:
            raise OSError(errno.EIO, f"prompts.db: {error}") from error

    async def newest(self, wanted: Wanted) -> Sequence[PastExecution]:
        """Return executions that have left the memory, the newest first."""
        return await self._archive.newest(wanted) if self._archive is not None and wanted.limit > 0 else []


def _start(execution: Execution) -> str | None:
    return execution.started_at.isoformat() if execution.started_at else None


def _weight(execution: Execution) -> int:
    """Bytes of memory that a finished execution takes: its output, its words and its environment."""
    spec = execution.spec
    words = len(spec.display) + sum(map(len, spec.argv)) + sum(map(len, spec.env.values()))
    return execution.log.held_bytes + words


def _whole_command(execution: Execution) -> dict[str, str]:
    """Return the digest of all words of a command, which proves them even if they are shown cut or redacted."""
    words = "\0".join(execution.spec.argv).encode(errors="surrogatepass")
    return {WHOLE_COMMAND: hashlib.sha256(words).hexdigest()}


def _record(execution: Execution, store: StoredLog | None) -> Record:
    """Return the history's record of an execution."""
    outcome, ended, once = execution.outcome, execution.finished_at, execution.spec.once
    described = describe(execution) | _whole_command(execution)
    besides = dict(ChainMap(*(dict(listener.kept()) for listener in execution.listeners)))
    return Record(
        id=execution.id,
        session_id=execution.session_id,
        principal=execution.principal,
        created_at=execution.created_at.timestamp(),
        finished_at=ended.timestamp() if ended is not None and execution.state is State.FINISHED else None,
        reason=outcome.reason.value if outcome is not None else None,
        exit_code=outcome.exit_code if outcome is not None else None,
        duration=execution.duration,
        command=described["command"],
        output_bytes=store.disk_bytes if store is not None and store.oldest_seq is not None else 0,
        description=described,
        completion=execution.completion(outcome) if outcome is not None else None,
        idempotency_key=once.key if once is not None else None,
        fingerprint=once.fingerprint if once is not None else None,
        **besides,
    )
