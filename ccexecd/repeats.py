"""Requests that are sent again: the same execution for the same key, and none that runs twice.

Owns which execution a key of a principal stands for, as long as that execution is known: in memory, or in the history,
which outlives the daemon. Must not start any: whoever finds none does that, before somebody else may ask.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from ccexecd.admission import AdmissionError, Refusal
from ccexecd.core.spec import Once
from ccexecd.process.execution import Execution
from ccexecd.storage.archive import Archive
from ccexecd.storage.past import PastExecution


class Repeats:
    """Executions by the keys of their requests.

    Args:
        archive: what is known of those that have left the memory; None where nothing is.
    """

    def __init__(self, archive: Archive | None) -> None:
        self._archive = archive
        self._executions: dict[tuple[str, str], Execution] = {}
        self._deciding: dict[tuple[str, str], _Decision] = {}

    def add(self, execution: Execution) -> None:
        """An execution has been admitted; its key, if it has one, stands for it from now on."""
        if execution.spec.once is not None:
            self._executions[execution.principal, execution.spec.once.key] = execution

    def forget(self, execution: Execution) -> None:
        """It leaves the memory."""
        if execution.spec.once is not None:
            self._executions.pop((execution.principal, execution.spec.once.key), None)

    @asynccontextmanager
    async def deciding(self, principal: str, key: str) -> AsyncIterator[None]:
        """Find out what a key stands for, and have it stand for something, with nobody in between."""
        place = principal, key
        decision = self._deciding.setdefault(place, _Decision())
        decision.asking += 1
        try:
            async with decision.lock:
                yield
        finally:
            decision.asking -= 1
            if not decision.asking:
                del self._deciding[place]

    async def find(self, principal: str, once: Once) -> Execution | PastExecution | None:
        """What a key stands for; None if it is a new one.

        Args:
            principal: whose key it is.
            once: the key, and what is asked for under it.

        Raises:
            AdmissionError: it stands for something else than what is asked for now.
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


class _Decision:
    """What a key stands for is being found out.

    Attributes:
        lock: held by who does that.
        asking: how many hold it or wait for it.
    """

    __slots__ = ("asking", "lock")

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.asking = 0
