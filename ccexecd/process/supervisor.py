"""One execution's life, from its pipes to its verified end.

Owns the order in which an execution ends; the waits are all bounded. In words: the leader's death decides, not the
end of its output. If it is we who end it: TERM to the whole tree, its grace, KILL, and then the wait until the kernel
says that nothing is left. Its output goes on being read throughout (closing the pipe first would kill a program by
EPIPE inside its own TERM clean-up). When the leader is gone, what it left in the pipes is read; what it left running
gets a moment to end by itself, and is ended, or left alone where that was asked for. Only then is the execution
finished.
"""

import contextlib
import functools
import logging
import os
import signal
from collections.abc import Callable

import attrs
import trio

from ccexecd.core.entries import Stream
from ccexecd.core.execution import Exit, IllegalTransitionError, Outcome, Reason, State, judge
from ccexecd.process.execution import Execution
from ccexecd.process.files import open_file, source_of
from ccexecd.process.final_result import ResultWatch
from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.keeper_link import close_all
from ccexecd.process.leader import Launch, Leader, SpawnError
from ccexecd.process.pump import OutputSource, Pump, Sink, open_pipe
from ccexecd.process.stalling import heed_silence
from ccexecd.process.terminal import Terminal, ignores, open_pair

log = logging.getLogger(__name__)

LINGER = 0.5
"""Seconds that stragglers and open pipes get after the leader's end before they are ended and closed. The last process
of a shell pipeline needs a moment; a service left behind with `&` would never end."""

STRAGGLER_GRACE = 2.0
"""Seconds from TERM to KILL for stragglers, unless the execution's own grace is shorter."""

VERIFY_PATIENCE = 3.0
"""Seconds after KILL until what is still there (uninterruptible sleep, another user's set-uid program) is reported."""


class Start:
    """The start of one execution: makes its pipes or its terminal, and asks the keeper for its leader.

    Args:
        execution: admitted, and not started.
        keeper: starts the leader.
        launch: what to start.
    """

    def __init__(self, execution: Execution, keeper: KeeperClient, launch: Launch) -> None:
        self._settled = trio.Event()
        self._result: Leader | SpawnError | None = None
        self._pipes: list[int] = []  # our ends: standard output, standard error, and the input if it is open
        self._theirs: list[int] = []
        subject = "pipe" if execution.terminal is None else "terminal"
        try:
            if execution.terminal is None:
                self._open_pipes(open_file if execution.spec.stdio == "file" else open_pipe)
                if execution.spec.stdin_open:
                    self._open_input()
            else:
                launch = attrs.evolve(launch, terminal=self._open_terminal(execution.terminal))
        except OSError as error:  # no descriptors left
            close_all(self._theirs)
            self._settle(SpawnError(error.errno or 0, error.strerror or str(error), subject))
        else:
            keeper.spawn(launch, self._theirs, self._settle)

    def _open_pipes(self, open_one: Callable[[], tuple[int, int]]) -> None:
        for _ in range(2):
            ours, theirs = open_one()
            self._pipes.append(ours)
            self._theirs.append(theirs)

    def _open_input(self) -> None:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        self._pipes.append(write_end)
        self._theirs.insert(0, read_end)

    def _open_terminal(self, terminal: Terminal) -> str:
        """Open a terminal: keep our end twice, for reading and typing, and return the path of the program's end."""
        ours, theirs = open_pair(terminal.size)
        self._pipes.append(ours)
        self._theirs.append(theirs)
        terminal.open(os.dup(ours))
        return os.ttyname(theirs)

    async def leader(self) -> tuple[Leader, list[int]]:
        """Wait for the leader. Cannot be cancelled, and ends always: the keeper answers, or is lost.

        Returns:
            The leader, and our ends of its pipes: standard output, standard error and, if it is open, standard input.
            With a terminal: only the end that its output is read from.

        Raises:
            SpawnError: the leader could not be started.
        """
        with trio.CancelScope(shield=True):
            await self._settled.wait()
        if not isinstance(self._result, Leader):
            raise self._result or AssertionError("settled without a result")
        return self._result, self._pipes

    async def abandon(self, keeper: KeeperClient) -> None:
        """Kill whatever was started, because an error has left it without a supervisor."""
        with trio.CancelScope(shield=True):
            await self._settled.wait()
            if isinstance(self._result, Leader):
                await keeper.kill(self._result)

    def _settle(self, result: Leader | SpawnError) -> None:
        self._result = result
        if isinstance(result, SpawnError):
            close_all(self._pipes)
        self._settled.set()


