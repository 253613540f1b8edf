"""What finished executions left running because they were asked to (`leftovers: detach`).

Owns the knowledge of such trees from the end of their execution on, and their own end when the daemon stops. The keeper
knows them as it knows every tree, so a daemon that is killed leaves nothing of them either. Must not decide which
executions leave something.
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
    """Every tree that was left running and still lives.

    Args:
        keeper: signals them.
    """

    def __init__(self, keeper: KeeperClient) -> None:
        self._keeper = keeper
        self._trees: list[_Tree] = []

    def add(self, leader: Leader, grace: float) -> None:
        """Know a tree until the last of it has ended.

        Args:
            leader: it has ended; what it started lives.
            grace: seconds from TERM to KILL, should the daemon end it.
        """
        self._trees = [*self._living(), _Tree(leader, grace)]

    def longest_grace(self, grace: float | None) -> float:
        """Seconds that `end` may wait before it kills; the argument is the same."""
        return max((tree.grace if grace is None else grace for tree in self._living()), default=0.0)

    async def end(self, grace: float | None) -> None:
        """End all of them at once, by TERM, grace and KILL, and wait for it; bounded by the longest grace.

        Args:
            grace: seconds from TERM to KILL; None is each one's own.
        """
        living = self._living()
        if living:
            log.info("ending what was left running", extra={"trees": len(living)})
        async with trio.open_nursery() as nursery:
            for tree in living:
                nursery.start_soon(self._end, tree, tree.grace if grace is None else grace)

    def hurry(self) -> None:
        """KILL now what `end` waits for."""
        for tree in self._trees:
            tree.hurry.cancel(reason="told to hurry")

    async def _end(self, tree: _Tree, grace: float) -> None:
        await escalate(self._keeper, tree.leader, grace, tree.hurry)
        if not tree.leader.gone.is_set():
            log.error("processes %s, left running, could not be ended", await self._keeper.members(tree.leader))

    def _living(self) -> list[_Tree]:
        return [tree for tree in self._trees if not tree.leader.gone.is_set()]
