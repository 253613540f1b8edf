"""The functions of this package for programs without an event loop.

Owns an event loop in a thread of its own, for as long as a call takes. So a call works where this thread has an event
loop already (in a notebook, for instance), and Ctrl-C ends the wait, but not the clean-up.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self, TypeVar, Unpack

from anyio.from_thread import BlockingPortal, start_blocking_portal

from ccexecctl.api.execute import Where, cc_stream, opened
from ccexecctl.api.options import AgentOptions, options_of
from ccexecctl.api.results import AgentResult, InterruptedTaskError
from ccexecctl.api.run import AgentRun
from ccexecctl.api.task import TaskRun
from ccexecctl.api.task_list import ListResult, Memory, Task, Watcher, cc_execute_list
from ccexecd.agents.events import Event

BACKEND = "asyncio"
"""The event loop: asyncio is imported in a third of the time that Trio takes."""

R = TypeVar("R")


def cc_execute_sync(task: str, options: AgentOptions | None = None, **given: Unpack[Where]) -> AgentResult:
    """Have an agent do a task, and wait for it: `cc_execute` without an event loop.

    Args:
        task: what is to be done.
        options: how it is to be done; None for the defaults.
        **given: fields of `AgentOptions` that replace those of `options`, and which daemon to use (`Where`); not
            `client`, which belongs to the event loop that it was opened in.

    Returns:
        The result, as `cc_execute` returns it.

    Raises:
        InterruptedTaskError: Ctrl-C was pressed; the agent has been cancelled, and the exception holds the result.
        CtlError: as `cc_execute` raises it.
    """
    begun: list[TaskRun] = []

    async def do() -> AgentResult:
        async with opened(given) as client:
            begun.append(TaskRun(client, task, options_of(options, given)))
            return await begun[0].do()

    try:
        return _run(do)
    except KeyboardInterrupt:
        if begun and begun[0].result is not None:
            raise InterruptedTaskError(begun[0].result) from None
        raise


def cc_execute_list_sync(
    tasks: Sequence[str | Task],
    options: AgentOptions | None = None,
    *,
    on_failure: str = "stop",
    watcher: Watcher | None = None,
    memory: Memory | None = None,
    **given: Unpack[Where],
) -> ListResult:
    """Have several tasks done, strictly in order: `cc_execute_list` without an event loop."""

    async def do() -> ListResult:
        return await cc_execute_list(tasks, options, on_failure=on_failure, watcher=watcher, memory=memory, **given)

    return _run(do)


class SyncRun:
    """One run of an agent: an iterator over the agent's events. See `AgentRun`.

    Args:
        portal: runs calls in the event loop.
        run: the run, which has been started.
    """

    def __init__(self, portal: BlockingPortal, run: AgentRun) -> None:
        self._portal = portal
        self._run = run

    @property
    def result(self) -> AgentResult:
        """The result; before the agent's end, the result so far."""
        return self._run.result

    @property
    def execution_uuid(self) -> str:
        """UUID of the execution."""
        return self._run.execution_uuid

    def cancel(self) -> None:
        """End the agent: TERM, grace, KILL. Events that it still reports are yielded."""
        self._portal.call(self._run.cancel)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self._portal.call(self._next)
        if event is None:
            raise StopIteration
        return event

    async def _next(self) -> Event | None:
        return await anext(self._run, None)


@contextmanager
def cc_stream_sync(task: str, options: AgentOptions | None = None, **given: Unpack[Where]) -> Iterator[SyncRun]:
    """Follow an agent while it works: `cc_stream` without an event loop."""
    with (
        start_blocking_portal(BACKEND) as portal,
        portal.wrap_async_context_manager(cc_stream(task, options, **given)) as run,
    ):
        yield SyncRun(portal, run)


def _run(do: Callable[[], Awaitable[R]]) -> R:
    with start_blocking_portal(BACKEND) as portal:
        return portal.call(do)
