"""What is asked about evidence, beside the writing of it.

Owns the waiting for a receipt that is only just being written, and the thread in which large outputs are looked at, so
that the history is not held up. Must not write anything but the key.
"""

import errno
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import trio

from ccexecd.storage.history import Record
from ccexecd.storage.notary import Notary
from ccexecd.storage.verification import verified

T = TypeVar("T")

ATTESTED_WITHIN = 30.0
"""Seconds that who asks for a receipt waits for it: an execution that has only just ended has none yet."""


class Evidence:
    """What can be asked.

    Args:
        notary: who writes receipts.
        outputs: where the output of executions is, a directory each.
        record_of: asks the history for an execution.
        is_settled: whether the history has everything that it is to have.
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
        """The history has taken something: who waits for a receipt looks again."""
        self._written.set()
        self._written = trio.Event()

    async def verify(self, execution_id: str, uuid: str | None) -> dict[str, Any] | None:
        """What the evidence of an execution that has ended shows; None if the history does not know it.

        Args:
            execution_id: its id.
            uuid: what its reply must repeat; None is what it was asked to, if anything.

        Raises:
            OSError: it cannot be looked at.
        """
        record = await self._attested(execution_id)
        if record is None:
            return None
        return await self._look(lambda: verified(self._notary.receipts, self._outputs, record, uuid))

    async def receipt(self, execution_id: str) -> dict[str, Any] | None:
        """The receipt of an execution that has ended, to be handed out; None if it has none.

        Raises:
            OSError: it cannot be read.
        """
        record = await self._attested(execution_id)
        number = record.receipt if record is not None else None
        if not number:
            return None
        proof = await self._look(lambda: self._notary.receipts.find(number))
        key = await self._look(self._notary.receipts.public_key)
        return proof.document(key.pem) if proof is not None and proof.signed else None

    async def status(self) -> dict[str, Any]:
        """The public key, and where receipts are.

        Raises:
            OSError: the key can be neither read nor made.
        """
        key = await self._look(self._notary.receipts.public_key)
        return {"public_key": key.pem, "key": key.name, **self._notary.status()}

    async def _attested(self, execution_id: str) -> Record | None:
        """What the history knows of an execution that has ended, once it has its receipt, or none is to be had soon."""
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
        """Do what blocks for long. Raises what it raises, and OSError where no thread is to be had."""
        try:
            return await trio.to_thread.run_sync(look, limiter=self._thread, abandon_on_cancel=True)
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, str(error)) from error
