"""The options of a task: which agent does it, how, and what becomes of its answer.

Owns the options, and the checks of their values before anything is started. Must not know how an agent is called.
"""

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypedDict, get_args, get_origin

import attrs

from ccexecctl.errors import UsageError

PROMPT_LIMIT = 800_000
"""Bytes of the longest task, unless `prompt_limit` is set: about 200,000 tokens, at four bytes each, which is what
Claude models read at once."""


class Kind(Enum):
    """The kinds of updates on the progress of a task."""

    STARTED = "started"
    QUEUED = "queued"
    THINKING = "thinking"
    TEXT = "text"
    TOOL = "tool"
    RETRY = "retry"
    WARNING = "warning"
    ENDED = "ended"


@attrs.frozen
class Progress:
    """An update on the progress of a task.

    Attributes:
        kind: what has happened.
        message: the same in words, on one line.
        elapsed: seconds since the task was begun.
    """

    kind: Kind
    message: str
    elapsed: float

    def __str__(self) -> str:
        return self.message


Told = Callable[[Progress], Awaitable[object] | object]
"""Called with each update; if it returns an awaitable, that is awaited. An exception that it raises ends the task."""


@attrs.frozen
class Retries:
    """How an agent is tried again when its model is overloaded, its account at a limit, or the daemon's queue full.

    Attributes:
        most: attempts after the first one; 0 for none.
        first: seconds to wait before the first of these, before jitter; each following wait is twice as long.
        longest: upper bound of these waits, in seconds. Where the end of a limit is known, that is waited for instead.
        patience: the end of a limit is waited for if it is no more than so many seconds away; else the result tells
            when it is.
    """

    most: int = 3
    first: float = 5.0
    longest: float = 120.0
    patience: float = 900.0


class Given(TypedDict, total=False):
    """The options as keyword arguments; `AgentOptions` documents them."""

    agent: str
    program: str | Sequence[str] | None
    model: str | None
    cwd: str | Path | None
    env: Mapping[str, str] | None
    timeout: float | None
    stall_timeout: float | None
    allowed_tools: Sequence[str]
    disallowed_tools: Sequence[str]
    permission_mode: str | None
    max_turns: int | None
    system_prompt: str | None
    mcp_config: str | None
    resume: str | None
    arguments: Sequence[str]
    json_mode: bool
    json_schema: Mapping[str, Any] | None
    validation_prompt: str | None
    amend_prompt: bool
    expect_uuid: bool
    prompt_limit: int
    partial_messages: bool
    stream: bool
    progress: Told | None
    retries: Retries
    labels: Mapping[str, str] | None
    lane: str | None
    priority: int | None
    on_disconnect: str
    idempotency_key: str | None


_IN_WORDS = {
    str: "a text",
    Path: "a path",
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    Mapping: "a table",
    Sequence: "a list of texts",
    Callable: "a function",
    Retries: "Retries",
}
"""Types of options in words, for errors."""


def accepts(name: str, value: object) -> bool:
    """Whether a value has a type that an option takes.

    Args:
        name: the option's name; it has to exist.
        value: the value.
    """
    return _is_one(value, Given.__annotations__[name])


def _is_one(value: object, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_is_one(value, each) for each in parts)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            isinstance(key, str) and _is_one(each, parts[1]) for key, each in value.items()
        )
    if origin is Sequence:
        return isinstance(value, Sequence) and all(isinstance(each, str) for each in value)
    if origin is Callable:
        return callable(value)
    if kind in (int, float) and isinstance(value, bool):
        return False
    return kind is Any or isinstance(value, (int, float) if kind is float else kind)


@cache
def _in_words(name: str) -> str:
    kind: Any = Given.__annotations__[name]
    kinds = [get_origin(each) or each for each in (get_args(kind) if get_origin(kind) is UnionType else [kind])]
    words = " or ".join(_IN_WORDS[each] for each in kinds if each is not NoneType)
    return f"{words} of texts" if kind == Mapping[str, str] | None else words


