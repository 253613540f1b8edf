"""One execution's life, from its pipes to its verified end.

Owns the order in which an execution ends; the waits are all bounded. In words: the leader's death decides, not the
end of its output. If it is we who end it: TERM to the whole tree, its grace, KILL, and then the wait until the kernel
says that nothing is left. Its output goes on being read throughout (closing the pipe first would kill a program by
EPIPE inside its own TERM clean-up). When the leader is gone, what it left in the pipes is read; what it left running
gets a moment to end by itself, and is ended. Only then is the execution finished.
"""

import logging
import os
from collections.abc import Callable

import trio

from ccexecd.core.execution import Exit, Outcome, Reason, judge
from ccexecd.process.execution import Execution
from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.leader import Launch, Leader, SpawnError
from ccexecd.process.pump import Pump, open_pipe

log = logging.getLogger(__name__)

LINGER = 0.5
"""Seconds that stragglers and open pipes get after the leader's end before they are ended: the last process of a shell
pipeline needs some; a service left behind with `&` would need for ever."""

STRAGGLER_GRACE = 2.0
"""Seconds from TERM to KILL for stragglers, where the execution's own grace is not shorter: nobody waits for them."""

STALL_WARNING = 0.8
"""Share of the stall time-out after which the silence is told of: time for somebody to look before it acts."""

VERIFY_PATIENCE = 3.0
"""Seconds after KILL until what is still there (uninterruptible sleep, another user's set-uid program) is reported."""


async def supervise(
    execution: Execution, keeper: KeeperClient, pump: Pump, env: Callable[[Execution], dict[str, str]]
) -> None:
    """Run one execution to its end. Returns when it is finished; cancelling it ends the execution first.

    Args:
        execution: admitted, nothing of it started.
        keeper: starts and signals it.
        pump: reads its output.
        env: makes its environment.
    """
    try:
        leader = await _start(execution, keeper, pump, env(execution))
    except SpawnError as error:
        execution.spawn_error = error
        execution.has_ended(Outcome(None, Reason.SPAWN_FAILED, error=str(error)))
        return
    try:
        with execution.scope:
            if execution.spec.stall_timeout is None:
                await leader.exited.wait()
            else:
                await _exited_or_stalled(execution, leader, execution.spec.stall_timeout)
        if execution.scope.cancelled_caught and execution.intent is None:
            execution.cancel(Reason.TIMEOUT)
    except trio.Cancelled:  # the session's nursery is cancelled: whoever did that has said why
        if execution.intent is None:
            execution.cancel(Reason.SHUTDOWN)
        raise
    finally:
        with trio.CancelScope(shield=True):  # every wait below has its own bound
            await _wind_down(execution, keeper, leader)


async def _exited_or_stalled(execution: Execution, leader: Leader, limit: float) -> None:
    """Wait for the leader's end; warn when it has been silent for long, and end it when for too long."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_heed_silence, execution, limit)
        await leader.exited.wait()
        nursery.cancel_scope.cancel(reason="the leader has exited")


async def _heed_silence(execution: Execution, limit: float) -> None:
    warned = False
    while True:
        await execution.going.wait()
        idle, warn_at = execution.idle_seconds, limit * STALL_WARNING
        if idle >= limit:
            execution.cancel(Reason.STALLED)
            return
        if idle >= warn_at and not warned:
            execution.is_stalling()
        warned = idle >= warn_at
        await trio.sleep((limit if warned else warn_at) - idle)


async def _start(execution: Execution, keeper: KeeperClient, pump: Pump, env: dict[str, str]) -> Leader:
    """Make the pipes, have the leader started, and begin to read."""
    spec = execution.spec
    ours: list[int] = []
    theirs: list[int] = []
    try:
        for _ in range(2):
            read_end, write_end = open_pipe()
            ours.append(read_end)
            theirs.append(write_end)
        if spec.stdin_open:
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            ours.append(write_end)
            theirs.append(read_end)
        launch = Launch(spec.argv, spec.cwd, env, spec.grace)
        leader = await keeper.spawn(launch, theirs[2] if spec.stdin_open else None, theirs[0], theirs[1])
    except BaseException as error:
        for fd in ours:
            os.close(fd)
        if isinstance(error, OSError):  # no descriptors left
            raise SpawnError(error.errno or 0, error.strerror or str(error), "pipe") from None
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    if spec.stdin_open:
        execution.open_stdin(ours[2])
    execution.pacing.sources = (
        pump.add(ours[0], lambda received: execution.has_output("stdout", received)),
        pump.add(ours[1], lambda received: execution.has_output("stderr", received)),
    )
    execution.has_started(leader)
    execution.spawned.set()
    return leader


async def _wind_down(execution: Execution, keeper: KeeperClient, leader: Leader) -> None:
    leftovers: list[int] = []
    if execution.intent is not None:
        await _escalate(keeper, leader, execution.grace, execution.hurry)
    elif not leader.gone.is_set():
        with trio.move_on_after(LINGER):
            await leader.gone.wait()
        leftovers = await keeper.members(leader)
        await _escalate(keeper, leader, min(execution.grace, STRAGGLER_GRACE), execution.hurry)
    still_open = [source for source in execution.pacing.sources if not source.ended.is_set()]
    if still_open:
        with trio.move_on_after(LINGER):
            for source in still_open:
                await source.ended.wait()
        for source in still_open:
            source.close()
    execution.drop_stdin()
    execution.has_no_more_output()
    unkillable = await keeper.members(leader)
    if unkillable:
        log.error("execution %s: processes %s could not be ended", execution.id, unkillable)
    exited = leader.exit or Exit(None)
    reason = judge(exited, execution.intent)
    execution.has_ended(Outcome(exited.code, reason, exited.use, tuple(leftovers), tuple(unkillable)))


async def _escalate(keeper: KeeperClient, leader: Leader, grace: float, hurry: trio.CancelScope) -> None:
    """TERM, grace, KILL, until nothing of the tree is left or it has been shown that something cannot be ended.

    With no grace at all, nobody is asked: a handler of TERM would race with the KILL.
    """
    if not leader.gone.is_set() and grace > 0:
        await keeper.terminate(leader)
        with hurry:
            hurry.deadline = min(hurry.deadline, trio.current_time() + grace)
            await leader.gone.wait()
    if leader.gone.is_set():
        return
    await keeper.kill(leader)
    with trio.move_on_after(VERIFY_PATIENCE):
        await leader.gone.wait()
