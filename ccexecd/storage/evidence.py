"""Answers questions about receipts, while the notary goes on writing them.

Owns the waiting for a receipt that is still being written, and the thread in which large outputs are verified, so that
the history is not held up. Must not write anything but the key.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import trio

from ccexecd.storage.history import Record
from ccexecd.storage.notary import Notary
from ccexecd.storage.verification import verified
from ccexecd.threads import in_thread

T = TypeVar("T")

ATTESTED_WITHIN = 30.0
"""Seconds that a question waits for a receipt: an execution that has only just ended has none yet."""


class Evidence:
    """Receipts of executions, and what verifying them shows.

    Args:
        notary: writes the receipts.
        outputs: directory in which each execution's output has a directory.
        record_of: asks the history for an execution's record.
        is_settled: tells whether everything that is to be in the history has been written.
    """

    def __init__(
        self,
        notary: Notary,
        outputs: Path,
        record_of: Callable[[str], Awaitable[Record | None]],
        is_settled: Callable[[], bool],
    ) -> None:
        self._notary = notary
        self._outputs = outputs
        self._record_of = record_of
        self._is_settled = is_settled
        self._written = trio.Event()
        self._thread = trio.CapacityLimiter(1)

    def has_written(self) -> None:
        """Called after each write to the history: calls that wait for a receipt look again."""
        self._written.set()
        self._written = trio.Event()

    async def verify(self, execution_id: str, uuid: str | None) -> dict[str, Any] | None:
        """Verify an execution that has ended. Returns what `verified` does; None if the history does not know it.

        Args:
            execution_id: its id.
            uuid: the UUID that its reply must repeat; None for the one that its labels asked for, if they did.

        Raises:
            OSError: the receipt, the key or the output cannot be read.
        """
        record = await self._attested(execution_id)
        if record is None:
            return None
        return await self._look(lambda: verified(self._notary.receipts, self._outputs, record, uuid))

    async def receipt(self, execution_id: str) -> dict[str, Any] | None:
        """The receipt of an execution that has ended, as `Proof.document` hands it out; None if it has none.

        Raises:
            OSError: the receipt or the key cannot be read.
        """
        record = await self._attested(execution_id)
        number = record.receipt if record is not None else None
        if not number:
            return None
        proof = await self._look(lambda: self._notary.receipts.find(number))
        key = await self._look(self._notary.receipts.public_key)
        return proof.document(key.pem) if proof is not None and proof.signed else None

    async def status(self) -> dict[str, Any]:
        """The public key and its name, and the notary's status.

        Raises:
            OSError: the key can be neither read nor made.
        """
        key = await self._look(self._notary.receipts.public_key)
        return {"public_key": key.pem, "key": key.name, **self._notary.status()}

    async def _attested(self, execution_id: str) -> Record | None:
        """The record of an execution that has ended, as soon as it has a receipt, or none is to be expected."""
        record: Record | None = None
        with trio.move_on_after(ATTESTED_WITHIN):
            while True:
                written, is_settled = self._written, self._is_settled()
                record = await self._record_of(execution_id)
                if is_settled or (record is not None and record.receipt is not None):
                    break
                await written.wait()
        return record

    async def _look(self, look: Callable[[], T]) -> T:
        return await in_thread(look, self._thread, abandon_on_cancel=True)
