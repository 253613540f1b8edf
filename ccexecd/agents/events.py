"""Events: what agents report while they work, in one form for all agents.

Owns the records, and reading JSON values that may be of any type. Must not know any agent's output: adapters do.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen
class Init:
    """A conversation or a turn has begun. There may be several such events in one run.

    A field is empty if the agent did not report it.

    Attributes:
        session_id: the agent's own id of the conversation.
        model: name of the model that answers.
        cwd: the agent's working directory.
        version: version of the agent's program.
        permission_mode: what the agent may do without asking, in the agent's own word.
        tools: names of the tools that it can use.
    """

    session_id: str = ""
    model: str = ""
    cwd: str = ""
    version: str = ""
    permission_mode: str = ""
    tools: tuple[str, ...] = ()


@attrs.frozen
class Text:
    """A finished piece of an answer.

    Attributes:
        text: the piece.
        parent: id of the tool use that started the sub-agent whose answer this is; empty for the agent itself.
    """

    text: str
    parent: str = ""


@attrs.frozen
class Thinking:
    """A finished piece of thought, as far as the agent shows it.

    Attributes:
        text: the piece.
        parent: as for `Text`.
    """

    text: str
    parent: str = ""


@attrs.frozen
class Delta:
    """A few more characters of an answer or a thought that is not finished; `Text` or `Thinking` has all of it later.

    Attributes:
        text: the characters.
        is_thinking: whether they belong to a thought.
    """

    text: str
    is_thinking: bool = False


@attrs.frozen
class ToolUse:
    """A tool is being used.

    Attributes:
        id: id of this use, which the `ToolResult` repeats.
        name: name of the tool.
        summary: the most telling part of its input, such as a command, path or pattern; up to `SUMMARY` characters.
        parent: as for `Text`.
    """

    id: str
    name: str
    summary: str = ""
    parent: str = ""


@attrs.frozen
class ToolResult:
    """A tool has answered.

    Attributes:
        id: id of the tool use.
        is_error: whether the tool failed.
        is_denied: whether the tool did not run, since it was not allowed.
    """

    id: str
    is_error: bool = False
    is_denied: bool = False


@attrs.frozen
class Task:
    """A background task, such as a command or a sub-agent, has begun or ended.

    Attributes:
        id: id of the task.
        description: what it does; empty if it has ended.
        is_running: whether it has begun; false if it has ended.
        tool: id of the tool use that has begun it; empty if none has.
    """

    id: str
    description: str = ""
    is_running: bool = True
    tool: str = ""


@attrs.frozen
class ApiRetry:
    """A request to the model has failed, and will be sent again.

    Attributes:
        attempt: number of the next attempt.
        most: attempts after which the agent gives up; None if it did not report that.
        delay: seconds until the next attempt; None if it did not report that.
        status: HTTP status of the failure; None if it did not report any.
        error: what failed, in the agent's word; empty if it did not report that.
    """

    attempt: int
    most: int | None = None
    delay: float | None = None
    status: int | None = None
    error: str = ""


@attrs.frozen
class RateLimit:
    """The state of the account's rate limit.

    Attributes:
        is_rejected: whether requests are refused now.
        resets_at: when the limit is reset, in seconds since the epoch; None if that was not reported.
        window: which limit it is, in the agent's word.
    """

    is_rejected: bool
    resets_at: float | None = None
    window: str = ""


@attrs.frozen
class Failure:
    """A failure that the agent reports outside of a result.

    Attributes:
        kind: the kind of failure, in the agent's word; empty if it has none.
        text: the agent's text about it.
    """

    kind: str
    text: str


@attrs.frozen
class Interrupted:
    """Somebody has stopped the agent in the middle of a turn."""


@attrs.frozen
class Result:
    """The end of a turn. There may be several in one run.

    Attributes:
        subtype: the agent's own word for how the turn went; `success` alone does not mean that it went well.
        is_error: whether the agent marks the result as an error.
        text: the answer, or the error.
        status: HTTP status of the API's error; None if there was none.
        why: why the turn ended, in the agent's word; empty if it did not report that.
        session_id: as for `Init`.
        usage: numbers of tokens of this turn, by kind.
        cost: US dollars, of the whole run so far; None if the agent did not report any.
        duration: seconds that the turn took; None if the agent did not report that.
        turns: how often the model was asked in this turn, as the agent counts; None if it did not report that.
        denied: names of the tools that were not allowed, one for each attempt.
    """

    subtype: str
    is_error: bool
    text: str = ""
    status: int | None = None
    why: str = ""
    session_id: str = ""
    usage: Mapping[str, int] = attrs.field(factory=dict)
    cost: float | None = None
    duration: float | None = None
    turns: int | None = None
    denied: tuple[str, ...] = ()


@attrs.frozen
class Other:
    """An event of any other kind; its content is not read.

    Attributes:
        type: its type.
        subtype: its subtype; empty if it has none.
        is_closing: whether it may follow the end of a turn, so that it does not mean that another turn has begun.
    """

    type: str
    subtype: str = ""
    is_closing: bool = False


SOMETHING = Other("")
"""Stands for one or more events that were not parsed, most of them parts of an answer."""


@attrs.frozen
class Unread:
    """A line that begins like an event and could not be read: it is not valid JSON, or too long.

    Attributes:
        size: its bytes, as far as they were read.
        is_too_long: whether it was too long; else it is not valid, as a line that was cut off.
    """

    size: int
    is_too_long: bool = False


Event = (
    Init
    | Text
    | Thinking
    | Delta
    | ToolUse
    | ToolResult
    | Task
    | ApiRetry
    | RateLimit
    | Failure
    | Interrupted
    | Result
    | Other
    | Unread
)


# Reading values that may be anything


def words(value: Any, most: int | None = None) -> str:
    """Return a value if it is a text, else an empty text.

    Args:
        value: a value from JSON.
        most: characters that are kept; None keeps all.
    """
    return value[:most] if isinstance(value, str) else ""


def number(value: Any) -> float | None:
    """Return a value if it is a number between -1e18 and 1e18, else None."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and -1e18 < value < 1e18 else None


def whole(value: Any) -> int | None:
    """Return a value if it is a whole number between -10**18 and 10**18, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18 else None


def record(value: Any) -> dict[str, Any]:
    """Return a value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def records(value: Any) -> list[dict[str, Any]]:
    """Return the JSON objects in a list; an empty list if the value is no list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def counts(value: Any) -> dict[str, int]:
    """Return the whole numbers in a JSON object, by name: the first `MOST_COUNTS`."""
    found = ((name[:NAME], each) for name, each in record(value).items() if whole(each) is not None)
    return dict(itertools.islice(found, MOST_COUNTS))


NAME = 200
"""Characters of a name (of a session, a model, a tool) that are kept. Real names have some sixty at most."""

MOST_COUNTS = 20
"""Kinds of tokens that are counted; real agents have six at most."""

SUMMARY = 200
"""Characters of a tool's input that its summary keeps."""

_TELLING = ("command", "file_path", "path", "pattern", "query", "url", "prompt", "description", "name")
"""Fields of a tool's input that may tell what the tool does, the most telling first."""


def summary_of(values: Any) -> str:
    """Return the most telling text field of a tool's input in one line, cut to `SUMMARY` characters."""
    found = record(values)
    told = next((found[name] for name in _TELLING if words(found.get(name))), "")
    return " ".join(told[:SUMMARY].split())
