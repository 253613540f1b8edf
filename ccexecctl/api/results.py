"""The result of a task.

Owns the records that callers get, and the exceptions that hold one. Must not know how a result is made.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from ccexecctl.errors import CtlError
from ccexecd.agents.events import Event

KNOWN_TOKENS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
"""Kinds of tokens that have a field in `Usage`; the names are those of Claude's API."""


@attrs.frozen
class Usage:
    """Numbers of tokens that a task took.

    Attributes:
        input_tokens: read by the model, without those of the cache.
        output_tokens: written by the model.
        cache_creation_input_tokens: read, and put into the cache.
        cache_read_input_tokens: read from the cache.
        others: further kinds that the agent counts: its own name of each, and the number.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    others: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> "Usage":
        """Make a record of an agent's figures: name -> number of tokens."""
        known = {name: counts.get(name, 0) for name in KNOWN_TOKENS}
        return cls(**known, others=tuple((name, n) for name, n in counts.items() if name not in KNOWN_TOKENS))

    def plus(self, other: "Usage") -> "Usage":
        """Return the sum of two records."""
        others = dict(self.others)
        for name, count in other.others:
            others[name] = others.get(name, 0) + count
        known = {name: getattr(self, name) + getattr(other, name) for name in KNOWN_TOKENS}
        return Usage(**known, others=tuple(others.items()))

    @property
    def total_tokens(self) -> int:
        """Number of all tokens that were read or written, without `others`."""
        return sum(getattr(self, name) for name in KNOWN_TOKENS)


@attrs.frozen
class Validation:
    """The judgement of a fresh agent on an answer.

    Attributes:
        is_valid: whether the answer is right.
        reason: why, or why not.
        execution_uuid: UUID of the execution that judged.
    """

    is_valid: bool
    reason: str
    execution_uuid: str


@attrs.frozen
class AgentResult:
    """The result of a task.

    A task may take several executions: attempts, a second question for JSON, a rewriting and a judging agent. Figures
    are sums over all of them (`execution_time`, `usage`, `cost`, `turns`, `attempts`); the other fields are about the
    execution that gave the answer.

    Attributes:
        execution_uuid: UUID of the execution: `ccexecctl logs UUID`.
        session_id: the agent's id of the conversation, for `resume=`; empty if it gave none.
        timestamp: when the first execution was begun: ISO 8601, UTC.
        task: the task, as the caller gave it.
        output: all that the agent said, without its sub-agents, also if it was cut off in the middle.
        result: the answer: text, or in JSON mode the value; None if there is none.
        error: what went wrong, in a sentence; None if nothing has.
        suggestion: what to do about the error; empty if nothing is known.
        verdict: how the task went, in a word: `success`, `rate_limited`, `token_limit`, `truncated`, `timeout`, …
        return_code: the agent's exit code, -N after signal N; None if it is not known.
        reason: why the execution ended (docs/protocol.md): `exited`, `timeout`, `cancelled`, `lost`, …
        execution_time: seconds that the executions took, without the waits between them.
        usage: numbers of tokens.
        cost: US dollars; None if the agent did not report any.
        files_created: paths of files that the agent has written with its own tools, in order. Files that its shell
            commands made are not known.
        partial: whether the agent was cut off: `output` and `events` are what it had reported until then.
        model: the model that answered; empty if the agent did not report it.
        turns: turns, as the agent counts them.
        stderr: the end of the agent's standard error, 16 KiB at most.
        events: the agent's reports, in order.
        attempts: number of executions.
        warnings: what is doubtful in the task, and what was noticed on the way.
        dropped_bytes: bytes of output that the daemon no longer had; 0 unless this client was away for very long.
        validation: the judgement on the answer; None without one.
        amended_task: the task as a fresh agent rewrote it, which is what was done; None if it was not rewritten.
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
        """Whether the task succeeded, as far as can be known: there is no `error`."""
        return self.error is None

    def check(self) -> "AgentResult":
        """Return this result if it is a success.

        Raises:
            AgentError: it is not.
        """
        if self.error is not None:
            raise AgentError(self)
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return all fields but `events` as values that JSON can hold."""
        told = attrs.asdict(self, filter=lambda field, _: field.name != "events")
        told["usage"]["others"] = dict(self.usage.others)
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "AgentResult":
        """Make a result, which has no events, of what `as_dict` has returned.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: `told` is something else.
        """
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
        result: the result, with `error` set.
    """

    name = "AGENT_FAILED"

    def __init__(self, result: AgentResult) -> None:
        super().__init__(result.error or "the task has failed", result.suggestion)
        self.result = result
        self.facts["result"] = result.as_dict()


class JsonReplyError(AgentError):
    """Neither the first nor the second reply of an agent is the JSON that was asked for.

    Attributes:
        raw: the second reply, as it came.
        problem: what is wrong with that reply.
    """

    name = "NOT_JSON"

    def __init__(self, result: AgentResult, raw: str, problem: str) -> None:
        super().__init__(result)
        self.raw = raw
        self.problem = problem


class InterruptedTaskError(KeyboardInterrupt):
    """Ctrl-C was pressed while a task was under way; its agent has been cancelled.

    Attributes:
        result: the result until then.
    """

    def __init__(self, result: AgentResult) -> None:
        super().__init__("interrupted")
        self.result = result
