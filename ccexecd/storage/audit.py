"""The audit: what was decided and how it ended, one record after another.

A record is one `write`, made at once, which takes microseconds. While something is unsynced, a thread syncs it every
tenth of a second; the event loop never does.

Owns syncing, and counting records that could not be written: the next record that can be written tells how many. Must
not decide what is recorded, nor what is secret; `chain_files` owns the files.
"""

import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import trio

from ccexecd.storage.chain_files import MAX_RECORD, ChainFiles, sync
from ccexecd.threads import NoThreadError, in_thread

__all__ = ["MAX_RECORD", "Audit"]

log = logging.getLogger(__name__)

SYNC_INTERVAL = 0.1
"""Seconds for which records are collected before they are synced: the most that a power cut can lose."""


class Audit(ChainFiles):
    """The record of one daemon.

    Args:
        directory: directory of its files; made with mode 0700 when it is not there.
        max_bytes: size at which a file is full and the next one is begun.
        max_files: how many files are kept; the oldest goes first.

    Attributes:
        problem: why records cannot be written or synced; None while they can.
        head: the last record.
        lost: how many records could not be written since the last one that was.
    """

    what = "audit"

    def __init__(self, directory: Path, max_bytes: int, max_files: int) -> None:
        super().__init__(directory, max_bytes, max_files)
        self.problem: str | None = None
        self.lost = 0
        self._unsynced = trio.Event()
        self._fault_of_sync: str | None = None

    def record(self, kind: str, facts: Mapping[str, object]) -> bool:
        """Write one record.

        Args:
            kind: the record's kind, such as `decision` or `outcome`.
            facts: its fields, as JSON values. `n`, `t`, `kind`, `prev`, `hash` and `oldest` are reserved.

        Returns:
            Whether it was written; if not, `problem` says why.
        """
        try:
            self._make_ready()
            if self.lost:
                self._write("lost", {"records": self.lost})
                self.lost = 0
            self._write(kind, facts)
        except OSError as error:
            self.lost += 1
            self._tell(f"cannot write the audit in {self.directory}: {error.strerror or error}")
            return False
        self._tell(self._fault_of_sync)
        return True

    @property
    def problems(self) -> dict[str, str]:
        """What does not work -> why; empty while all is well."""
        return {"the audit is not kept": self.problem} if self.problem is not None else {}

    def status(self) -> dict[str, str | None]:
        """`{directory, head, problem}`: where the files are, the last record (`number:hash`), and what is wrong."""
        return {"directory": str(self.directory), "head": str(self.head), "problem": self.problem}

    async def run(self) -> None:
        """Sync what was written to disk, until cancelled."""
        limiter = trio.CapacityLimiter(1)
        while True:
            await self._unsynced.wait()
            await trio.sleep(SYNC_INTERVAL)
            self._unsynced = trio.Event()
            retired, self._retired = self._retired, []
            # The descriptor stays open meanwhile: others only add it to `_retired`, and `sync` closes what is in there.
            try:
                fault = await in_thread(partial(sync, self._fd, retired), limiter)
            except NoThreadError as error:  # try again next time
                self._retired = retired + self._retired
                self._unsynced.set()
                fault = error.strerror
            if fault is not None:
                self._tell(f"cannot make the audit in {self.directory} last: {fault}")
            self._fault_of_sync = self.problem if fault is not None else None

    def close(self, facts: Mapping[str, object]) -> None:
        """Write this daemon's last record, `ended`, and close the file. Nothing may be recorded afterwards.

        Args:
            facts: the fields of that record.
        """
        if self._fd >= 0 and self.record("ended", facts):
            log.info("audit ends", extra={"head": str(self.head)})
        sync(self._fd, self._retired)
        if self._fd >= 0:
            os.close(self._fd)
        self._retired, self._fd = [], -1

    def _written(self) -> None:
        if not self._unsynced.is_set():
            self._unsynced.set()

    def _tell(self, problem: str | None) -> None:
        """Log once that something is wrong, and once that it no longer is."""
        if problem is not None and self.problem is None:
            log.error("%s", problem)
        elif problem is None and self.problem is not None:
            log.info("the audit is written again")
        self.problem = problem
