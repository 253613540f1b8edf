"""Processes that finished executions were allowed to leave running (`leftovers: detach`).

Owns the register of these trees from the end of their execution on, and ends them when the daemon stops. If the daemon
is killed, the keeper ends them like every other tree. Must not decide which executions leave something.
"""

import logging

import attrs
import trio

from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.leader import Leader
from ccexecd.process.supervisor import escalate

log = logging.getLogger(__name__)


@attrs.frozen
class _Tree:
    leader: Leader
    grace: float
    hurry: trio.CancelScope = attrs.field(factory=trio.CancelScope)


class Leftovers:
    """The trees that were left running and still live.

    Args:
        keeper: signals their processes.
    """

    def __init__(self, keeper: KeeperClient) -> None:
        self._keeper = keeper
        self._trees: list[_Tree] = []

    def add(self, leader: Leader, grace: float) -> None:
        """Register a tree until its last process has ended.

        Args:
            leader: the tree's leader, which has ended itself.
            grace: seconds from TERM to KILL if `end` is called without one.
        """
        self._trees = [*self._living(), _Tree(leader, grace)]

    def longest_grace(self, grace: float | None) -> float:
        """Return the seconds that `end` would wait at most, from TERM to KILL, if called with this argument."""
        return max((tree.grace if grace is None else grace for tree in self._living()), default=0.0)

    async def end(self, grace: float | None) -> None:
        """End all trees at once by TERM, grace and KILL, and wait for it; bounded by the longest grace.

        Args:
            grace: seconds from TERM to KILL; None takes each tree's own.
        """
        living = self._living()
        if living:
            log.info("ending what was left running", extra={"trees": len(living)})
        async with trio.open_nursery() as nursery:
            for tree in living:
                nursery.start_soon(self._end, tree, tree.grace if grace is None else grace)

    def hurry(self) -> None:
        """Send KILL now to the trees that `end` waits for."""
        for tree in self._trees:
            tree.hurry.cancel(reason="told to hurry")

    async def _end(self, tree: _Tree, grace: float) -> None:
        await escalate(self._keeper, tree.leader, grace, tree.hurry)
        if not tree.leader.gone.is_set():
            log.error("processes %s, left running, could not be ended", await self._keeper.members(tree.leader))

    def _living(self) -> list[_Tree]:
        return [tree for tree in self._trees if not tree.leader.gone.is_set()]
