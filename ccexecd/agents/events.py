"""What agents report while they work, in one vocabulary for all of them.

Owns the records. Whose output they are read from, and how, is the adapters' business.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen
class Init:
    """A turn begins, or the conversation does. There may be several in one run.

    Attributes:
        session_id: the agent's own name for the conversation; empty if it did not say. So with the others.
        model: which model answers.
        cwd: where it works.
        version: of the agent's program.
        permission_mode: what it may do unasked, in its own word.
        tools: what it can use.
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
        text: what it says.
        parent: id of the tool use within which a sub-agent says so; empty for the agent itself.
    """

    text: str
    parent: str = ""


@attrs.frozen
class Thinking:
    """A finished piece of thought, as far as the agent shows it.

    Attributes:
        text: what it thought.
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
        id: by which its result is known.
        name: of the tool.
        summary: its input in a few words: the command, the path, the pattern.
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
        id: of its use.
        is_error: whether it failed.
        is_denied: whether it never ran, since nobody had allowed it.
    """

    id: str
    is_error: bool = False
    is_denied: bool = False


@attrs.frozen
class Task:
    """Something goes on in the background, beside the conversation: a command, a sub-agent.

    Attributes:
        id: its name.
        description: what it does; empty where only its end is told.
        is_running: whether it has begun; else it has ended.
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
        attempt: which one comes next.
        most: how many there will be before it gives up; None if it did not say. So with the others.
        delay: seconds until then.
        status: HTTP status of the failure.
        error: what failed, in the agent's word.
    """

    attempt: int
    most: int | None = None
    delay: float | None = None
    status: int | None = None
    error: str = ""


@attrs.frozen
class RateLimit:
    """How the account stands.

    Attributes:
        is_rejected: whether requests are refused now.
        resets_at: when that ends, in seconds since the epoch; None if it did not say.
        window: which limit it is, in the agent's word.
    """

    is_rejected: bool
    resets_at: float | None = None
    window: str = ""


@attrs.frozen
class Failure:
    """Something failed that the agent speaks of outside of its result.

    Attributes:
        kind: what, in the agent's word; empty where it has none.
        text: what it says.
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
        subtype: the agent's own word for how it went; `success` does not mean that it went well.
        is_error: whether the agent says that it failed.
        text: the answer, or the error.
        status: HTTP status of the API's error; None if there was none. So with the others.
        why: why the turn ended, in the agent's word; empty if it did not say.
        session_id: as for `Init`.
        usage: tokens of this turn, by kind, as far as they are numbers.
        cost: US dollars, of the whole run so far.
        duration: seconds of this turn.
        turns: how often the model was asked in it.
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
    """An event of a kind that nothing here depends on.

    Attributes:
        type: its type.
        subtype: its subtype; empty if it has none.
        is_closing: whether it is one of the few that come when a turn is over, so that no other has begun with it.
    """

    type: str
    subtype: str = ""
    is_closing: bool = False


SOMETHING = Other("")
"""Events of which nothing more is known than that there were some: a part of an answer, mostly."""


@attrs.frozen
class Unread:
    """A line that begins like an event and could not be read: broken, or longer than is waited for.

    Attributes:
        size: its bytes, as far as they were seen.
        is_too_long: whether it was that; else it is broken, as one that was cut off.
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
    """A value as text: itself if it is one, else nothing.

    Args:
        value: from JSON.
        most: characters that are kept; None is all.
    """
    return value[:most] if isinstance(value, str) else ""


def number(value: Any) -> float | None:
    """A value as a number that can be calculated with; None if it is none."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and -1e18 < value < 1e18 else None


def whole(value: Any) -> int | None:
    """A value as a whole number; None if it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18 else None


def record(value: Any) -> dict[str, Any]:
    """A value as a JSON object; an empty one if it is none."""
    return value if isinstance(value, dict) else {}


def records(value: Any) -> list[dict[str, Any]]:
    """The JSON objects in a list; none if it is no list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def counts(value: Any) -> dict[str, int]:
    """The whole numbers of a JSON object, by name: `MOST_COUNTS` at most."""
    found = ((name[:NAME], each) for name, each in record(value).items() if whole(each) is not None)
    return dict(itertools.islice(found, MOST_COUNTS))


NAME = 200
"""Characters of a name that are kept: of a session, a model, a tool. Real ones have at most some sixty."""

MOST_COUNTS = 20
"""Kinds of tokens that are counted; real agents have at most six."""

SUMMARY = 200
"""Characters of what a tool is asked to do that are kept."""

_TELLING = ("command", "file_path", "path", "pattern", "query", "url", "prompt", "description", "name")
"""Parts of a tool's input that say what it does, the most telling first."""


def summary_of(values: Any) -> str:
    """What a tool is asked to do, in one line."""
    found = record(values)
    told = next((found[name] for name in _TELLING if words(found.get(name))), "")
    return " ".join(told[:SUMMARY].split())
