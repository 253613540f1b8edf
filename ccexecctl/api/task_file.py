"""A list of tasks in a file, TOML or Markdown, and the state file that tells which of them are done.

Owns the forms of these files. Must not run anything.
"""

import hashlib
import itertools
import json
import os
import tomllib
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ccexecctl.api.options import Given, accepts, options_of
from ccexecctl.api.results import AgentResult
from ccexecctl.api.task_list import Status, Task, TaskResult, named
from ccexecctl.errors import CtlError, UsageError

OPTIONS = Given.__annotations__.keys() - {"progress", "stream", "retries", "env"}
"""Options that a file of tasks may set."""

VERSION = 1
"""Version of the state file's form."""


@attrs.frozen
class TaskFile:
    """The content of a file of tasks.

    Attributes:
        tasks: the tasks in order, each with a name.
        options: fields of `AgentOptions` for all tasks, by name.
        on_failure: `stop` or `continue`: what a failure means for the tasks behind it.
    """

    tasks: tuple[Task, ...]
    options: Mapping[str, Any] = attrs.field(factory=dict)
    on_failure: str = "stop"


def read_tasks(path: Path) -> TaskFile:
    """Read a file of tasks: Markdown if its name ends in `.md` or `.markdown`, else TOML.

    Raises:
        UsageError: it cannot be read, or is no list of tasks; the message names the file and the task.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except OSError as error:
        raise UsageError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8", "save it as UTF-8") from error
    read = _markdown if path.suffix.lower() in (".md", ".markdown") else _toml
    try:
        found = read(text)
        return attrs.evolve(found, tasks=tuple(named(found.tasks)))
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.hint) from error


def _toml(text: str) -> TaskFile:
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"it is not TOML: {error}", "a task: [[task]], name = ..., prompt = ...") from error
    unknown = document.keys() - {"task", "options", "on_failure"}
    if unknown:
        raise UsageError(f"there is no key {min(unknown)!r}", "there are: task, options, on_failure")
    tasks = document.get("task", [])
    if not isinstance(tasks, list) or not tasks:
        raise UsageError("it has no tasks", "a task: [[task]], name = ..., prompt = ...")
    options = document.get("options", {})
    _require_options(options, "[options]")
    return TaskFile(
        tuple(_task(each, f"task {number}") for number, each in enumerate(tasks, 1)),
        options,
        _choice(document.get("on_failure", "stop")),
    )


def _task(table: Any, where: str) -> Task:
    if not isinstance(table, dict):
        raise UsageError(f"{where} is not a table")
    prompt, name, depends = table.get("prompt"), table.get("name", ""), table.get("depends", [])
    if not isinstance(prompt, str) or not prompt.strip() or not isinstance(name, str):
        raise UsageError(f"{where} needs a prompt, which is a string, as its name is")
    if not isinstance(depends, list) or not all(isinstance(each, str) for each in depends):
        raise UsageError(f"{where}: depends is a list of names")
    options = {key: value for key, value in table.items() if key not in ("prompt", "name", "depends")}
    _require_options(options, name or where)
    return Task(prompt, name, depends, options)


def _require_options(options: Any, where: str) -> None:
    if not isinstance(options, dict):
        raise UsageError(f"{where} is not a table")
    for name in options:
        if name not in OPTIONS:
            raise UsageError(f"{where}: there is no option {name!r}", f"there are: {', '.join(sorted(OPTIONS))}")
    try:
        options_of(None, options)  # type: ignore[arg-type]  # the call checks the types
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", error.hint) from error


def _choice(on_failure: Any) -> str:
    if on_failure not in ("stop", "continue"):
        raise UsageError('on_failure is "stop" or "continue"')
    return str(on_failure)


def _markdown(text: str) -> TaskFile:
    """Read Markdown: each heading of the second level is a task's name, the text below it is the task's prompt.

    Lines `name: value` directly below the heading are the task's options, or `depends: a, b`.
    """
    from markdown_it import MarkdownIt  # noqa: PLC0415  # 40 ms

    lines = text.split("\n")  # CommonMark's lines; `splitlines` would split at further characters
    tokens = MarkdownIt("commonmark").parse(text)
    headings = [
        (token.map, following.content)
        for token, following in itertools.pairwise(tokens)
        if token.type == "heading_open" and token.tag == "h2" and token.level == 0 and token.map
    ]
    if not headings:
        raise UsageError("it has no tasks", "a task: a heading `## name`, and its prompt below")
    ends = [place[0] for place, _ in headings[1:]] + [len(lines)]
    tasks = [_section(title, lines[place[1] : end]) for (place, title), end in zip(headings, ends, strict=True)]
    return TaskFile(tuple(tasks))


def _section(title: str, lines: list[str]) -> Task:
    table: dict[str, Any] = {"name": title}
    rest = list(lines)
    while rest and (not rest[0].strip() or _is_option(rest[0])):
        name, colon, value = rest.pop(0).partition(":")
        if colon:
            table[name.strip()] = _value(name.strip(), value.strip())
    return _task({**table, "prompt": "\n".join(rest).strip()}, title)


def _is_option(line: str) -> bool:
    name, colon, _ = line.partition(":")
    return bool(colon) and name.strip() in OPTIONS | {"depends"}


def _value(name: str, text: str) -> Any:
    """Read an option's value: TOML, or else plain text. A list may be words separated by commas."""
    if name in ("depends", "allowed_tools", "disallowed_tools") and not text.startswith("["):
        return [each.strip() for each in text.split(",") if each.strip()]
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return value if name == "depends" or accepts(name, value) else text


