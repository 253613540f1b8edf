"""Several tasks, strictly one after another, each for an agent that knows nothing of the others but what it is told.

Owns the order, what depends on what, and what a failure means for the rest. Must not read files.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import Enum
from inspect import isawaitable
from typing import Any, Protocol, Unpack

import attrs

from ccexecctl.api.client import Client
from ccexecctl.api.execute import Where, opened
from ccexecctl.api.options import AgentOptions, Given, options_of
from ccexecctl.api.prompts import with_outputs
from ccexecctl.api.results import AgentError, AgentResult
from ccexecctl.api.task import TaskRun
from ccexecctl.errors import CtlError, NotPermittedError, NotRunningError, RefusedError, UnreachableError, UsageError
from ccexecd.protocol.errors import ErrorCode

NAME = re.compile(r"[^\s{}]+(?: [^\s{}]+)*")
"""What a task may be called: it stands between braces in the prompts of others."""


class Status(Enum):
    """How a task of a list stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@attrs.frozen
class Task:
    """One task of a list.

    Attributes:
        prompt: what is to be done; `{{name}}` in it stands for what the task of that name has said.
        name: by which others depend on it; empty for its number.
        depends: names of earlier tasks whose output it needs: where no `{{name}}` asks for it, it is put behind.
        options: of `AgentOptions`, for this task alone.
    """

    prompt: str
    name: str = ""
    depends: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    options: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class TaskResult:
    """What became of one task of a list.

    Attributes:
        name: of the task.
        status: how it stands.
        result: what came of it; None when no agent was started.
        error: why it failed or was skipped; None otherwise.
    """

    name: str
    status: Status
    result: AgentResult | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        result = self.result.as_dict() if self.result is not None else None
        return {"name": self.name, "status": self.status.value, "error": self.error, "result": result}


@attrs.frozen
class ListResult:
    """What became of a list.

    Attributes:
        tasks: one for each, in order.
    """

    tasks: tuple[TaskResult, ...]

    @property
    def is_success(self) -> bool:
        """Whether all of them are done."""
        return all(each.status is Status.DONE for each in self.tasks)

    @property
    def outputs(self) -> dict[str, str]:
        """What each has said that is done, by name."""
        return {each.name: each.result.output for each in self.tasks if each.result and each.status is Status.DONE}

    def check(self) -> "ListResult":
        """Itself, if all is done.

        Raises:
            AgentError: a task has failed; the first one.
            CtlError: a task could not be started, or was skipped.
        """
        for each in self.tasks:
            if each.status is not Status.DONE:
                if each.result is not None:
                    raise AgentError(each.result)
                raise CtlError(f"task {each.name}: {each.error}")
        return self


Watcher = Callable[[TaskResult], Awaitable[object] | object]
"""Called whenever a task stands otherwise than before; what it returns is awaited if it can be."""


class Memory(Protocol):
    """What remembers how far a list has come, so that it may be run again and goes on there."""

    def recall(self, task: Task, prompt: str) -> TaskResult | None:
        """Return what came of a task that is done."""

    def begin(self, task: Task, prompt: str, *, anew: bool = False) -> str:
        """Note that a task begins, and return its idempotency key: that of the last time, if it was under way then."""

    def note(self, result: TaskResult) -> None:
        """Keep what became of a task."""


INTERRUPTED = {"cancelled", "disconnected", "session_expired", "shutdown", "lost"}
"""Reasons for which an execution has ended that was not done: its task is begun anew when its list is run again."""


def named(tasks: Iterable[str | Task]) -> list[Task]:
    """The tasks of a list, each with a name.

    Raises:
        UsageError: two have the same, or one depends on what does not come before it.
    """
    given = [each if isinstance(each, Task) else Task(each) for each in tasks]
    found = [each if each.name else attrs.evolve(each, name=str(number)) for number, each in enumerate(given, 1)]
    earlier: set[str] = set()
    for each in found:
        if not NAME.fullmatch(each.name):
            raise UsageError(f"{each.name!r} is no name for a task", "without braces, tabs and line feeds")
        if each.name in earlier:
            raise UsageError(f"two tasks are called {each.name!r}", "each needs a name of its own")
        missing = [name for name in each.depends if name not in earlier]
        if missing:
            known = ", ".join(map(repr, sorted(earlier))) or "none"
            raise UsageError(
                f"task {each.name!r} depends on {missing[0]!r}, which does not come before it", f"before it: {known}"
            )
        earlier.add(each.name)
    return found


