"""All output on disk: one directory for each execution, and what they may take together.

Owns the directory that they are in, the account of what is used, and the order in which output goes: that of the
execution which finished first goes first. Must not know what is known of executions besides: that is the history's.
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
"""Bytes of all output together where nobody says: this, or `SHARE` of the file system if that is less."""

SHARE = 0.1
"""Share of its file system that journald takes for its own logs, too (SystemMaxUse= in journald.conf(5))."""

READ_AT_A_TIME = 8
"""Logs of the past that have their files open, three each, however many are watched: a part of `budget.RESERVED`."""

LEAST_SHARE = 1024 * 1024
"""Bytes that an execution may keep however many of them run."""


@attrs.frozen
class Retention:
    """What is kept.

    Attributes:
        execution_bytes: output and journal of one execution; 0 keeps nothing on disk.
        total_bytes: of all together; None is `LARGEST_TOTAL` or `SHARE`.
        output_seconds: how long output is kept after the end of its execution.
        history_seconds: how long it is known that there was one.
        receipts: whether one is written when an execution has ended.
    """

    execution_bytes: int
    total_bytes: int | None
    output_seconds: float
    history_seconds: float
    receipts: bool = True


class Spool:
    """All output on disk.

    Args:
        root: the directory of the directories.
        retention: what is kept.
        on_excess: called when more is used than may be, and some of it can go.
        on_postponed: called when there is something for `proceed`.

    Attributes:
        total_bytes: what all may take together.
        used_bytes: what is kept.
        gone_bytes: output, and the journals about it, that went because of its age or of the total.
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
        self._finished: OrderedDict[str, tuple[float, int]] = OrderedDict()  # when, and how much; the oldest first
        self._read: OrderedDict[LogFiles, None] = OrderedDict()
        self._postponed: deque[Callable[[], None]] = deque()
        self._failing: dict[StoredLog, str] = {}
        self._unproven = ""  # why the last one failed that has since been closed, until another one works
        self.retain(retention)

    def status(self) -> dict[str, int]:
        """Bytes of output and journals that are on disk, that may be, and that went by their age or the total."""
        return {
            "bytes_on_disk": self.used_bytes,
            "max_bytes_on_disk": self.total_bytes,
            "bytes_gone": self.gone_bytes,
        }

    def retain(self, retention: Retention) -> None:
        """Keep so much from now on."""
        self.retention = retention
        self.total_bytes = retention.total_bytes if retention.total_bytes is not None else _share_of(self.root.parent)

    @property
    def problem(self) -> str:
        """Why output is not kept on disk; empty while it is."""
        return next(iter(self._failing.values()), self._unproven)

    def begin(self, execution_id: str, description: dict[str, Any]) -> StoredLog | None:
        """A log for a new execution; its files are made when they are needed. None if nothing is kept."""
        if not self.retention.execution_bytes:
            return None
        log = self._logs[execution_id] = StoredLog(self.root / execution_id, description, self)
        self._live.add(log)
        self._fresh.append(log)
        return log

    def prepare(self) -> None:
        """Make the files of those that live on: when their first output comes, nobody is to wait for that."""
        self._fresh = [log for log in self._fresh if not log.prepare()]

    def reopened(self, execution_id: str) -> StoredLog:
        """The log of an execution that has finished.

        Raises:
            JournalError: it is no log, or a later version's.
            OSError: it cannot be read.
        """
        log = self._logs.get(execution_id)
        if log is None:
            log = self._logs[execution_id] = StoredLog.reopened(self.root / execution_id, self)
        return log

    def finished(self, execution_id: str, moment: float, size: int) -> None:
        """From now on, its output may go.

        Args:
            execution_id: whose.
            moment: when it finished, in seconds since the epoch.
            size: bytes that are kept of it.
        """
        self._finished[execution_id] = (moment, size)

    def inherit(self, outputs: Iterable[tuple[str, float, int]]) -> None:
        """Count what an earlier daemon has kept, too: id, end and size of each, the oldest first."""
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
        """Whose output goes now, because of its age or of the total. It no longer counts, and `remove` is to follow."""
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
        """Remove the files. It blocks: large files take their time."""
        for execution_id in execution_ids:
            shutil.rmtree(self.root / execution_id, ignore_errors=True)

    def ids(self) -> set[str]:
        """Whose files there are: nobody's where the directory is none, which is told as a problem. It blocks.

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
        return {name for name in names if name.isascii()}  # what is none is nobody's id

    def live_ids(self) -> set[str]:
        """Whose logs are still written to."""
        return {each.directory.name for each in self._live}

    # What logs share

    @property
    def most_bytes(self) -> int:
        """What one log may keep now: less than it usually may where the live ones alone take more than all may."""
        most = self.retention.execution_bytes
        if self._finished or self.used_bytes <= self.total_bytes:
            return most
        return min(most, max(LEAST_SHARE, self.total_bytes // len(self._live or "1")))

    def takes(self, size: int) -> None:
        """So many more bytes are kept; fewer, if it is negative."""
        self.used_bytes += size
        if size > 0 and self._finished and self.used_bytes > self.total_bytes:
            self._on_excess()

    def postpone(self, step: Callable[[], None]) -> None:
        """Have a step of what a log has to be given done by `proceed`."""
        self._postponed.append(step)
        self._on_postponed()

    @property
    def is_behind(self) -> bool:
        """Whether there is something for `proceed`."""
        return bool(self._postponed)

    def proceed(self) -> bool:
        """Do one step of what was postponed: a millisecond's work. Returns whether there is another."""
        if self._postponed:
            self._postponed.popleft()()
        return self.is_behind

    def fails(self, log: StoredLog, error: OSError) -> None:
        """It could not be written to."""
        self._failing[log] = f"cannot keep output in {log.directory}: {error.strerror}"

    def works(self, log: StoredLog) -> None:
        """It could be written to, after it could not, or for the first time."""
        self._failing.pop(log, None)
        self._unproven = ""

    def reads(self, files: LogFiles) -> None:
        """A log of the past has its files open, or is about to: those that have had theirs for longest close them."""
        self._read[files] = None
        self._read.move_to_end(files)
        while len(self._read) > READ_AT_A_TIME:
            self._read.popitem(last=False)[0].close()

    def is_over(self, log: StoredLog) -> None:
        """Nothing more is written to it."""
        self._live.discard(log)
        self._unproven = self._failing.pop(log, self._unproven)


def _share_of(directory: Path) -> int:
    try:
        system = os.statvfs(directory)
    except OSError:
        return LARGEST_TOTAL
    return min(LARGEST_TOTAL, int(system.f_blocks * system.f_frsize * SHARE))