async def supervise(execution: Execution, keeper: KeeperClient, pump: Pump, start: Start) -> None:
    """Run one execution to its end. Returns when it is finished; cancelling it ends the execution first.

    Args:
        execution: the execution, admitted.
        keeper: signals its processes.
        pump: reads its output.
        start: its start, which is under way.
    """
    try:
        leader, pipes = await start.leader()
    except SpawnError as error:
        execution.could_not_start(error)
        return
    try:
        _connect(execution, pump, pipes)
    except OSError as error:
        with trio.CancelScope(shield=True):
            await escalate(keeper, leader, 0.0, execution.hurry)
        execution.could_not_start(SpawnError(error.errno or 0, error.strerror or str(error), "pipe"))
        return
    execution.has_started(leader)
    leader.when_beyond(execution.is_beyond)
    try:
        with execution.scope:
            await _exited_or_stayed(execution, leader)
        if execution.scope.cancelled_caught and execution.intent is None:
            execution.cancel(Reason.TIMEOUT)
    except trio.Cancelled:  # the session's nursery is cancelled: whoever did that has said why
        if execution.intent is None:
            execution.cancel(Reason.SHUTDOWN)
        raise
    finally:
        with trio.CancelScope(shield=True):  # every wait below has its own bound
            await _wind_down(execution, keeper, leader)


def _connect(execution: Execution, pump: Pump, pipes: list[int]) -> None:
    """Begin to read the output, and to accept standard input.

    Raises:
        OSError: no more can be waited for (inotify(7), epoll(7)); our ends of the pipes are closed.
    """
    add = functools.partial(source_of, pump) if execution.spec.stdio == "file" else pump.add
    streams: tuple[Stream, ...] = ("stdout", "stderr") if execution.terminal is None else ("stdout",)
    sources: list[OutputSource] = []
    try:
        for stream, fd in zip(streams, pipes, strict=False):
            sources.append(add(fd, _sink(execution, stream)))
    except OSError:
        for source in sources:
            source.close()
        close_all(pipes[len(sources) :])
        raise
    execution.pacing.sources = sources
    if execution.terminal is None and execution.spec.stdin_open:
        execution.stdin.open(pipes[2])


def _sink(execution: Execution, stream: Stream) -> Sink:
    """Return the sink of a stream: into the execution's log, and then to the listeners that read this stream."""
    listeners = [each.has_output for each in execution.listeners if stream in each.reads]
    if not listeners:
        return lambda received: execution.has_output(stream, received)

    def read(received: bytes) -> None:
        execution.has_output(stream, received)
        for listener in listeners:
            listener(stream, received)

    return read


async def _exited_or_stayed(execution: Execution, leader: Leader) -> None:
    """Wait for the leader's end; end the execution if it stalls, or stays on after its final result."""
    limit, watch, grace = execution.spec.stall_timeout, execution.final_result, execution.spec.post_result_grace
    if limit is None and watch is None:
        await leader.exited.wait()
        return
    async with trio.open_nursery() as nursery:
        if limit is not None:
            nursery.start_soon(heed_silence, execution, limit)
        if watch is not None and grace is not None:
            nursery.start_soon(_heed_result, execution, leader, watch, grace)
        await leader.exited.wait()
        nursery.cancel_scope.cancel(reason="the leader has exited")


async def _heed_result(execution: Execution, leader: Leader, watch: ResultWatch, grace: float) -> None:
    """End the execution if its leader lives `grace` seconds after the final result; a new turn restarts the wait."""
    while True:
        await watch.shown.wait()
        await execution.clock.going.wait()
        if watch.result is None:
            continue
        left = grace - watch.age(execution.clock.now)
        if left <= 0:
            if execution.intent is None and not leader.exited.is_set():
                execution.outstays(watch)
            return
        await trio.sleep(left)


