"""What outlives an execution: its output in the spool, and what is known of it in the history.

Theory of operation. Output is written as it is read, in the event loop. What is known of executions is gathered for a
moment and then written in one transaction, in a thread, so that an execution which takes a millisecond does not pay
for a disk. Should the daemon die within that moment, the log tells the same: at its start, a daemon goes through what
an earlier one has left, and what was running then is `lost`, with all its output.

Owns that thread, the moments of writing, and what happens when a disk or a database fails: the daemon goes on, says
so, and tries again. Must not know executions: it is given what is to be kept.
"""

import contextlib
import errno
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
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
from ccexecd.storage.receipts import Receipts
from ccexecd.storage.shelf import Shelf
from ccexecd.storage.spool import Retention, Spool
from ccexecd.storage.stored_log import StoredLog

log = logging.getLogger(__name__)

T = TypeVar("T")

GATHER = 0.05
"""Seconds in which what is to be written comes together: a transaction costs 0.1 ms, whatever is in it."""

LATENESS = 0.01
"""Share of an age, `MOST_LATE` seconds at most, by which what has reached it may stay where nothing else happens: many
of the same age go together."""

MOST_LATE = 60.0

RETRY = 5.0
"""Seconds until what could not be written is tried again."""

MOST_AT_ONCE = 1000
"""Records that are made and written at a time: 10 ms of the event loop, where many have waited for a database."""

LAST_WRITE = 10.0
"""Seconds that a stop waits for the last transaction: a disk that hangs must not keep the daemon."""


