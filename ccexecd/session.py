"""One client's claim: the nursery that its executions live in, and the clock by which it ends.

Owns neither the register of sessions nor the decision what a lost connection means: the engine does.
"""

import secrets
import time
import uuid
from collections.abc import Callable, Iterable

import attrs
import trio

from ccexecd.core.sessions import REASONS, Parting, ends
from ccexecd.process.execution import Execution

PORTION = 100
"""Executions that are ended in one step of the event loop: what waits is told of, noted and forgotten in 0.1 ms."""


@attrs.define(eq=False)
class Session:
    """A client's claim.

    Attributes:
        id: what clients call it.
        principal: whose it is.
        peer: where its connection comes from.
        resume_token: proves the claim after a cut.
        executions: all of it that are remembered, by id, oldest first.
        live: those of them that have not finished.
        admitted: it counts against the limit; a session beyond it may look, not execute.
        drop_connection: closes the connection that holds it; None while it has none.
        is_cut: its connection was cut, and it waits to be resumed.
        ended: how, once it has been decided.
        created_at: when it was made, in seconds since the epoch.
        has_run: something was executed in it.
    """

    principal: str
    peer: str = ""
    id: str = attrs.field(factory=lambda: str(uuid.uuid4()))
    resume_token: str = attrs.field(factory=lambda: secrets.token_urlsafe(32), repr=False)
    executions: dict[str, Execution] = attrs.field(factory=dict)
    live: dict[str, Execution] = attrs.field(factory=dict)
    admitted: bool = False
    drop_connection: Callable[[Parting], None] | None = None
    is_cut: bool = False
    ended: Parting | None = None
    created_at: float = attrs.field(factory=time.time)
    has_run: bool = False
    nursery: trio.Nursery | None = None
    _ending: trio.Event = attrs.field(factory=trio.Event)
    _clock: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def expires_in(self, seconds: float | None) -> None:
        """Set its clock: it ends after so many seconds unless told otherwise; None stops the clock."""
        self._clock.deadline = float("inf") if seconds is None else trio.current_time() + seconds

    def end(self, parting: Parting) -> None:
        """Decide that it ends. The first decision stands."""
        if self.ended is None:
            self.ended = parting
            self._ending.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the nursery until the session ends and everything in it is over."""
        async with trio.open_nursery() as self.nursery:
            task_status.started()
            with self._clock:
                await self._ending.wait()
            if self._clock.cancelled_caught:
                self.end(Parting.EXPIRED)
            await self._part()
        if self.drop_connection is not None:
            self.drop_connection(self.ended or Parting.EXPIRED)

    async def _part(self) -> None:
        """End what its end ends: in portions, for thousands may wait, and the newest first, so that none begins."""
        live = list(self.live.values())
        while live:
            part(live[-PORTION:], self.ended or Parting.EXPIRED)
            del live[-PORTION:]
            await trio.lowlevel.checkpoint()


def part(executions: Iterable[Execution], parting: Parting, grace: float | None = None) -> list[Execution]:
    """End those live executions that a parting ends, and return them."""
    ended = [each for each in executions if each.is_live and ends(each.spec.on_disconnect, parting)]
    for execution in reversed(ended):  # of those that wait, the last first: then none moves up only to be ended
        execution.cancel(REASONS[parting], grace)
    return ended
