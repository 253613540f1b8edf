"""How a task is to be done: everything that may be said with it.

Owns the options, and what is wrong with them before anything is started. Must not know how an agent is called.
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
"""Bytes of a prompt: about the 200,000 tokens that a model reads at once, at four bytes a token."""


class Kind(Enum):
    """What an update of the progress is about."""

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
    """How a task gets on.

    Attributes:
        kind: what this is about.
        message: the same in words, on one line.
        elapsed: seconds since the task was begun.
    """

    kind: Kind
    message: str
    elapsed: float

    def __str__(self) -> str:
        return self.message


Told = Callable[[Progress], Awaitable[object] | object]
"""Called with each update; what it returns is awaited if it can be. What it raises ends the task."""


@attrs.frozen
class Retries:
    """How often an agent is asked again whose model is overloaded or whose account is at a limit.

    Attributes:
        most: attempts beyond the first; 0 for none.
        first: seconds before the first of them, before jitter; each following one waits twice as long.
        longest: seconds that no wait exceeds, but for the time at which a limit is said to end.
        patience: seconds that such a time may be away. Later than that, the result says so instead.
    """

    most: int = 3
    first: float = 5.0
    longest: float = 120.0
    patience: float = 900.0


class Given(TypedDict, total=False):
    """The options as keyword arguments; `AgentOptions` says what each means."""

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
"""What an option takes."""


def accepts(name: str, value: object) -> bool:
    """Whether an option takes a value of this type.

    Args:
        name: of an option that exists.
        value: what is proposed.
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
    """One word or several as a tuple; what is neither stays, and is refused with the others."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else value


@attrs.frozen(kw_only=True)
class AgentOptions:
    """How a task is to be done.

    Attributes:
        agent: which agent does it: `claude`, `codex` or `gemini`.
        program: the words that start it, where that is not the agent's name on the daemon's PATH.
        model: which model; None for the agent's own choice.
        cwd: where it works. None is this process's directory for the daemon of this machine, else the daemon's choice.
        env: environment variables for it, besides the daemon's.
        timeout: seconds of wall time after which it is ended, and the result is partial; None leaves it to the daemon.
        stall_timeout: seconds without a byte of output after which it is ended. Silence is normal for agents.
        allowed_tools: tools that it may use unasked.
        disallowed_tools: tools that it may not use.
        permission_mode: what else it may do, in its own word, such as `acceptEdits` or `bypassPermissions`.
        max_turns: how often it may ask its model.
        system_prompt: what is added to its system prompt.
        mcp_config: file, or JSON, that names MCP servers for it.
        resume: session id of the conversation that it is to go on with.
        arguments: further words for its command line, as they are.
        json_mode: the reply is to be a JSON object or list, which becomes the `result`.
        json_schema: JSON Schema that the reply has to conform to; implies `json_mode`.
        validation_prompt: what a fresh agent is to judge the answer by; `{task}` and `{response}` in it are replaced.
        amend_prompt: a fresh agent first rewrites the task so that it cannot be misunderstood.
        expect_uuid: the agent is to end its reply with a UUID that is made up for it, and the execution's receipt says
            whether it has (docs/evidence.md); not in JSON mode, whose reply is nothing but JSON.
        prompt_limit: bytes of the longest prompt that is sent.
        partial_messages: have what it says while it says it, not sentence by sentence: so nothing is missing when it is
            cut off. It costs some 50 times the output; Claude Code 1.0.60 does not know it.
        stream: print what the agent says, the moment it does, to stdout.
        progress: told how it gets on.
        retries: how often it is tried again when the model is overloaded or the account at a limit.
        labels: marks of its executions, for `list` and `ccexecctl ps`.
        lane: the lane that it waits its turn in.
        priority: it begins before what waits with a lower one.
        on_disconnect: what a lost client means for it: `auto`, `cancel` or `detach` (docs/protocol.md).
        idempotency_key: by which a repeated call means the same execution; None for a new one.
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
    """Options with some of them changed.

    Raises:
        UsageError: one of them does not exist, or does not go with the others.
    """
    unknown = given.keys() - Given.__annotations__.keys()
    if unknown:
        import difflib  # noqa: PLC0415  # only a mistake pays for it

        close = difflib.get_close_matches(min(unknown), Given.__annotations__, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(Given.__annotations__)}"
        raise UsageError(f"there is no option {', '.join(map(repr, sorted(unknown)))}", hint)
    return attrs.evolve(base or AgentOptions(), **given)
