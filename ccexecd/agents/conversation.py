"""The state of an agent's run, added up from its events.

Owns adding events up. Must not judge how the run went (`verdict`), nor know which agent it is.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import attrs

from ccexecd.agents.events import (
    MOST_COUNTS,
    ApiRetry,
    Delta,
    Event,
    Failure,
    Init,
    Interrupted,
    Other,
    RateLimit,
    Result,
    Task,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    Unread,
)

MOST_IN_FLIGHT = 1000
"""Most tools and tasks that are remembered as running, the newest: an agent may never report their ends."""

MOST_COUNTED = 10**18
"""Upper bound of every sum: whatever an agent reports, it fits into 64 bits, which is what JSON and SQLite take."""


@attrs.define
class Conversation:
    """One run of an agent.

    Attributes:
        session_id, model, version, cwd, permission_mode: as the agent said last; empty if it has not.
        result: how its last turn ended; None before that.
        is_open: whether another turn has begun since.
        turns: how often the model was asked.
        cost: US dollars so far; None if it was not reported.
        usage: tokens so far, by kind.
        tools: tools in flight, by id.
        tasks: background tasks that run, by id.
        tool_uses: how often tools were used.
        denied: names of the tools that were not allowed, one for each attempt.
        retry: the failed request to the API that is being retried; None if there is none.
        limit: the latest report on the account's rate limit; None if there was none.
        failure: the latest failure that was reported outside of a result; None if there was none.
        was_interrupted: whether somebody stopped its last turn.
        has_unread: whether a line could not be parsed that may have been the result of its last turn.
        events: number of events; those that `SOMETHING` stands for are not counted one by one.
    """

    session_id: str = ""
    model: str = ""
    version: str = ""
    cwd: str = ""
    permission_mode: str = ""
    result: Result | None = None
    is_open: bool = False
    turns: int = 0
    cost: float | None = None
    usage: Counter[str] = attrs.field(factory=Counter)
    tools: dict[str, ToolUse] = attrs.field(factory=dict)
    tasks: dict[str, Task] = attrs.field(factory=dict)
    tool_uses: int = 0
    denied: list[str] = attrs.field(factory=list)
    retry: ApiRetry | None = None
    limit: RateLimit | None = None
    failure: Failure | None = None
    was_interrupted: bool = False
    has_unread: bool = False
    events: int = 0
    _denied_in_turn: list[str] = attrs.field(factory=list)

    @classmethod
    def of(cls, events: Iterable[Event]) -> "Conversation":
        """Return the conversation of some events."""
        conversation = cls()
        for event in events:
            conversation.take(event)
        return conversation

    @property
    def is_busy(self) -> bool:
        """Whether a tool is in flight, or something goes on in the background."""
        return bool(self.tools or self.tasks)

    def take(self, event: Event) -> None:
        """Add an event."""
        self.events += 1
        if isinstance(event, _TOOLS):
            self._take_tools(event)
            return
        match event:
            case Text() | Thinking() | Delta() | Other(type=""):  # or `SOMETHING`: it answers
                self.retry = None
            case Init():
                self._begin(event)
            case Result():
                self._end(event)
            case ApiRetry():
                self.retry = event
            case RateLimit():
                self.limit = event
            case Failure():
                self.failure = event
            case Interrupted():
                self.was_interrupted = True
            case Unread(is_too_long=True):
                self.has_unread = True
            case _:
                pass

    def _take_tools(self, event: ToolUse | ToolResult | Task) -> None:
        match event:
            case ToolUse():
                self.retry = None
                self.tool_uses += 1
                _remember(self.tools, event.id, event)
            case ToolResult():
                used = self.tools.pop(event.id, None)
                if event.is_denied and len(self._denied_in_turn) < MOST_IN_FLIGHT:
                    self._denied_in_turn.append(used.name if used is not None else "")
            case Task(is_running=True):
                _remember(self.tasks, event.id, event)
            case Task():
                self.tasks.pop(event.id, None)

    def _begin(self, event: Init) -> None:
        self.session_id = event.session_id or self.session_id
        self.model = event.model or self.model
        self.version = event.version or self.version
        self.cwd = event.cwd or self.cwd
        self.permission_mode = event.permission_mode or self.permission_mode
        self.is_open = True
        self.has_unread = False
        self.failure = None
        self.was_interrupted = False

    def _end(self, event: Result) -> None:
        self.result = event
        self.is_open = False
        self.retry = None
        self.tools = {}  # a turn that has ended waits for none
        self.session_id = event.session_id or self.session_id
        self.turns = min(self.turns + max(event.turns or 0, 0), MOST_COUNTED)
        self.cost = event.cost if event.cost is not None else self.cost
        for name, count in event.usage.items():
            if count > 0 and (name in self.usage or len(self.usage) < MOST_COUNTS):
                self.usage[name] = min(self.usage[name] + count, MOST_COUNTED)
        self.denied += event.denied or self._denied_in_turn  # the result tells them again
        del self.denied[MOST_IN_FLIGHT:]
        self._denied_in_turn = []


_TOOLS = (ToolUse, ToolResult, Task)


def _remember(kept: dict[str, Any], key: str, value: Any) -> None:
    kept[key] = value
    if len(kept) > MOST_IN_FLIGHT:
        del kept[next(iter(kept))]
