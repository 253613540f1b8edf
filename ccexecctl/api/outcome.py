"""Combines an agent's report and the daemon's `process.completed` into the result of a run.

Owns adding these up. Must not do any I/O.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from ccexecctl.api.results import AgentResult, Usage
from ccexecctl.errors import CtlError, UsageError
from ccexecd.agents.adapter import Adapter, Shape
from ccexecd.agents.conversation import Conversation
from ccexecd.agents.events import SUMMARY, Delta, Event, Text, ToolResult, ToolUse
from ccexecd.agents.recognition import NAMES, agent_named
from ccexecd.agents.stream import LONGEST_LINE
from ccexecd.agents.verdict import Cause, Verdict, judge, judge_result

STDERR_KEPT = 16 * 1024
"""Bytes of error output that are kept, the last ones."""

LOST = "connection_lost"
"""Verdict on a run whose end is not known, since the connection was lost."""

ENDINGS = {
    "timeout": ("it ran for longer than it was allowed", "give it a longer timeout, or ask for less at a time"),
    "stalled": ("it wrote nothing for longer than it was allowed", "give it a longer stall_timeout, or none"),
    "cancelled": ("it was cancelled", ""),
    "disconnected": ("its client went away", 'on_disconnect="detach" lets it go on'),
    "session_expired": ("its client was away for too long", 'on_disconnect="detach" lets it go on'),
    "shutdown": ("the daemon was stopped", "run it again"),
    "lost": ("the daemon that ran it has died", "run it again; why it died: its log"),
    "limit": ("it went beyond one of its limits", "which one: ccexecctl status"),
    "spawn_failed": ("it could not be started when its turn came", "why: ccexecctl status"),
}
"""Error and suggestion for each reason by which an execution is ended from outside."""

WRITES_FILES = {"Write", "NotebookEdit", "write_file"}
"""Tools of agents that write a file; the summary of such a `ToolUse` is the file's path."""


def adapter_of(agent: str) -> Adapter:
    """Return the adapter of an agent.

    Raises:
        UsageError: there is no agent of this name.
    """
    adapter = agent_named([agent])
    if adapter is None:
        known = ", ".join(sorted(NAMES))
        raise UsageError(f"there is no agent {agent!r}, only {known}", "others: ccexecctl run -- COMMAND")
    return adapter


@attrs.define
class Record:
    """All that is known of a run.

    Attributes:
        task: the task, as the caller gave it.
        adapter: what is known of this kind of agent.
        execution_uuid: id of the execution.
        was_known: the request had been sent before, and the execution had ended when it was sent again.
        timeout: time-out in seconds; None for none.
        timeout_source: where the time-out comes from, as the daemon says.
        begun: when it began, in seconds on the clock of the event loop.
        timestamp: when it began: ISO 8601, UTC.
        conversation: the events added up.
        events: all events.
        unseen: events that the caller has not taken yet.
        said: finished pieces of its answers.
        saying: the unfinished piece.
        stderr: the end of its standard error.
        dropped_bytes: bytes of output that are lost.
        ending: the params of `process.completed`; empty before.
        lost: why its end cannot be known; None otherwise.
        is_over: whether nothing more will be known.
        elapsed: seconds that it took.
        files: paths of the files that the agent has written, in order; the values are None.
    """

    task: str
    adapter: Adapter
    execution_uuid: str = ""
    was_known: bool = False
    timeout: float | None = None
    timeout_source: str = ""
    begun: float = 0.0
    timestamp: str = ""
    conversation: Conversation = attrs.field(factory=Conversation)
    events: list[Event] = attrs.field(factory=list)
    unseen: deque[Event] = attrs.field(factory=deque)
    said: list[str] = attrs.field(factory=list)
    saying: list[str] = attrs.field(factory=list)
    stderr: bytes = b""
    dropped_bytes: int = 0
    ending: Mapping[str, Any] = attrs.field(factory=dict)
    lost: CtlError | None = None
    is_over: bool = False
    elapsed: float = 0.0
    _writing: dict[str, str] = attrs.field(factory=dict)
    files: dict[str, None] = attrs.field(factory=dict)

    def take(self, events: Iterable[Event]) -> None:
        """Add events that the agent has reported."""
        for event in events:
            self.conversation.take(event)
            self.unseen.append(event)
            match event:
                case Delta():
                    if not event.is_thinking:
                        self.saying.append(event.text)
                    continue  # the finished piece is kept
                case Text() if not event.parent:
                    self.said.append(event.text)
                    self.saying.clear()
                case ToolUse() if event.name in WRITES_FILES and len(event.summary) < SUMMARY:
                    self._writing[event.id] = event.summary
                case ToolResult() if not event.is_error and event.id in self._writing:
                    self.files[self._writing.pop(event.id)] = None
            self.events.append(event)

    def complain(self, text: bytes) -> None:
        """Add standard error."""
        self.stderr = (self.stderr + text)[-STDERR_KEPT:]

    def end(self, ending: Mapping[str, Any], now: float) -> None:
        """Note that it has ended; `ending` is the params of `process.completed`."""
        self.ending = ending
        self.elapsed = ending["duration"] if self.was_known and "duration" in ending else now - self.begun
        self.is_over = True

    def lose(self, why: CtlError) -> None:
        """Note that nothing more can be known of it."""
        self.lost = why
        self.is_over = True

    @property
    def verdict(self) -> Verdict:
        """The verdict by the agent's own report and its exit code."""
        exit_code, complaint = self.ending.get("exit_code"), self.complaint
        return judge(self.adapter, Shape.EVENTS, exit_code, self.conversation, complaint=complaint)

    @property
    def has_answered(self) -> bool:
        """Whether its last turn succeeded, however its process ended after that."""
        result = self.conversation.result
        is_done = result is not None and not self.conversation.is_open
        return is_done and judge_result(result, self.conversation).is_success  # type: ignore[arg-type]

    @property
    def complaint(self) -> str:
        """Its standard error as text."""
        return self.stderr.decode(errors="replace")


