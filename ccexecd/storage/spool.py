"""All output on disk: one directory for each execution, and the bytes that they may take together.

Owns the parent directory, the count of bytes used, and the order in which output is removed: that of the execution
which finished first goes first. Must not know anything else of executions: that is the history's.
"""

import os
import shutil
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import attrs

from ccexecd.storage.log_files import LogFiles
from ccexecd.storage.stored_log import StoredLog

LARGEST_TOTAL = 10 * 1024**3
"""Bytes of all output together where nothing is configured, unless `SHARE` of the file system is less."""

SHARE = 0.1
"""Share of its file system that journald takes for its own logs, too (SystemMaxUse= in journald.conf(5))."""

READ_AT_A_TIME = 8
"""Finished logs whose files may be open at a time, three each, however many are watched. `budget.RESERVED` counts their
descriptors."""

LEAST_SHARE = 1024 * 1024
"""Bytes that each live execution may keep, however many of them there are."""


@attrs.frozen
class Retention:
    """How much is kept, and for how long.

    Attributes:
        execution_bytes: bytes of output and journal of one execution; 0 keeps nothing on disk.
        total_bytes: bytes of all of them together; None for the less of `LARGEST_TOTAL` and `SHARE`.
        output_seconds: how long output is kept after its execution has finished.
        history_seconds: how long the execution's record is kept.
        receipts: whether a receipt is written for each execution that has ended.
    """

    execution_bytes: int
    total_bytes: int | None
    output_seconds: float
    history_seconds: float
    receipts: bool = True


