"""Idempotency keys: a request that is sent again means the same execution, and nothing runs twice.

Owns which execution a key of a principal stands for, as long as that execution is known: in memory, or in the history,
which outlives the daemon. Must not start an execution: the caller does, inside `locked`, when it finds none.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from ccexecd.admission import AdmissionError, Refusal
from ccexecd.core.spec import Once
from ccexecd.process.execution import Execution
from ccexecd.storage.archive import Archive
from ccexecd.storage.past import PastExecution


class IdempotencyKeys:
    """Executions by the idempotency keys of their requests.

    Args:
        archive: knows the executions that have left the memory; None for those in memory only.
    """

    def __init__(self, archive: Archive | None) -> None:
        self._archive = archive
        self._executions: dict[tuple[str, str], Execution] = {}
        self._locks: dict[tuple[str, str], _KeyLock] = {}

    def add(self, execution: Execution) -> None:
        """Let the key of an admitted execution, if it has one, stand for it from now on."""
        if execution.spec.once is not None:
            self._executions[execution.principal, execution.spec.once.key] = execution

    def forget(self, execution: Execution) -> None:
        """Forget the key of an execution that leaves the memory; the history knows it from now on."""
        if execution.spec.once is not None:
            self._executions.pop((execution.principal, execution.spec.once.key), None)

    @asynccontextmanager
    async def locked(self, principal: str, key: str) -> AsyncIterator[None]:
        """Hold the lock of a key, from looking it up to admitting an execution for it.

        Args:
            principal: name of the principal whose key it is.
            key: the key.
        """
        place = principal, key
        held = self._locks.setdefault(place, _KeyLock())
        held.users += 1
        try:
            async with held.lock:
                yield
        finally:
            held.users -= 1
            if not held.users:
                del self._locks[place]

    async def find(self, principal: str, once: Once) -> Execution | PastExecution | None:
        """Find the execution that a key stands for.

        Args:
            principal: name of the principal whose key it is.
            once: the key, and the fingerprint of the params that came with it.

        Returns:
            The execution; None if the key is new.

        Raises:
            AdmissionError: the key was used with other params.
            HistoryUnavailableError: the history cannot be read now.
        """
        known: Execution | PastExecution | None = self._executions.get((principal, once.key))
        if known is None and self._archive is not None:
            known = await self._archive.find_once(principal, once.key)
        if known is None:
            return None
        fingerprint = known.spec.once.fingerprint if isinstance(known, Execution) and known.spec.once else None
        if isinstance(known, PastExecution):
            fingerprint = known.fingerprint
        if fingerprint not in (None, once.fingerprint):  # None: a crash has left no more than the key
            text = (
                f"this idempotency_key was used for execution {known.id}, with other params; send the same ones, or "
                "choose another key"
            )
            raise AdmissionError(Refusal.CONFLICT, text, execution_id=known.id)
        return known


class _KeyLock:
    """The lock of one key.

    Attributes:
        lock: held from looking the key up to admitting an execution for it.
        users: how many tasks hold the lock or wait for it.
    """

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.users = 0