def result_of(record: Record) -> AgentResult:
    """Return the result of a run, which may still be going on."""
    conversation = record.conversation
    verdict, error, suggestion, warnings = _told(record)
    answer = conversation.result
    unfinished = ["".join(record.saying)] if record.saying else []
    return AgentResult(
        execution_uuid=record.execution_uuid,
        session_id=conversation.session_id,
        timestamp=record.timestamp,
        task=record.task,
        output="\n\n".join([*record.said, *unfinished]),
        result=answer.text or "\n\n".join(record.said[-1:]) if answer is not None and error is None else None,
        error=error,
        suggestion=suggestion,
        verdict=verdict,
        return_code=record.ending.get("exit_code"),
        reason=record.ending.get("reason", ""),
        execution_time=record.elapsed,
        usage=Usage.of(conversation.usage),
        cost=conversation.cost,
        files_created=tuple(record.files),
        partial=answer is None or conversation.is_open,
        model=conversation.model,
        turns=conversation.turns,
        stderr=record.complaint,
        events=tuple(record.events),
        warnings=warnings,
        dropped_bytes=record.dropped_bytes,
    )


def _told(record: Record) -> tuple[str, str | None, str, tuple[str, ...]]:
    """Return verdict, error, suggestion and warnings of a run."""
    reason = record.ending.get("reason", "")
    if not record.is_over:
        return "running", "it has not ended yet", "", ()
    if record.lost is not None:
        return LOST, f"how it ended is not known: {record.lost}", record.lost.hint, ()
    if reason in ENDINGS:
        what, advice = ENDINGS[reason]
        if reason == "timeout" and record.timeout is not None:
            what += f": {record.timeout:g} s ({record.timeout_source})"
        if record.has_answered:
            return Cause.SUCCESS.value, None, "", (f"it stayed after its answer, until {what}",)
        return reason, what, advice, ()
    verdict, unread = record.verdict, _unread(record)
    if verdict.is_success:
        return verdict.cause.value, None, "", unread
    if record.has_answered:  # what it said of itself is no reason
        words = f"{_ending(record)}, though its result was good"
    else:
        words = verdict.text.strip() or record.complaint.strip()[-500:] or _ending(record)
    return verdict.cause.value, words, verdict.advice, unread


def _ending(record: Record) -> str:
    """Say in words how the agent's program ended."""
    code = record.ending.get("exit_code")
    if not code:
        return "it ended without a result that could be read"
    return f"signal {-code} ended it" if code < 0 else f"it exited with code {code}"


def _unread(record: Record) -> tuple[str, ...]:
    """Return a warning if something that the agent said is missing from the result."""
    longest = LONGEST_LINE // (1024 * 1024)
    where = f"all of it: ccexecctl logs {record.execution_uuid}"
    return (f"a line of more than {longest} MiB was not read; {where}",) if record.conversation.has_unread else ()
