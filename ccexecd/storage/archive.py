"""What outlives an execution: its output in the spool, and its record in the history.

Theory of operation. Output is written as it is read, in the event loop. Records of executions are gathered for `GATHER`
seconds and then written in one transaction, in a thread, so that an execution which takes a millisecond does not pay
for a disk. If the daemon dies before that transaction, nothing is lost: the logs hold the same facts, and at its start
a daemon completes the history from them. What was running when the earlier daemon died is `lost`, with all its output.

Owns that thread, when it writes, and what happens when a disk or a database fails: the daemon goes on, reports the
problem, and tries again. Must not know `Execution`: callers hand in the records to be kept.
"""

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import trio

from ccexecd.storage.evidence import Evidence
from ccexecd.storage.history import History, HistoryError, Record, SessionRecord, Wanted
from ccexecd.storage.journal import JournalError
from ccexecd.storage.ledger import Ledger
from ccexecd.storage.left_behind import LeftBehind
from ccexecd.storage.notary import MOST_WAITING, Notary
from ccexecd.storage.past import HistoryUnavailableError, PastExecution
from ccexecd.storage.queue_file import QueueFile
from ccexecd.storage.receipts import Receipts
from ccexecd.storage.spool import Retention, Spool
from ccexecd.storage.stored_log import StoredLog
from ccexecd.threads import in_thread

log = logging.getLogger(__name__)

T = TypeVar("T")

GATHER = 0.05
"""Seconds for which records are gathered before a write: a transaction costs 0.1 ms, however many records it holds."""

LATENESS = 0.01
"""How late an idle daemon may remove what is too old, as a share of its retention age. The delay lets many of about the
same age go in one write."""

MOST_LATE = 60.0
"""Upper bound of that delay, in seconds."""

RETRY = 5.0
"""Seconds from a failed write to the next attempt."""

MOST_AT_ONCE = 1000
"""Records made and written in one go: 10 ms of the event loop, reached when many have waited for a database."""

LAST_WRITE = 10.0
"""Seconds that a stop waits for the last transaction: a disk that hangs must not keep the daemon."""