class Spool:
    """All output on disk.

    Args:
        root: the directory in which each execution's output has a directory.
        retention: how much is kept, and for how long.
        on_excess: called when more is used than allowed, and output of finished executions could be removed.
        on_postponed: called when there is something for `proceed` to do.

    Attributes:
        total_bytes: bytes that all output may take together.
        used_bytes: bytes that it takes now.
        gone_bytes: bytes of output and journals removed so far because of their age or the total.
    """

    def __init__(
        self,
        root: Path,
        retention: Retention,
        on_excess: Callable[[], object],
        on_postponed: Callable[[], object] = lambda: None,
    ) -> None:
        self.root = root
        self.total_bytes = self.used_bytes = self.gone_bytes = 0
        self._on_excess = on_excess
        self._on_postponed = on_postponed
        self._logs: WeakValueDictionary[str, StoredLog] = WeakValueDictionary()
        self._live: set[StoredLog] = set()
        self._fresh: list[StoredLog] = []
        self._finished: OrderedDict[str, tuple[float, int]] = OrderedDict()  # id -> end and bytes; the oldest first
        self._read: OrderedDict[LogFiles, None] = OrderedDict()
        self._postponed: deque[Callable[[], None]] = deque()
        self._failing: dict[StoredLog, str] = {}
        self._unproven = ""  # problem of a log that failed and was closed; stands until another log can be written to
        self.retain(retention)

    def status(self) -> dict[str, int]:
        """Bytes on disk, the most allowed there, and those removed because of their age or the total."""
        return {
            "bytes_on_disk": self.used_bytes,
            "max_bytes_on_disk": self.total_bytes,
            "bytes_gone": self.gone_bytes,
        }

    def retain(self, retention: Retention) -> None:
        """Apply a new retention from now on."""
        self.retention = retention
        self.total_bytes = retention.total_bytes if retention.total_bytes is not None else _share_of(self.root.parent)

    @property
    def problem(self) -> str:
        """Why output is not kept on disk; empty while it is."""
        return next(iter(self._failing.values()), self._unproven)

    def begin(self, execution_id: str, description: dict[str, Any]) -> StoredLog | None:
        """The log of a new execution; its files are made when they are needed. None if no output is kept on disk."""
        if not self.retention.execution_bytes:
            return None
        log = self._logs[execution_id] = StoredLog(self.root / execution_id, description, self)
        self._live.add(log)
        self._fresh.append(log)
        return log

    def prepare(self) -> None:
        """Make the files of logs begun lately, ahead of their first output, so that it need not wait for that."""
        self._fresh = [log for log in self._fresh if not log.prepare()]

    def reopened(self, execution_id: str) -> StoredLog:
        """The log of an execution that has finished.

        Raises:
            JournalError: it is no log, or one of a later version.
            OSError: it cannot be read.
        """
        log = self._logs.get(execution_id)
        if log is None:
            log = self._logs[execution_id] = StoredLog.reopened(self.root / execution_id, self)
        return log

    def finished(self, execution_id: str, moment: float, size: int) -> None:
        """Note that an execution has finished: from now on, its output may be removed.

        Args:
            execution_id: its id.
            moment: when it finished, in seconds since the epoch.
            size: bytes that its output takes.
        """
        self._finished[execution_id] = (moment, size)

    def inherit(self, outputs: Iterable[tuple[str, float, int]]) -> None:
        """Count the output that earlier daemons left: id, end (seconds since the epoch) and bytes, the oldest first."""
        earlier = OrderedDict((execution_id, (moment, size)) for execution_id, moment, size in outputs)
        self.used_bytes += sum(size for _, size in earlier.values())
        self._finished = earlier | self._finished

    @property
    def next_due(self) -> float:
        """When the next output becomes too old, in seconds since the epoch; infinity if none does."""
        return next((moment for moment, _ in self._finished.values()), float("inf")) + self._longest

    @property
    def _longest(self) -> float:
        return min(self.retention.output_seconds, self.retention.history_seconds)

    def due(self, now: float) -> list[str]:
        """Choose the output to remove now, because of its age or the total.

        Args:
            now: seconds since the epoch.

        Returns:
            Ids of executions. Their output is not counted any more; pass them to `remove`.
        """
        gone = []
        while self._finished:
            execution_id, (moment, size) = next(iter(self._finished.items()))
            if self.used_bytes <= self.total_bytes and now - moment <= self._longest:
                break
            del self._finished[execution_id]
            self.used_bytes -= size
            self.gone_bytes += size
            gone.append(execution_id)
            log = self._logs.pop(execution_id, None)
            if log is not None:
                log.forget()
        return gone

    def remove(self, execution_ids: Iterable[str]) -> None:
        """Remove the files of executions. It blocks: large files take their time."""
        for execution_id in execution_ids:
            shutil.rmtree(self.root / execution_id, ignore_errors=True)

    def ids(self) -> set[str]:
        """Ids of executions that have a directory here. It blocks.

        If a file stands in the place of the directory, there are none, and `problem` says so.

        Raises:
            OSError: the directory cannot be read.
        """
        try:
            names = os.listdir(self.root)  # noqa: PTH208  # names are all that is wanted
        except FileNotFoundError:
            return set()
        except NotADirectoryError as error:
            self._unproven = f"cannot keep output in {self.root}: {error.strerror}"
            return set()
        return {name for name in names if name.isascii()}  # ids are ASCII

    def live_ids(self) -> set[str]:
        """Ids of executions whose logs are still written to."""
        return {each.directory.name for each in self._live}

    # What logs share

    @property
    def most_bytes(self) -> int:
        """Bytes that one log may keep now: less than configured while live logs alone exceed the total."""
        most = self.retention.execution_bytes
        if self._finished or self.used_bytes <= self.total_bytes:
            return most
        return min(most, max(LEAST_SHARE, self.total_bytes // len(self._live or "1")))

    def takes(self, size: int) -> None:
        """Count `size` more bytes on disk; fewer, if it is negative."""
        self.used_bytes += size
        if size > 0 and self._finished and self.used_bytes > self.total_bytes:
            self._on_excess()

    def postpone(self, step: Callable[[], None]) -> None:
        """Have `proceed` call this function later: one step of writing what a log could not take earlier."""
        self._postponed.append(step)
        self._on_postponed()

    @property
    def is_behind(self) -> bool:
        """Whether there is something for `proceed` to do."""
        return bool(self._postponed)

    def proceed(self) -> bool:
        """Do one postponed step: about a millisecond's work. Returns whether there is another one."""
        if self._postponed:
            self._postponed.popleft()()
        return self.is_behind

    def fails(self, log: StoredLog, error: OSError) -> None:
        """Note that a log could not be written to."""
        self._failing[log] = f"cannot keep output in {log.directory}: {error.strerror}"

    def works(self, log: StoredLog) -> None:
        """Note that a log could be written to: for the first time, or again after a failure."""
        self._failing.pop(log, None)
        self._unproven = ""

    def reads(self, files: LogFiles) -> None:
        """Note that a finished log is read; those that were read the longest ago close their files."""
        self._read[files] = None
        self._read.move_to_end(files)
        while len(self._read) > READ_AT_A_TIME:
            self._read.popitem(last=False)[0].close()

    def is_over(self, log: StoredLog) -> None:
        """Note that nothing more is written to a log."""
        self._live.discard(log)
        self._unproven = self._failing.pop(log, self._unproven)


def _share_of(directory: Path) -> int:
    try:
        system = os.statvfs(directory)
    except OSError:
        return LARGEST_TOTAL
    return min(LARGEST_TOTAL, int(system.f_blocks * system.f_frsize * SHARE))