class Archive:
    """What is kept of executions.

    Args:
        directory: where; it exists.
        retention: what is kept, and for how long.

    Attributes:
        spool: the output.
        shelf: what waits for its turn.
        is_left: told, in the thread, of each that an earlier daemon has left waiting, its id and its text; says whether
            it can still be run.
        notary: who writes receipts.
        evidence: what is asked about them.
        ledger: prompts, and what came of them.
        opened: set when it is known what an earlier daemon has left; nothing may be begun before.
    """

    def __init__(self, directory: Path, retention: Retention) -> None:
        self.spool = Spool(directory / "output", retention, self._wake, self._is_behind)
        self.shelf = Shelf(directory / "waiting")
        self.is_left: Callable[[str, bytes], bool] = lambda _name, _text: False
        self._left_waiting: set[str] = set()
        self.notary = Notary(Receipts(directory / "receipts"), self.spool.root)
        self.evidence = Evidence(self.notary, self.spool.root, self._record_of, lambda: self.is_settled)
        self.ledger = Ledger(directory / "prompts.db")
        self._history = History(directory / "history.db")
        self._left_behind = LeftBehind(self._history, self.spool, directory / "audit")
        self._problem = ""
        self._damage: sqlite3.DatabaseError | None = None  # found in it, and not yet put aside
        self._is_empty = False  # since it was put aside, and not yet completed from the logs
        self._oldest = float("inf")  # when the first of what the history knows finished
        self._sessions: dict[str, SessionRecord] = {}
        self._executions: dict[str, Callable[[], Record]] = {}
        self._ended: set[str] = set()  # of these, and their output is whole
        self._removed: list[str] = []
        self._is_writing = False
        self._begun: set[str] | None = set()  # in this life; None once it is known what an earlier one has left
        self._wanted, self._postponed = trio.Event(), trio.Event()
        self.opened = trio.Event()
        self._thread, self._asking = trio.CapacityLimiter(1), trio.CapacityLimiter(1)

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong, in words for everybody, and why, for those who may know; nothing as a rule."""
        known = {
            "output is not kept on disk": self.spool.problem,
            "the history is not kept": self._problem,
            "what waits is not kept on disk": self.shelf.problem,
            "receipts are not written": self.notary.problem,
        }
        return {what: why for what, why in known.items() if why}

    @property
    def is_settled(self) -> bool:
        """Whether everything that it was given has been written."""
        is_busy = self.spool.is_behind or self._is_writing or self._sessions or self._executions or self._removed
        return not is_busy and self.notary.is_settled

    def retain(self, retention: Retention) -> None:
        """Keep so much, and so long, from now on."""
        self.spool.retain(retention)
        self._wake()

    def begin(self, execution_id: str, description: dict[str, Any]) -> StoredLog | None:
        """A place on disk for the log of an execution that is being started; None if none is kept."""
        if self._begun is not None:
            self._begun.add(execution_id)
        return self.spool.begin(execution_id, description)

    def note_session(self, session: SessionRecord) -> None:
        """Keep what is known of a session."""
        self._sessions[session.id] = session
        self._wake()

    def note(self, execution_id: str, record: Callable[[], Record]) -> None:
        """Keep what will be known of an execution when it is written, in a moment."""
        self._executions[execution_id] = record
        self._wake()

    def finished(self, execution_id: str, moment: float, size: int, record: Callable[[], Record]) -> None:
        """It is over: keep what is known of it, and its output as long as that is to be kept.

        Args:
            execution_id: which.
            moment: when, in seconds since the epoch.
            size: bytes of it on disk.
            record: gives what is known.
        """
        if size:
            self.spool.finished(execution_id, moment, size)
        self._ended.add(execution_id)
        self.note(execution_id, record)

    async def find(
        self, execution_id: str, principal: str | None = None, *, prefix: bool = False
    ) -> list[PastExecution]:
        """Finished executions of an id, or of the ids that begin so: two at most.

        Args:
            execution_id: an id, or its beginning.
            principal: whose; None is anybody's.
            prefix: whether the beginning is enough.

        Raises:
            HistoryUnavailableError: it cannot be told now.
        """
        found = await self._ask(lambda: self._history.find(execution_id, principal, prefix=prefix))
        return [self._past(each) for each in found if each.finished_at is not None]

    async def find_once(self, principal: str, key: str) -> PastExecution | None:
        """The finished execution that a principal's key stands for.

        Raises:
            HistoryUnavailableError: it cannot be told now.
        """
        found = await self._ask(lambda: self._history.find_once(principal, key))
        return next((self._past(each) for each in found if each.finished_at is not None), None)

    async def newest(self, wanted: Wanted) -> list[PastExecution]:
        """Finished executions, the newest first.

        Raises:
            HistoryUnavailableError: they cannot be told now.
        """
        return [self._past(each) for each in await self._ask(lambda: self._history.newest(wanted))]

    async def told(self, question: Callable[[sqlite3.Connection], list[T]]) -> list[T]:
        """What the history answers to a question. Raises HistoryUnavailableError where it cannot be asked now."""
        return await self._ask(lambda: self._history.ask(question))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Go through what an earlier daemon has left, then write whenever there is something, until cancelled."""
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._proceed)
                await self._in_thread(self._open)
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
                    await self._in_thread(self._close)

    # Writing

    def _seconds_until_due(self) -> float:
        """Until something is so old that it goes; infinity if nothing ever will be."""
        kept = self.spool.retention
        ages = (self.spool.next_due, kept.output_seconds), (self._oldest + kept.history_seconds, kept.history_seconds)
        now = time.time()
        return min(max(0.0, moment - now) + min(age * LATENESS, MOST_LATE) for moment, age in ages)

    def _is_behind(self) -> None:
        self._postponed.set()

    async def _proceed(self) -> None:
        """Give logs on disk, step by step, what they could not take for a while."""
        while True:
            await self._postponed.wait()
            while self.spool.proceed():
                await trio.lowlevel.checkpoint()
            self._postponed = trio.Event()

    def _wake(self) -> None:
        self._wanted.set()

    async def _write(self) -> None:
        """Write what has come together; what cannot be written waits for the next time."""
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
            await self._in_thread(lambda: self._write_now(list(sessions.values()), records, removed, ended))
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
        """Know nothing any more of what is too old."""
        moment = time.time() - self.spool.retention.history_seconds
        if self._oldest < moment:
            self._oldest = self._history.forget_before(moment)

    async def _record_of(self, execution_id: str) -> Record | None:
        return next(iter(await self._ask(lambda: self._history.find(execution_id))), None)

    async def _ask(self, question: Callable[[], list[T]]) -> list[T]:
        await self.opened.wait()
        if self._begun is not None or self._damage is not None or self._is_empty:  # it does not know what it should
            raise HistoryUnavailableError
        try:
            return await self._in_thread(question, self._asking)
        except (sqlite3.Error, OSError) as error:
            self._has_failed(error)
            self._wake()
            raise HistoryUnavailableError from error

    async def _in_thread(self, deed: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
        """Do what blocks. Raises what it raises, and OSError where no thread is to be had."""
        try:
            return await trio.to_thread.run_sync(deed, limiter=limiter or self._thread)
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, str(error)) from error

    def _has_failed(self, error: Exception) -> None:
        text = str(error) if isinstance(error, HistoryError | OSError) else f"{self._history.path}: {error}"
        if not self._problem:
            log.error("the history cannot be used: %s", text)
        self._problem = text
        if type(error) is sqlite3.DatabaseError:  # the kinds of it are not the file's fault
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

    # What an earlier daemon has left. In the thread.

    def _open(self) -> None:
        """Open the history, complete it from the logs, and take its account of what is kept."""
        waiting = self.shelf.left()
        begun: set[str] = set()
        try:
            self._reopen()
            begun = self._left_behind.begun_of(waiting)
        except (sqlite3.Error, HistoryError, OSError) as error:
            self._has_failed(error)
        for name in begun:
            self.shelf.take(name)
        self._left_waiting = {name for name in waiting.keys() - begun if self.is_left(name, waiting[name])}
        try:
            if not self._problem:
                self._recover()
        except (sqlite3.Error, HistoryError, OSError) as error:
            self._has_failed(error)

    def _reopen(self) -> None:
        """Open it, once more where it has failed; what is damaged is put aside first."""
        self._history.close()
        damage, self._damage = self._damage, None
        self._is_empty = self._is_empty or damage is not None
        told = self._history.put_aside(damage) if damage is not None else self._history.open()
        self._is_empty = self._is_empty or told is not None
        self._warn(told)

    def _recover(self) -> None:
        """Complete the history from the logs: at the start, and when it had to be put aside."""
        if self._begun is not None:
            self._history.write(
                (), list(self._left_behind.lost(self._begun | self._left_waiting))
            )  # what we have begun meanwhile is none of it
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
        """Have receipts written for what has none, as far as the history knows."""
        if self.spool.retention.receipts:
            earlier = [each for each in self._history.unattested(MOST_WAITING) if each.id not in begun_here]
            self._history.write((), self.notary.recover(earlier, everywhere=self._history.is_new))

    def _has_recovered(self, outputs: Sequence[tuple[str, float, int]]) -> None:
        """In the event loop, where output is counted: what is kept of it is known now, and from when on all is ours."""
        self.spool.inherit(outputs)
        self._begun = None