def _words(value: Any) -> Any:
    """Make a tuple of one word or of several; return anything else as it is, for the check of types to refuse."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else value


@attrs.frozen(kw_only=True)
class AgentOptions:
    """The options of a task.

    Attributes:
        agent: which agent does the task: `claude`, `codex` or `gemini`.
        program: the program, and words that come first in its command line; empty: the agent's name, which the daemon
            looks up on its PATH.
        model: the model's name; None for the agent's own choice.
        cwd: the agent's working directory. None: this process's own with a daemon behind a control socket, else the
            daemon's choice.
        env: environment variables for the agent, added to the daemon's.
        timeout: seconds of wall time after which an attempt is ended, and its result is partial; None leaves the
            time-out to the daemon.
        stall_timeout: seconds without a byte of output after which an attempt is ended; None for no such limit. Silence
            is normal for agents.
        allowed_tools: tools that the agent may use without asking for permission.
        disallowed_tools: tools that the agent may not use.
        permission_mode: the agent's own name of a mode, such as `acceptEdits`; Codex takes a sandbox mode here, and
            Gemini CLI an approval mode.
        max_turns: most turns of the agent; None for no limit.
        system_prompt: text that is added to the agent's system prompt.
        mcp_config: MCP servers for the agent: path of a file, or JSON.
        resume: session id of a conversation that the agent is to go on with; None for a new one.
        arguments: further words for the agent's command line, unchanged.
        json_mode: whether the reply has to be a JSON object or list, which becomes the `result`.
        json_schema: JSON Schema that the reply has to conform to; implies `json_mode`.
        validation_prompt: what a fresh agent judges the answer by; None for no judgement. `{task}` and `{response}` in
            it are replaced; if it has neither, both are appended.
        amend_prompt: whether a fresh agent first rewrites the task so that it cannot be misunderstood.
        expect_uuid: whether the agent is asked to end its reply with a UUID, made for this task; the execution's
            receipt tells whether it has (docs/evidence.md). Not in JSON mode, whose reply is nothing but JSON.
        prompt_limit: bytes of the longest task that is accepted.
        partial_messages: whether Claude Code reports its words as they are generated, and not message by message; so
            none are missing when it is cut off. This takes some 50 times the output; Claude Code 1.0.60 has no such
            flag.
        stream: whether the agent's words and the tools that it uses are printed to stdout as they are reported.
        progress: called with each update of the progress; None for nothing.
        retries: when the agent is started again after a failure that passes.
        labels: labels of the executions, which `list` and `ccexecctl ps` show.
        lane: lane of the daemon's queue in which the executions wait for their turn.
        priority: the highest in a lane begins first: -1000 to 1000; None for 0.
        on_disconnect: what becomes of a running execution when the client's connection ends: `auto`, `cancel` or
            `detach` (docs/protocol.md).
        idempotency_key: a call that is repeated with the same key gets the same executions; None starts new ones.
    """

    agent: str = "claude"
    program: tuple[str, ...] = attrs.field(default=None, converter=_words)
    model: str | None = None
    cwd: str | Path | None = None
    env: Mapping[str, str] | None = attrs.field(default=None, repr=False)
    timeout: float | None = None
    stall_timeout: float | None = None
    allowed_tools: tuple[str, ...] = attrs.field(default=(), converter=_words)
    disallowed_tools: tuple[str, ...] = attrs.field(default=(), converter=_words)
    permission_mode: str | None = None
    max_turns: int | None = None
    system_prompt: str | None = None
    mcp_config: str | None = None
    resume: str | None = None
    arguments: tuple[str, ...] = attrs.field(default=(), converter=_words)
    json_mode: bool = False
    json_schema: Mapping[str, Any] | None = None
    validation_prompt: str | None = None
    amend_prompt: bool = False
    expect_uuid: bool = False
    prompt_limit: int = PROMPT_LIMIT
    partial_messages: bool = True
    stream: bool = False
    progress: Told | None = attrs.field(default=None, repr=False)
    retries: Retries = Retries()
    labels: Mapping[str, str] | None = None
    lane: str | None = None
    priority: int | None = None
    on_disconnect: str = "auto"
    idempotency_key: str | None = None

    def __attrs_post_init__(self) -> None:
        for name in Given.__annotations__:
            if not accepts(name, getattr(self, name)):  # the value may be a secret
                raise UsageError(f"{name} takes {_in_words(name)}, not {type(getattr(self, name)).__name__}")
        for name in ("timeout", "stall_timeout"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name} is a number of seconds above 0, or None: {value!r}")
        if self.validation_prompt is not None and not self.validation_prompt.strip():
            raise UsageError("validation_prompt is empty", "say what makes an answer right, or leave it out")

        if self.expect_uuid and self.wants_json:
            raise UsageError("a reply that is JSON has no place for a UUID", "leave out expect_uuid, or JSON mode")

    @property
    def wants_json(self) -> bool:
        """Whether the reply has to be JSON."""
        return self.json_mode or self.json_schema is not None


def options_of(base: AgentOptions | None, given: Given) -> AgentOptions:
    """Return options of which some are replaced.

    Args:
        base: the options; None for the defaults.
        given: the replacements, by name.

    Raises:
        UsageError: an option does not exist, has a wrong value, or does not go with the others.
    """
    unknown = given.keys() - Given.__annotations__.keys()
    if unknown:
        import difflib  # noqa: PLC0415  # only a mistake pays for it

        close = difflib.get_close_matches(min(unknown), Given.__annotations__, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(Given.__annotations__)}"
        raise UsageError(f"there is no option {', '.join(map(repr, sorted(unknown)))}", hint)
    return attrs.evolve(base or AgentOptions(), **given)
