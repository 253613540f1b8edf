"""The audit: what was decided and how it ended, one record after another.

A record is one `write` in the step in which it is made, which takes microseconds; what the kernel holds is synced every
tenth of a second in a thread, while there is something to sync, and never by the event loop.

Owns that it reaches the disk, and the account of what could not be written: it is counted, and told of in the first
record that can. Must not decide what is recorded, nor what is secret; the files are `chain_files`'.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import trio

from ccexecd.storage.chain_files import MAX_RECORD, ChainFiles, sync

__all__ = ["MAX_RECORD", "Audit"]

log = logging.getLogger(__name__)

SYNC_INTERVAL = 0.1
"""Seconds for which records are collected before they are synced: what a power cut may take."""


class Audit(ChainFiles):
    """The record of one daemon.

    Args:
        directory: where its files are; made with mode 0700 when it is not there.
        max_bytes: how large a file gets before the next one is begun.
        max_files: how many are kept; the oldest goes first.

    Attributes:
        problem: why nothing can be recorded, or can be made to last; None while all is well.
        head: the last record.
        lost: records that could not be written since the last one that could.
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
            kind: what it is about.
            facts: what JSON can carry, without `n`, `t`, `kind`, `prev`, `hash` and `oldest`.

        Returns:
            Whether it is written; if not, `problem` says why.
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
        """What does not work, and why; nothing while all is well."""
        return {"the audit is not kept": self.problem} if self.problem is not None else {}

    def status(self) -> dict[str, str | None]:
        """Where it is, its last record, and what is wrong with it."""
        return {"directory": str(self.directory), "head": str(self.head), "problem": self.problem}

    async def run(self) -> None:
        """See to it that what is written reaches the disk, until cancelled."""
        limiter = trio.CapacityLimiter(1)
        while True:
            await self._unsynced.wait()
            await trio.sleep(SYNC_INTERVAL)
            self._unsynced = trio.Event()
            retired, self._retired = self._retired, []
            # Nobody closes the descriptor meanwhile: it is only ever retired.
            try:
                fault = await trio.to_thread.run_sync(sync, self._fd, retired, limiter=limiter)
            except RuntimeError as error:  # no thread is to be had: the next time
                self._retired = retired + self._retired
                self._unsynced.set()
                fault = str(error)
            if fault is not None:
                self._tell(f"cannot make the audit in {self.directory} last: {fault}")
            self._fault_of_sync = self.problem if fault is not None else None

    def close(self, facts: Mapping[str, object]) -> None:
        """Write the last record of this life, `ended`, and close the file; nothing is recorded afterwards.

        Args:
            facts: what it tells.
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
        """Say once what is wrong, and once that it no longer is."""
        if problem is not None and self.problem is None:
            log.error("%s", problem)
        elif problem is None and self.problem is not None:
            log.info("the audit is written again")
        self.problem = problem
