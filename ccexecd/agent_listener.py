"""The listener of an execution that is an agent: reads the agent's own report, and passes it on.

Joins the readers of `agents` with an execution. Owns what becomes of a report: facts for `status` and the history, a
verdict at the end, the final result for `post_result_grace`, notifications of limits that were reached, and whether a
silent agent is at work. Must not decide anything about the execution.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime

from ccexecd.agents.adapter import Adapter, EventReader, Shape
from ccexecd.agents.conversation import Conversation
from ccexecd.agents.events import Event, Result
from ccexecd.agents.final_result import FinalResultReader
from ccexecd.agents.recognition import agent_of, command_of
from ccexecd.agents.report import facts_of, limit_reached
from ccexecd.agents.verdict import Cause, Verdict, judge, judge_result
from ccexecd.core.entries import Stream
from ccexecd.core.execution import Reason
from ccexecd.process.execution import Execution
from ccexecd.process.final_result import ResultWatch
from ccexecd.process.listening import Listener

LONGEST_LINE = 8 * 1024 * 1024
"""Bytes of the longest line that is parsed, which holds the event loop up for some 10 ms. Models answer with less than
a mebibyte; longer lines are results of tools."""

SAID = 2048
"""Bytes of a textual output that are kept, the first ones: an agent that fails prints its error and nothing else."""

COMPLAINT = 4096
"""Bytes of standard error that are kept, the last ones."""

_OWN_END = (Reason.EXITED, Reason.SIGNALED, Reason.POST_RESULT)
"""Reasons of an end from which the agent is judged; with any other reason, somebody else ended it."""

_ENDED_BY_US = -15
"""The exit code that stands for those other reasons when the agent is judged: ended by TERM."""


def listen_to_agent(execution: Execution) -> Listener | None:
    """A listener for an execution that is an agent; None for any other command."""
    adapter = agent_of(execution.spec)
    return AgentListener(execution, adapter) if adapter is not None else None


class AgentListener(Listener):
    """Listens to one agent.

    Args:
        execution: the execution that the agent runs as.
        adapter: what is known of this kind of agent.
    """

    reads = ("stdout", "stderr")

    def __init__(self, execution: Execution, adapter: Adapter) -> None:
        spec = execution.spec
        self._command = command_of(spec)
        self._shape = adapter.shape_of(self._command.words)
        self._adapter = adapter
        self._execution: Execution | None = execution
        self._reader: EventReader | None = EventReader(adapter, self._read_as(), is_brief=True, longest=LONGEST_LINE)
        self._conversation = Conversation()
        self._final_result = FinalResultReader(adapter.name)
        self._last_event_at: float | None = None
        self._said = self._complaint = b""
        self._told: set[Cause] = set()
        self._verdict: Verdict | None = None
        self._final: Mapping[str, object] | None = None
        self._resume: tuple[str, tuple[str, ...] | None] = ("", None)
        self.understands_silence = self._shape is Shape.EVENTS
        if self.understands_silence:
            execution.signs_of_life = ("stdout",)  # its report is there; warnings on stderr are no progress
        if spec.post_result_grace is not None:
            execution.final_result = ResultWatch()

    def _read_as(self) -> Shape:
        return self._shape if self._shape in (Shape.LIST, Shape.DOCUMENT) else Shape.EVENTS

    def has_output(self, stream: Stream, received: bytes) -> None:
        """Parse what a read has brought; of standard error, keep the end."""
        if stream == "stderr":
            self._complaint = (self._complaint + received)[-COMPLAINT:]
            return
        if self._shape is Shape.TEXT and len(self._said) < SAID:
            self._said += received[: SAID - len(self._said)]
            if not self._said.startswith(b"{"):  # plain text, not events
                self._reader = None
        if self._reader is not None:
            self._take(self._reader.feed(received))

    def is_at_work(self) -> bool:
        """Whether a tool is in flight, or something goes on in the background."""
        return self._conversation.is_busy

    def is_ending(self) -> None:
        """Parse the last line, and notify of a limit that was reached and that no result has reported."""
        if self._reader is not None:
            self._take(self._reader.finish())
        execution = self._execution
        if execution is None or execution.intent is not None or execution.leader is None or not self._is_judged:
            return
        exited = execution.leader.exit
        self._tell_limit(self._judged(exited.code if exited is not None else None))

    def has_ended(self) -> None:
        """Judge the run, keep the final facts, and release the execution and its output."""
        self._judge()
        self._final = self.facts()
        self._execution = self._reader = None
        self._conversation, self._said, self._complaint = Conversation(), b"", b""

    def facts(self) -> Mapping[str, object]:
        """What is known of the conversation, as the field `agent`."""
        if self._final is not None:
            return self._final
        known = self._conversation
        if self._resume[0] != known.session_id:
            self._resume = known.session_id, self._adapter.resume(self._command, known.session_id)
        facts = facts_of(self._adapter.name, known, self._verdict, self._resume[1])
        at = self._last_event_at
        return {
            "agent": {**facts, "last_event_at": None if at is None else datetime.fromtimestamp(at, UTC).isoformat()}
        }

    def final_facts(self) -> Mapping[str, object]:
        """The same facts, with the verdict."""
        self._judge()
        return self.facts()

    # Reading

    def _take(self, events: list[Event]) -> None:
        if not events:
            return
        self._last_event_at = time.time()
        for event in events:
            self._conversation.take(event)
            if self._final_result.take(event):
                self._note_result()
            if isinstance(event, Result):
                self._heed_limit(event)

    def _note_result(self) -> None:
        execution = self._execution
        if execution is not None and execution.final_result is not None:
            execution.final_result.note(self._final_result.result, execution.clock.now)

    def _heed_limit(self, result: Result) -> None:
        if result.is_error or result.subtype != "success":
            self._tell_limit(judge_result(result, self._conversation))
        else:
            self._told.clear()

    def _tell_limit(self, verdict: "Verdict") -> None:
        """Notify of a limit that was reached: once for each cause, until a turn succeeds."""
        execution = self._execution
        if execution is None or verdict.cause in self._told:
            return
        self._told.add(verdict.cause)
        reached = limit_reached(self._adapter.name, verdict, execution.session_id, time.time())
        if reached is not None:
            execution.note(*reached)

    # Judging

    @property
    def _is_judged(self) -> bool:
        """Whether its end can be judged: it has reported events, or all output of the command line is the agent's."""
        return bool(self._conversation.events) or (self._shape is not Shape.NONE and self._command.is_all)

    def _judge(self) -> None:
        execution = self._execution
        if execution is None or execution.outcome is None or execution.leader is None or self._verdict is not None:
            return
        if self._is_judged:
            outcome = execution.outcome
            self._verdict = self._judged(outcome.exit_code if outcome.reason in _OWN_END else _ENDED_BY_US)

    def _judged(self, exit_code: int | None) -> "Verdict":
        said, complaint = (text.decode("utf-8", "replace") for text in (self._said, self._complaint))
        return judge(self._adapter, self._shape, exit_code, self._conversation, said=said, complaint=complaint)
