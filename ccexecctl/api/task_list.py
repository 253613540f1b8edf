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
"""Names of tasks: without braces, since a name stands between braces in the prompts of other tasks."""


class Status(Enum):
    """The status of a task in a list."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@attrs.frozen
class Task:
    """One task of a list.

    Attributes:
        prompt: what is to be done; `{{name}}` is replaced by the output of the task `name`, which must be in `depends`.
        name: the task's name, for `depends` of later tasks; empty for its number in the list, from 1.
        depends: names of earlier tasks that must be done. The output of each that has no `{{name}}` in the prompt is
            appended to it.
        options: fields of `AgentOptions` for this task alone, by name.
    """

    prompt: str
    name: str = ""
    depends: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    options: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class TaskResult:
    """The status of one task in a list, and its result.

    Attributes:
        name: the task's name.
        status: the task's status.
        result: the result; None if no agent was started, or it is still at work.
        error: why the task failed or was skipped; None otherwise.
    """

    name: str
    status: Status
    result: AgentResult | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as values that JSON can hold; the result is without its events."""
        result = self.result.as_dict() if self.result is not None else None
        return {"name": self.name, "status": self.status.value, "error": self.error, "result": result}


@attrs.frozen
class ListResult:
    """The result of a list.

    Attributes:
        tasks: the results of all tasks, in order.
    """

    tasks: tuple[TaskResult, ...]

    @property
    def is_success(self) -> bool:
        """Whether all tasks are done."""
        return all(each.status is Status.DONE for each in self.tasks)

    @property
    def outputs(self) -> dict[str, str]:
        """The output of each task that is done, by the task's name."""
        return {each.name: each.result.output for each in self.tasks if each.result and each.status is Status.DONE}

    def check(self) -> "ListResult":
        """Return this result if all tasks are done. Else raise an exception about the first one that is not.

        Raises:
            AgentError: the task's agent has failed.
            CtlError: the task could not be started, or was skipped.
        """
        for each in self.tasks:
            if each.status is not Status.DONE:
                if each.result is not None:
                    raise AgentError(each.result)
                raise CtlError(f"task {each.name}: {each.error}")
        return self


Watcher = Callable[[TaskResult], Awaitable[object] | object]
"""Called when the status of a task has changed; if it returns an awaitable, that is awaited."""


class Memory(Protocol):
    """Remembers which tasks of a list are done, so that a list that is run again goes on there."""

    def recall(self, task: Task, prompt: str) -> TaskResult | None:
        """Return the result of a task that is done; None if it is not done."""

    def begin(self, task: Task, prompt: str, *, anew: bool = False) -> str:
        """Record that a task begins. Returns its idempotency key; it is the last one if the task was running then."""

    def note(self, result: TaskResult) -> None:
        """Record the status of a task, and its result if it has one."""


INTERRUPTED = {"cancelled", "disconnected", "session_expired", "shutdown", "lost"}
"""Reasons of an execution's end that leave its task undone: when the list is run again, the task is begun anew."""


def named(tasks: Iterable[str | Task]) -> list[Task]:
    """Return tasks of which each has a name: its own, or else its number in the list, from 1.

    Raises:
        UsageError: a name is not valid or is used twice, or a task depends on one that does not come before it.
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
        tasks: the tasks, each a `Task` or only a prompt.
        options: how the tasks are to be done; None for the defaults. A task's own options replace some of them.
        on_failure: after a task that failed, `stop` skips all later tasks, `continue` only those that depend on it.
        watcher: called when a task begins, has ended or is skipped; None for nothing.
        memory: knows what earlier runs of the list have done, which is not done again; None for nothing.
        **given: fields of `AgentOptions` that replace those of `options`, and which daemon to use (`Where`).

    Returns:
        The results of all tasks, also if some have failed.

    Raises:
        UsageError: names, dependencies or options are not valid.
        CtlError: the daemon cannot be reached, or does not permit this.
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
        client: the client of the daemon.
        tasks: the tasks, each with a name.
        options: options for all tasks.
        stops: whether all tasks behind one that failed are skipped.
        watcher: called when a task begins, has ended or is skipped; None for nothing.
        memory: knows what earlier runs of the list have done; None for nothing.
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
        """Do the tasks, one after another. Returns the results of all.

        Raises:
            CtlError: the daemon cannot be reached any more, or does not permit this.
        """
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
            if refused.code != ErrorCode.IDEMPOTENCY_CONFLICT:  # else it was begun with other params
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
