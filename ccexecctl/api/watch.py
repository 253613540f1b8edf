"""One execution, as its notifications tell of it: each once, in order, however many connections it takes.

Owns the position in the log of an execution, and what has been read but not been taken. Must not send anything.
"""

from collections import deque
from typing import Any, NamedTuple, Self

import anyio

COMPLETED = "process.completed"
"""The last notification of every execution."""


class Notification(NamedTuple):
    """What the daemon tells of an execution.

    Attributes:
        method: `process.output`, for instance.
        params: as docs/protocol.md has them.
    """

    method: str
    params: dict[str, Any]


class Watch:
    """An iterator over the notifications of one execution; it ends behind `process.completed`.

    What has arrived waits here without a bound: whoever follows an agent collects what it says anyway.

    Args:
        execution_id: whose.

    Attributes:
        execution_id: whose.
        next_seq: the first position of its log that has not arrived.
        is_complete: its last notification has arrived.
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
        """Tell whoever iterates that nothing more can be known; it is raised once."""
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