class State:
    """The state of a list, in a file that is replaced as a whole with every change; it is a `Memory`.

    Args:
        path: the file; it need not exist.

    Raises:
        CtlError: the file cannot be read, or is not the state of a list.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._run = str(uuid.uuid4())
        self._tasks: dict[str, dict[str, Any]] = {}
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            raise CtlError(
                f"cannot read {path}: {error}", "delete it to begin anew, or name another: --state"
            ) from error
        if not _is_state(document):
            raise CtlError(f"{path} is not the state of a list of tasks", "name another: --state FILE")
        self._run, self._tasks = document["run"], document["tasks"]

    def recall(self, task: Task, prompt: str) -> TaskResult | None:
        """Return the result of a task that is done; None if it is not, or its prompt or options have changed since."""
        known = self._tasks.get(task.name)
        if known is None or known["digest"] != _digest(task, prompt) or known["status"] != Status.DONE.value:
            return None
        return TaskResult(task.name, Status.DONE, AgentResult.from_dict(known["result"]))

    def begin(self, task: Task, prompt: str, *, anew: bool = False) -> str:
        """Record that a task begins.

        Args:
            task: the task.
            prompt: its prompt, with the outputs of other tasks filled in.
            anew: whether a new key is needed, since the execution of the last one ended without doing the task.

        Returns:
            The task's idempotency key: the last one, if the same task was running when the list was last left.

        Raises:
            CtlError: the file cannot be written.
        """
        digest = _digest(task, prompt)
        known = self._tasks.get(task.name, {})
        is_same = known.get("digest") == digest and known.get("status") == Status.RUNNING.value
        attempt = known.get("attempt", 0) + (0 if is_same and not anew else 1)
        self._put(task.name, {"digest": digest, "status": Status.RUNNING.value, "attempt": attempt})
        return f"{self._run}/{digest[:16]}/{attempt}"

    def note(self, result: TaskResult) -> None:
        """Record the result of a task that is done or has failed.

        Raises:
            CtlError: the file cannot be written.
        """
        known = self._tasks.get(result.name)
        if known is not None and result.status in (Status.DONE, Status.FAILED):
            told = result.result.as_dict() if result.result is not None else None
            self._put(result.name, {**known, "status": result.status.value, "error": result.error, "result": told})

    def _put(self, name: str, known: dict[str, Any]) -> None:
        self._tasks[name] = known
        document = {"version": VERSION, "run": self._run, "tasks": self._tasks}
        unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            unfinished.write_text(json.dumps(document, indent=1), encoding="utf-8")
            unfinished.replace(self._path)
        except OSError as error:
            raise CtlError(f"cannot write {self._path}: {error.strerror}", "name another: --state FILE") from error


def _is_state(document: Any) -> bool:
    """Whether a document has the form that `State` writes: the file may have been edited, or be another one."""
    if not isinstance(document, dict) or document.get("version") != VERSION or not isinstance(document.get("run"), str):
        return False
    tasks = document.get("tasks")
    return isinstance(tasks, dict) and all(map(_is_known, tasks.values()))


def _is_known(known: Any) -> bool:
    try:
        if known["status"] == Status.DONE.value:
            AgentResult.from_dict(known["result"])
        return isinstance(known["digest"], str) and isinstance(known["attempt"], int)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def _digest(task: Task, prompt: str) -> str:
    """Return the SHA-256 of a task's prompt, outputs filled in, and options: an unchanged task is recognised by it."""
    return hashlib.sha256(json.dumps([prompt, dict(task.options)], sort_keys=True, default=str).encode()).hexdigest()
