"""The interface of adapters, one for each kind of agent, and reading an agent's output through it.

Owns the interface and the reader. Must not know any particular agent.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import attrs

from ccexecd.agents.events import SOMETHING, Event, Unread
from ccexecd.agents.options import Command
from ccexecd.agents.stream import LONGEST_LINE, Document, EventLines, parse

_EVENT = re.compile(rb'^[{\[][^\n]*"type"', re.MULTILINE)
"""Matches a block of lines that has at least one event in it."""


class Shape(Enum):
    """The form of an agent's output, as its command line requests it."""

    EVENTS = "an event a line"
    LIST = "one line, at the end: a list of events, or its result"
    DOCUMENT = "one JSON object over many lines, at the end"
    TEXT = "the answer as text"
    NONE = "no conversation that it would tell of"


@attrs.frozen
class Adapter:
    """A kind of agent.

    Attributes:
        name: its name in requests, which is also that of its program.
        shape_of: called with the words of a command; returns the form of its output.
        events_of: called with one JSON object of the output; returns the events in it.
        telling: byte strings of which every significant line contains one; empty if any line may be significant. They
            lack their last quote, because a search for what ends in a rare letter is faster.
        dull: beginning of the lines that are never significant, whatever else they contain; empty if none is known.
        resumed: called with the words of a command and a session id; returns the words that resume the conversation, to
            be followed by the next prompt, or None if it cannot be resumed.
        loses_its_end: whether it exits before a pipe has taken all of its output.
        causes: the meaning of some of its exit codes, by the names of `Cause`.
    """

    name: str
    shape_of: Callable[[Sequence[str]], Shape]
    events_of: Callable[[Mapping[str, Any]], list[Event]]
    resumed: Callable[[Sequence[str], str], tuple[str, ...] | None]
    telling: tuple[bytes, ...] = ()
    dull: bytes = b""
    loses_its_end: bool = False
    causes: Mapping[int, str] = attrs.field(factory=dict)

    def resume(self, command: Command, session_id: str) -> tuple[str, ...] | None:
        """Return the words that resume a conversation; None if they cannot be told.

        Args:
            command: the command that began the conversation.
            session_id: the agent's own id of the conversation.
        """
        is_plain = bool(session_id) and not session_id.startswith("-") and session_id.isprintable()
        if not is_plain or not command.is_literal or self.shape_of(command.words) is Shape.NONE:
            return None
        return self.resumed(command.words, session_id)


class EventReader:
    """Reads an agent's standard output.

    Args:
        adapter: what is known of this kind of agent.
        shape: the form of its output.
        is_brief: whether insignificant lines are not parsed: one `SOMETHING` then stands for many of them.
        longest: bytes of the longest line, or document, that is parsed.
    """

    def __init__(
        self,
        adapter: Adapter,
        shape: Shape = Shape.EVENTS,
        *,
        is_brief: bool = False,
        longest: int = LONGEST_LINE,
    ) -> None:
        self._events_of = adapter.events_of
        self._shape = shape
        self._telling = adapter.telling if is_brief else ()
        self._dull = adapter.dull if is_brief else b""
        self._opening = (b"{", b"[") if shape is Shape.LIST else (b"{",)
        is_document = shape is Shape.DOCUMENT
        self._lines: Document | EventLines = Document(longest) if is_document else EventLines(self._opening, longest)

    def feed(self, received: bytes) -> list[Event]:
        """Take output, and return the events that it completes.

        Args:
            received: bytes of the output, cut anywhere.
        """
        return self._read(self._lines.feed(received))

    def finish(self) -> list[Event]:
        """End the output, and return the events of a last line without a line feed."""
        return self._read(self._lines.finish())

    def _read(self, found: list[bytes | Unread]) -> list[Event]:
        events: list[Event] = []
        for each in found:
            if isinstance(each, Unread):
                events.append(each)
            elif self._shape is Shape.DOCUMENT:
                self._take(each, events)
            elif self._has_events(each):
                self._read_lines(each, events)
        return events

    def _has_events(self, block: bytes) -> bool:
        return block.startswith(self._opening) or any(b"\n" + each in block for each in self._opening)

    def _read_lines(self, block: bytes, events: list[Event]) -> None:
        telling, dull = self._telling, self._dull
        if telling:
            count = block.count(b"\n" + dull) + block.startswith(dull) if dull else 0
            if count and count == block.count(b"\n"):
                _note_something(events)
                return
            if not count and not any(word in block for word in telling):
                if b'"type' in block and _EVENT.search(block):
                    _note_something(events)
                return
        was_dull = False
        for line in block.split(b"\n"):
            if dull and line.startswith(dull):
                was_dull = True
            elif line.startswith(self._opening):
                if was_dull:
                    _note_something(events)
                    was_dull = False
                if not telling or any(word in line for word in telling):
                    self._take(line, events)
                elif b'"type"' in line:
                    _note_something(events)
        if was_dull:
            _note_something(events)

    def _take(self, line: bytes, events: list[Event]) -> None:
        for each in parse(line):
            if isinstance(each, dict):
                if "type" in each or self._shape is Shape.DOCUMENT:
                    events += self._events_of(each)
            elif b'"type"' in line or self._shape is Shape.DOCUMENT:
                events.append(each)


def _note_something(events: list[Event]) -> None:
    if not events or events[-1] is not SOMETHING:
        events.append(SOMETHING)
