"""The notifications of one execution: each once and in order, over however many connections.

Owns the position in the execution's log, and the notifications that have arrived and not been taken. Must not send
anything.
"""

from collections import deque
from typing import Any, NamedTuple, Self

import anyio

COMPLETED = "process.completed"
"""The last notification of every execution."""


class Notification(NamedTuple):
    """A notification about an execution.

    Attributes:
        method: its method, such as `process.output`.
        params: its params (docs/protocol.md).
    """

    method: str
    params: dict[str, Any]


class Watch:
    """An asynchronous iterator over the notifications of one execution, which ends after `process.completed`.

    Notifications that have arrived wait here without a bound: the result of an agent's run holds all of them anyway.

    Args:
        execution_id: UUID of the execution.

    Attributes:
        execution_id: UUID of the execution.
        next_seq: number of the first entry of its log that has not arrived.
        is_complete: whether its last notification has arrived, or nothing more can be known.
    """

    def __init__(self, execution_id: str) -> None:
        self.execution_id = execution_id
        self.next_seq = 1
        self.is_complete = False
        self._arrivals: deque[Notification | Exception] = deque()
        self._grown = anyio.Event()

    def heard(self, method: str, params: dict[str, Any]) -> None:
        """Take a notification, unless it has been taken already: after a cut, the log may come again from the start."""
        if method == "process.gap":
            if params["to_seq"] < self.next_seq:
                return
            self.next_seq = params["to_seq"] + 1
        elif "seq" in params:
            if params["seq"] < self.next_seq:
                return
            self.next_seq = params["seq"] + 1
        self._append(Notification(method, params), is_last=method == COMPLETED)

    def failed(self, why: Exception) -> None:
        """End the iteration by raising this exception, after the notifications that have arrived."""
        if not self.is_complete:
            self._append(why, is_last=True)

    def _append(self, arrived: Notification | Exception, *, is_last: bool) -> None:
        self._arrivals.append(arrived)
        self.is_complete = is_last
        self._grown.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notification:
        while not self._arrivals:
            if self.is_complete:
                raise StopAsyncIteration
            self._grown = anyio.Event()
            await self._grown.wait()
        arrived = self._arrivals.popleft()
        if isinstance(arrived, Exception):
            raise arrived
        return arrived
