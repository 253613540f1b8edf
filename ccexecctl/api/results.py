"""What comes of a task.

Owns the records that callers get, and the exceptions that hold one. Must not know how they come about.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from ccexecctl.errors import CtlError
from ccexecd.agents.events import Event

KNOWN_TOKENS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


@attrs.frozen
class Usage:
    """Tokens that a task took.

    Attributes:
        input_tokens: read, without those of the cache.
        output_tokens: written.
        cache_creation_input_tokens: read, and put into the cache.
        cache_read_input_tokens: read from the cache.
        others: what else the agent counts, by its own names.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    others: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> "Usage":
        """Sort an agent's figures."""
        known = {name: counts.get(name, 0) for name in KNOWN_TOKENS}
        return cls(**known, others=tuple((name, n) for name, n in counts.items() if name not in KNOWN_TOKENS))

    def plus(self, other: "Usage") -> "Usage":
        """Both together."""
        others = dict(self.others)
        for name, count in other.others:
            others[name] = others.get(name, 0) + count
        known = {name: getattr(self, name) + getattr(other, name) for name in KNOWN_TOKENS}
        return Usage(**known, others=tuple(others.items()))

    @property
    def total_tokens(self) -> int:
        """All tokens that were read or written."""
        return sum(getattr(self, name) for name in KNOWN_TOKENS)


@attrs.frozen
class Validation:
    """What a fresh agent says of an answer.

    Attributes:
        is_valid: whether it is right.
        reason: why, or why not.
        execution_uuid: of the execution that judged.
    """

    is_valid: bool
    reason: str
    execution_uuid: str


@attrs.frozen
class AgentResult:
    """What comes of a task.

    Attributes:
        execution_uuid: by which the daemon knows the execution: `ccexecctl logs UUID`. Of several attempts, the last.
        session_id: the agent's own name for the conversation, for `resume=`; empty if it gave none.
        timestamp: when it was begun: ISO 8601, UTC.
        task: what the agent was asked, as it was given.
        output: all that the agent said, also when it was cut off in the middle.
        result: the answer: text, or in JSON mode the value; None when there is none.
        error: what went wrong, in a sentence; None when nothing has.
        suggestion: what to do about it; empty where nothing is known.
        verdict: how it went, in a word: `success`, `rate_limited`, `token_limit`, `truncated`, `timeout`, …
        return_code: the agent's exit code, -N after signal N; None when that is not known.
        reason: why the execution ended (docs/protocol.md): `exited`, `timeout`, `cancelled`, `lost`, …
        execution_time: seconds from the beginning to the end of all attempts.
        usage: tokens.
        cost: US dollars; None if the agent did not say.
        files_created: paths that the agent has written as new files by its own tool, in order. What its shell commands
            made is not known.
        partial: it was cut off: output and events are what there was until then.
        model: which model answered; empty if the agent did not say.
        turns: how often the model was asked.
        stderr: the end of the agent's error output.
        events: what the agent reported, in order.
        attempts: how often the agent was started for this.
        warnings: what is doubtful in the task, and what was noticed on the way.
        dropped_bytes: output that the daemon no longer had; 0 unless a reader was away for very long.
        validation: what was said of the answer; None where nobody was asked.
        amended_task: the task as the agent was really given it; None if that was not changed.
    """

    execution_uuid: str
    session_id: str
    timestamp: str
    task: str
    output: str
    result: Any
    error: str | None
    suggestion: str
    verdict: str
    return_code: int | None
    reason: str
    execution_time: float
    usage: Usage = Usage()
    cost: float | None = None
    files_created: tuple[str, ...] = ()
    partial: bool = False
    model: str = ""
    turns: int = 0
    stderr: str = attrs.field(default="", repr=False)
    events: tuple[Event, ...] = attrs.field(default=(), repr=False)
    attempts: int = 1
    warnings: tuple[str, ...] = ()
    dropped_bytes: int = 0
    validation: Validation | None = None
    amended_task: str | None = None

    @property
    def is_success(self) -> bool:
        """Whether the agent did what it was asked, as far as it can be told."""
        return self.error is None

    def check(self) -> "AgentResult":
        """Itself, if it is a success.

        Raises:
            AgentError: it is not.
        """
        if self.error is not None:
            raise AgentError(self)
        return self

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold of it: everything but the events."""
        told = attrs.asdict(self, filter=lambda field, _: field.name != "events")
        told["usage"]["others"] = dict(self.usage.others)
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "AgentResult":
        """The same again from what `as_dict` has told; without its events."""
        values = {field.name: told[field.name] for field in attrs.fields(cls) if field.name in told}
        for name in ("files_created", "warnings"):
            values[name] = tuple(values.get(name, ()))
        usage = dict(values["usage"])
        values["usage"] = Usage(**{**usage, "others": tuple(usage["others"].items())})
        values["validation"] = Validation(**values["validation"]) if values.get("validation") else None
        return cls(**values)


class AgentError(CtlError):
    """A task has failed.

    Attributes:
        result: what came of it.
    """

    name = "AGENT_FAILED"

    def __init__(self, result: AgentResult) -> None:
        super().__init__(result.error or "the task has failed", result.suggestion)
        self.result = result
        self.facts["result"] = result.as_dict()


class JsonReplyError(AgentError):
    """An agent's reply is not the JSON that was asked for, not even when it was asked again.

    Attributes:
        raw: the reply as it came.
        problem: what is wrong with it.
    """

    name = "NOT_JSON"

    def __init__(self, result: AgentResult, raw: str, problem: str) -> None:
        super().__init__(result)
        self.raw = raw
        self.problem = problem


class InterruptedTaskError(KeyboardInterrupt):
    """Ctrl-C, with what there was until then.

    Attributes:
        result: that.
    """

    def __init__(self, result: AgentResult) -> None:
        super().__init__("interrupted")
        self.result = result