async def _wind_down(execution: Execution, keeper: KeeperClient, leader: Leader) -> None:
    if execution.intent is not None:
        leftovers: list[int] = []
        await escalate(keeper, leader, execution.grace, execution.hurry, on_terminal=execution.terminal is not None)
    else:
        leftovers = await _let_linger(execution, keeper, leader)
        if leftovers and execution.spec.leftovers == "detach" and execution.intent is None:
            _leave(execution, leader, leftovers)
            return
        await escalate(keeper, leader, min(execution.grace, STRAGGLER_GRACE), execution.hurry)
    for source in execution.pacing.sources:
        source.read_end()
    still_open = [source for source in execution.pacing.sources if not source.ended.is_set()]
    if still_open:
        with trio.move_on_after(LINGER):
            for source in still_open:
                await source.ended.wait()
    _disconnect(execution)
    unkillable = await keeper.members(leader)
    if unkillable:
        log.error("execution %s: processes %s could not be ended", execution.id, unkillable)
    execution.has_ended(_outcome(execution, leader, leftovers, tuple(unkillable)))


def _outcome(
    execution: Execution,
    leader: Leader,
    leftovers: list[int],
    unkillable: tuple[int, ...] = (),
    *,
    detached: bool = False,
) -> Outcome:
    exited = leader.exit or Exit(None)
    reason = judge(exited, execution.intent)
    result = execution.counts_by if reason is Reason.POST_RESULT else None
    code = exited.code if result is None else result.exit_code
    limit = (leader.limit or exited.limit) if reason is Reason.LIMIT else None
    return Outcome(code, reason, exited.use, tuple(leftovers), unkillable, detached=detached, limit=limit)


async def _let_linger(execution: Execution, keeper: KeeperClient, leader: Leader) -> list[int]:
    """Give stragglers a moment (`LINGER`) to end by themselves; returns the pids of those that have not."""
    if leader.gone.is_set():
        return []
    with trio.move_on_after(LINGER):
        await leader.gone.wait()
    found = await keeper.members(leader)
    if execution.spec.leftovers == "detach":
        await _let_go_on(execution)
    return found


async def _let_go_on(execution: Execution) -> None:
    """Resume a paused execution and wait for that, `LINGER` at most: nobody can resume it once it has finished."""
    with trio.move_on_after(LINGER):
        while not execution.clock.going.is_set() and execution.intent is None:
            if execution.state is State.PAUSED:
                with contextlib.suppress(IllegalTransitionError):  # somebody has just cancelled it
                    await execution.resume()
            else:  # somebody has just resumed it
                await execution.clock.going.wait()


def _leave(execution: Execution, leader: Leader, leftovers: list[int]) -> None:
    """Finish the execution and leave the rest running, in one step, so that no cancel comes between."""
    _disconnect(execution)
    execution.has_ended(_outcome(execution, leader, leftovers, detached=True))


def _disconnect(execution: Execution) -> None:
    """Read what its pipes still contain, and close them."""
    for source in execution.pacing.sources:
        source.close()
    execution.stdin.drop()
    execution.has_no_more_output()


async def escalate(
    keeper: KeeperClient, leader: Leader, grace: float, hurry: trio.CancelScope, *, on_terminal: bool = False
) -> None:
    """Send TERM, wait for the grace, send KILL, and wait until nothing of the tree is left.

    The last wait ends after `VERIFY_PATIENCE` if something cannot be killed. Without any grace, TERM is not sent: its
    handler would race with KILL. A leader on a terminal that ignores TERM, as every interactive shell does, gets HUP,
    as if the terminal had been closed.

    Args:
        keeper: signals the processes.
        leader: the leader of the tree.
        grace: seconds from TERM to KILL.
        hurry: a fresh scope; cancelling it ends the grace.
        on_terminal: whether the leader runs on a terminal.
    """
    if not leader.gone.is_set() and grace > 0:
        is_deaf = on_terminal and ignores(leader.pid, signal.SIGTERM)
        await keeper.terminate(leader)
        if is_deaf:
            await keeper.signal(leader, signal.SIGHUP)
        with hurry:
            hurry.deadline = min(hurry.deadline, trio.current_time() + grace)
            await leader.gone.wait()
    if leader.gone.is_set():
        return
    await keeper.kill(leader)
    with trio.move_on_after(VERIFY_PATIENCE):
        await leader.gone.wait()