class Archive:
    """All that is kept of executions: output, history, receipts, and those that wait for their turn.

    Args:
        directory: the state directory, which must exist.
        retention: how much is kept, and for how long.

    Attributes:
        spool: the output.
        queue_file: keeps the executions that wait for their turn.
        is_left: called in the archive's thread with the id and the kept text of each execution that an earlier
            daemon left waiting; returns whether it can still be run.
        notary: writes receipts.
        evidence: answers questions about receipts.
        ledger: versions of prompts and the results of their runs.
        opened: set once what an earlier daemon left has been read; no execution may begin before.
    """

    def __init__(self, directory: Path, retention: Retention) -> None:
        self.spool = Spool(directory / "output", retention, self._wake, self._is_behind)
        self.queue_file = QueueFile(directory / "waiting")
        self.is_left: Callable[[str, bytes], bool] = lambda _name, _text: False
        self._left_waiting: set[str] = set()
        self.notary = Notary(Receipts(directory / "receipts"), self.spool.root)
        self.evidence = Evidence(self.notary, self.spool.root, self._record_of, lambda: self.is_settled)
        self.ledger = Ledger(directory / "prompts.db")
        self._history = History(directory / "history.db")
        self._left_behind = LeftBehind(self._history, self.spool, directory / "audit")
        self._problem = ""
        self._damage: sqlite3.DatabaseError | None = None  # found in the history, which has not been put aside yet
        self._is_empty = False  # the history was put aside, and the new one is not yet completed from the logs
        self._oldest = float("inf")  # when the first execution that the history knows finished, seconds since the epoch
        self._sessions: dict[str, SessionRecord] = {}
        self._executions: dict[str, Callable[[], Record]] = {}
        self._ended: set[str] = set()  # keys of `_executions` that have ended, so that they get a receipt
        self._removed: list[str] = []
        self._is_writing = False
        self._begun: set[str] | None = set()  # ids begun by this daemon; None once recovery of earlier ones is done
        self._wanted, self._postponed = trio.Event(), trio.Event()
        self.opened = trio.Event()
        self._thread, self._asking = trio.CapacityLimiter(1), trio.CapacityLimiter(1)

    @property
    def problems(self) -> dict[str, str]:
        """What does not work -> why; usually empty. Keys may be shown to everybody, values to operators only."""
        known = {
            "output is not kept on disk": self.spool.problem,
            "the history is not kept": self._problem,
            "what waits is not kept on disk": self.queue_file.problem,
            "receipts are not written": self.notary.problem,
        }
        return {what: why for what, why in known.items() if why}

    @property
    def is_settled(self) -> bool:
        """Whether everything handed in has been written."""
        is_busy = self.spool.is_behind or self._is_writing or self._sessions or self._executions or self._removed
        return not is_busy and self.notary.is_settled

    def retain(self, retention: Retention) -> None:
        """Apply a new retention from now on."""
        self.spool.retain(retention)
        self._wake()

    def begin(self, execution_id: str, description: dict[str, Any]) -> StoredLog | None:
        """The log on disk of an execution that is being started; None if output is not kept on disk."""
        if self._begun is not None:
            self._begun.add(execution_id)
        return self.spool.begin(execution_id, description)

    def note_session(self, session: SessionRecord) -> None:
        """Have a session's record written with the next transaction."""
        self._sessions[session.id] = session
        self._wake()

    def note(self, execution_id: str, record: Callable[[], Record]) -> None:
        """Have an execution's record written with the next transaction; `record` is called just before it."""
        self._executions[execution_id] = record
        self._wake()

    def finished(self, execution_id: str, moment: float, size: int, record: Callable[[], Record]) -> None:
        """Have a finished execution's record written, and its output kept for the retention time.

        Args:
            execution_id: its id.
            moment: when it finished, in seconds since the epoch.
            size: bytes that its output takes on disk; 0 if there is none.
            record: makes its record; called just before the transaction.
        """
        if size:
            self.spool.finished(execution_id, moment, size)
        self._ended.add(execution_id)
        self.note(execution_id, record)

    async def find(
        self, execution_id: str, principal: str | None = None, *, prefix: bool = False
    ) -> list[PastExecution]:
        """Find the finished execution with an id or, with `prefix`, those whose ids begin with it.

        Args:
            execution_id: an id, or its beginning.
            principal: only executions of this one; None is everybody's.
            prefix: whether the beginning of an id is enough.

        Returns:
            Two at most: enough to tell that a beginning is ambiguous.

        Raises:
            HistoryUnavailableError: the history cannot be read now.
        """
        found = await self._ask(lambda: self._history.find(execution_id, principal, prefix=prefix))
        return [self._past(each) for each in found if each.finished_at is not None]

    async def find_once(self, principal: str, key: str) -> PastExecution | None:
        """The finished execution that a principal's idempotency key stands for; None if there is none.

        Raises:
            HistoryUnavailableError: the history cannot be read now.
        """
        found = await self._ask(lambda: self._history.find_once(principal, key))
        return next((self._past(each) for each in found if each.finished_at is not None), None)

    async def newest(self, wanted: Wanted) -> list[PastExecution]:
        """Finished executions, the newest first.

        Raises:
            HistoryUnavailableError: the history cannot be read now.
        """
        return [self._past(each) for each in await self._ask(lambda: self._history.newest(wanted))]

    async def told(self, question: Callable[[sqlite3.Connection], list[T]]) -> list[T]:
        """Run a query on the history, in a thread. Raises HistoryUnavailableError where it cannot be read now."""
        return await self._ask(lambda: self._history.ask(question))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Recover what an earlier daemon left, then write whenever there is something to write, until cancelled."""
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._proceed)
                await in_thread(self._open, self._thread)
                self.opened.set()
                self._wake()  # some of it may have become too old
                while True:
                    with trio.move_on_after(self._seconds_until_due()):
                        await self._wanted.wait()
                    await trio.sleep(RETRY if self._problem else GATHER)
                    await self._write()
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(LAST_WRITE):
                while self.spool.proceed():
                    await trio.lowlevel.checkpoint()
                await self._write()
                while not (self.is_settled or self._problem):  # one write takes no more than `MOST_AT_ONCE`
                    await self._write()
                with contextlib.suppress(OSError):  # it is closed with the process then
                    await in_thread(self._close, self._thread)

    # Writing

    def _seconds_until_due(self) -> float:
        """Seconds until something on disk or in the history becomes too old; infinity if nothing will."""
        kept = self.spool.retention
        ages = (self.spool.next_due, kept.output_seconds), (self._oldest + kept.history_seconds, kept.history_seconds)
        now = time.time()
        return min(max(0.0, moment - now) + min(age * LATENESS, MOST_LATE) for moment, age in ages)

    def _is_behind(self) -> None:
        self._postponed.set()

    async def _proceed(self) -> None:
        """Write to logs on disk, step by step, what could not be written to them earlier."""
        while True:
            await self._postponed.wait()
            while self.spool.proceed():
                await trio.lowlevel.checkpoint()
            self._postponed = trio.Event()

    def _wake(self) -> None:
        self._wanted.set()

    async def _write(self) -> None:
        """Write what has been gathered; what cannot be written stays for the next attempt."""
        self._wanted = trio.Event()
        self.spool.prepare()
        due = self.spool.due(time.time())
        self._removed += due
        sessions, makers = self._sessions, dict(islice(self._executions.items(), MOST_AT_ONCE))
        self._sessions, self._executions = {}, dict(islice(self._executions.items(), MOST_AT_ONCE, None))
        records = [make() for make in makers.values()]
        ended = self._ended & makers.keys()
        removed, self._removed = self._removed, []
        self._is_writing = True
        try:
            write = partial(self._write_now, list(sessions.values()), records, removed, ended)
            await in_thread(write, self._thread)
        except (sqlite3.Error, HistoryError, OSError) as error:
            self._has_failed(error)
            self._sessions = sessions | self._sessions
            self._executions = makers | self._executions
            self._removed = removed + self._removed
        else:
            self._problem = ""
            self._ended -= ended
        finally:
            self._is_writing = False
            self.evidence.has_written()
        if self._problem or not self.is_settled:
            self._wake()

    def _write_now(
        self, sessions: Sequence[SessionRecord], records: Sequence[Record], removed: Sequence[str], ended: set[str]
    ) -> None:
        self.spool.remove(removed)
        if self._problem:  # it may not even be open
            self._reopen()
        self._recover()
        attested = [record for record in records if record.id in ended]
        receipts = self.notary.attest(attested, wanted=self.spool.retention.receipts)
        self._history.write(sessions, records, receipts)
        self.notary.noted()
        ends = [*(each.finished_at for each in records), *(each.ended_at for each in sessions)]
        self._oldest = min([self._oldest, *(end for end in ends if end is not None)])
        if removed:
            self._history.outputs_are_gone(removed)
        self._forget()

    def _forget(self) -> None:
        """Remove from the history what is too old."""
        moment = time.time() - self.spool.retention.history_seconds
        if self._oldest < moment:
            self._oldest = self._history.forget_before(moment)

    async def _record_of(self, execution_id: str) -> Record | None:
        return next(iter(await self._ask(lambda: self._history.find(execution_id))), None)

    async def _ask(self, question: Callable[[], list[T]]) -> list[T]:
        await self.opened.wait()
        if self._begun is not None or self._damage is not None or self._is_empty:  # the history is not complete
            raise HistoryUnavailableError
        try:
            return await in_thread(question, self._asking)
        except (sqlite3.Error, OSError) as error:
            self._has_failed(error)
            self._wake()
            raise HistoryUnavailableError from error

    def _has_failed(self, error: Exception) -> None:
        text = str(error) if isinstance(error, HistoryError | OSError) else f"{self._history.path}: {error}"
        if not self._problem:
            log.error("the history cannot be used: %s", text)
        self._problem = text
        if type(error) is sqlite3.DatabaseError:  # its subclasses do not mean that the file is damaged
            self._damage = error

    def _warn(self, what: str | None) -> None:
        if what is not None:
            log.error("%s", what)

    def _past(self, record: Record) -> PastExecution:
        def reopen() -> StoredLog | None:
            try:
                return self.spool.reopened(record.id)
            except (JournalError, OSError) as error:
                log.warning("the output of execution %s cannot be read: %s", record.id, error)
                return None

        return PastExecution(record, reopen)

    def _close(self) -> None:
        self._history.close()
        self.notary.receipts.close()

    # Recovery of what an earlier daemon left. All of it runs in the archive's thread.

    def _open(self) -> None:
        """Open the history, complete it from the logs, and tell the spool how much output is already kept."""
        waiting = self.queue_file.load()
        begun: set[str] = set()
        try:
            self._reopen()
            begun = self._left_behind.begun_of(waiting)
        except (sqlite3.Error, HistoryError, OSError) as error:
            self._has_failed(error)
        for name in begun:
            self.queue_file.remove(name)
        self._left_waiting = {name for name in waiting.keys() - begun if self.is_left(name, waiting[name])}
        try:
            if not self._problem:
                self._recover()
        except (sqlite3.Error, HistoryError, OSError) as error:
            self._has_failed(error)

    def _reopen(self) -> None:
        """Open the history, or reopen it after a failure; a damaged file is put aside first."""
        self._history.close()
        damage, self._damage = self._damage, None
        self._is_empty = self._is_empty or damage is not None
        told = self._history.put_aside(damage) if damage is not None else self._history.open()
        self._is_empty = self._is_empty or told is not None
        self._warn(told)

    def _recover(self) -> None:
        """Complete the history from the logs: at the start, and after a damaged one was put aside."""
        if self._begun is not None:
            self._history.write(
                (), list(self._left_behind.lost(self._begun | self._left_waiting))
            )  # executions that this daemon has begun meanwhile are not lost
            self._attest_earlier(self._begun)
            self._oldest = float("-inf")
            self._forget()
            trio.from_thread.run_sync(self._has_recovered, self._history.outputs())
        elif self._is_empty:
            live = trio.from_thread.run_sync(self.spool.live_ids)
            self._history.write((), list(self._left_behind.finished_before(live)))
            self._attest_earlier(set())
        self._is_empty = False

    def _attest_earlier(self, begun_here: set[str]) -> None:
        """Have receipts written for executions that have ended without one, as far as the history knows."""
        if self.spool.retention.receipts:
            earlier = [each for each in self._history.unattested(MOST_WAITING) if each.id not in begun_here]
            self._history.write((), self.notary.recover(earlier, everywhere=self._history.is_new))

    def _has_recovered(self, outputs: Sequence[tuple[str, float, int]]) -> None:
        """End recovery. Runs in the event loop, where output is counted.

        Args:
            outputs: id, end (seconds since the epoch) and bytes of each output that earlier daemons have kept.
        """
        self.spool.inherit(outputs)
        self._begun = None
