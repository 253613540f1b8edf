"""Ends what a lost keeper leaves: its processes, which become the daemon's children, since that is a subreaper.

Owns the only place where the daemon itself reaps processes. Must not run while there is a keeper.
"""

import logging
import os
import signal
from collections.abc import Iterator

import trio

from ccexecd.core.execution import Exit, ResourceUse
from ccexecd.process import containment
from ccexecd.process.control_groups import Base
from ccexecd.process.leader import Leader

log = logging.getLogger(__name__)

_PATIENCE = 5.0
"""Seconds for killing and reaping everything; only a process in uninterruptible sleep takes that long."""

_TICK = 0.005
"""Seconds between looks: a killed process needs a moment to die."""


async def end_inherited(epoch: int, leaders: dict[int, Leader], groups: Base | None) -> None:
    """Kill every tree of a keeper that has been reaped, and whatever else ran below that keeper.

    Args:
        epoch: the number in the tags of the lost keeper.
        leaders: its leaders by number. A leader is removed, and its `gone` set, once nothing of its tree is left.
        groups: the base of its leaders' control groups; None if there are none.
    """
    forest = containment.Forest(epoch)
    forest.leaders.update({leader.pid: number for number, leader in leaders.items() if leader.pid})
    with trio.move_on_after(_PATIENCE):
        while leaders or containment.children_of(os.getpid()):  # including dead ones, which have to be reaped
            if groups is not None:
                groups.kill_leaves()
            _end(forest, leaders)
            await trio.sleep(_TICK)
    for leader in leaders.values():
        log.error("process %d and what it started could not be ended", leader.pid)
        leader.is_lost()
    leaders.clear()


def _end(forest: containment.Forest, leaders: dict[int, Leader]) -> None:
    """Kill what lives, reap what is dead, and remove the leaders whose trees are empty."""
    for number in leaders:
        for process in forest.members(number):
            containment.send(process, signal.SIGKILL)
    for process in forest.strays():  # nobody but the keeper had children
        containment.send(process, signal.SIGKILL)
    for pid, how in _reap_all():
        forest.reaped(pid)
        leader = leaders.get(forest.leaders.pop(pid, 0))
        if leader is not None:
            leader.exit = how
            leader.exited.set()
    inherited = containment.children_of(os.getpid())
    for number, leader in list(leaders.items()):
        is_reaped = leader.exit is not None or leader.pid not in inherited  # by us, or by the keeper
        if is_reaped and not forest.members(number):
            leaders.pop(number).is_lost()


def _reap_all() -> Iterator[tuple[int, Exit]]:
    """Reap every dead child of the daemon; with the keeper gone, all of them were inherited from it."""
    while True:
        try:
            pid, status, used = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        use = ResourceUse(used.ru_utime, used.ru_stime, used.ru_maxrss * 1024)
        yield pid, Exit(os.waitstatus_to_exitcode(status), use, supervision_lost=True)