async def cc_execute_list(
    tasks: Sequence[str | Task],
    options: AgentOptions | None = None,
    *,
    on_failure: str = "stop",
    watcher: Watcher | None = None,
    memory: Memory | None = None,
    **given: Unpack[Where],
) -> ListResult:
    """Have several tasks done, strictly in order, each with a fresh context.

    Args:
        tasks: prompts, or `Task`.
        options: how; the keyword arguments change some of it, and each task's own options some more.
        on_failure: `stop`: what comes behind a task that failed is skipped; `continue`: only what depends on it.
        watcher: told of each task when it begins and when it has ended.
        memory: what is done is not done again, and what was under way is gone on with.
        **given: each of `AgentOptions`, and which daemon (`Where`).

    Returns:
        What became of each.

    Raises:
        UsageError: the list makes no sense.
        CtlError: the daemon cannot be reached.
    """
    if on_failure not in ("stop", "continue"):
        raise UsageError(f'on_failure is "stop" or "continue", not {on_failure!r}')
    in_order = named(tasks)
    async with opened(given) as client:
        one = TaskList(
            client, in_order, options_of(options, given), stops=on_failure == "stop", watcher=watcher, memory=memory
        )
        return await one.do()


class TaskList:
    """Gets the tasks of a list done.

    Args:
        client: the daemon.
        tasks: them, with names.
        options: how, for all of them.
        stops: whether a failure ends the list.
        watcher: told of each.
        memory: what remembers how far it has come.
    """

    def __init__(
        self,
        client: Client,
        tasks: Sequence[Task],
        options: AgentOptions,
        *,
        stops: bool,
        watcher: Watcher | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._client = client
        self._tasks = tasks
        self._options = options
        self._stops = stops
        self._watcher = watcher
        self._memory = memory
        self._results: dict[str, TaskResult] = {}

    async def do(self) -> ListResult:
        """Do them. Raises CtlError when the daemon cannot be reached any more."""
        is_stopped = False
        for task in self._tasks:
            reason = "an earlier task has failed" if is_stopped else self._obstacle(task)
            if reason is not None:
                await self._note(TaskResult(task.name, Status.SKIPPED, error=reason))
                continue
            prompt = with_outputs(task.prompt, {name: self._said_by(name) for name in task.depends})
            known = self._memory.recall(task, prompt) if self._memory is not None else None
            if known is None:
                await self._note(TaskResult(task.name, Status.RUNNING))
                known = await self._do(task, prompt)
            await self._note(known)
            is_stopped = self._stops and self._results[task.name].status is Status.FAILED
        return ListResult(tuple(self._results[task.name] for task in self._tasks))

    def _obstacle(self, task: Task) -> str | None:
        failed = [name for name in task.depends if self._results[name].status is not Status.DONE]
        return f"it depends on {failed[0]!r}, which is not done" if failed else None

    async def _do(self, task: Task, prompt: str) -> TaskResult:
        try:
            result = await self._run(task, prompt)
        except AgentError as error:
            result = error.result
        except (NotRunningError, UnreachableError, NotPermittedError):
            raise
        except CtlError as error:
            return TaskResult(task.name, Status.FAILED, error=error.message)
        return TaskResult(task.name, Status.FAILED if result.error else Status.DONE, result, result.error)

    async def _run(self, task: Task, prompt: str) -> AgentResult:
        given: Given = {**task.options}  # type: ignore[typeddict-item]  # checked by options_of
        options = options_of(self._options, given)
        if self._memory is None:
            return await TaskRun(self._client, prompt, options).do()
        key = self._memory.begin(task, prompt)
        run = TaskRun(self._client, prompt, attrs.evolve(options, idempotency_key=key))
        try:
            result = await run.do()
            if not (run.was_known and result.reason in INTERRUPTED):
                return result
        except RefusedError as refused:
            if refused.code != ErrorCode.IDEMPOTENCY_CONFLICT:  # else it was begun with another environment, say
                raise
        key = self._memory.begin(task, prompt, anew=True)
        return await TaskRun(self._client, prompt, attrs.evolve(options, idempotency_key=key)).do()

    def _said_by(self, name: str) -> str:
        result = self._results[name].result
        return result.output if result is not None else ""

    async def _note(self, result: TaskResult) -> None:
        self._results[result.name] = result
        if self._memory is not None:
            self._memory.note(result)
        if self._watcher is not None:
            answer = self._watcher(result)
            if isawaitable(answer):
                await answer
