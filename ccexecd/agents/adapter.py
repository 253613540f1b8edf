"""What is known of a kind of agent: the face that all of them have here.

Owns the face, and reading an output through it. Must not know any agent.
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

"""Events of which nothing more is known than that there were some."""


class Shape(Enum):
    """How an agent prints what it does, as its command line says."""

    EVENTS = "an event a line"
    LIST = "one line, at the end: a list of events, or its result"
    DOCUMENT = "one JSON object over many lines, at the end"
    TEXT = "the answer as text"
    NONE = "no conversation that it would tell of"


@attrs.frozen
class Adapter:
    """A kind of agent.

    Attributes:
        name: as requests name it; also the name of its program.
        shape_of: how a command prints.
        events_of: the events that one JSON object stands for.
        telling: what a line holds that says more than that something happened; empty if every line may. Words without
            their last quote: what ends in a rare letter is found sooner.
        dull: how most lines begin, where they say no more, whatever else they hold; empty if nothing is known of that.
        resumed: the words that go on with a conversation, up to the next prompt, which comes behind them; None if that
            cannot be had.
        loses_its_end: whether it exits before a pipe has taken all that it wrote.
        causes: what some of its exit codes mean, by the names of `Cause`.
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
        """The words that go on with a conversation; None if they cannot be known.

        Args:
            command: what has begun it.
            session_id: its name.
        """
        is_plain = bool(session_id) and not session_id.startswith("-") and session_id.isprintable()
        if not is_plain or not command.is_literal or self.shape_of(command.words) is Shape.NONE:
            return None
        return self.resumed(command.words, session_id)


class EventReader:
    """Reads an agent's standard output.

    Args:
        adapter: which kind of agent it is.
        shape: how it prints.
        is_brief: whether lines that say no more than that something happened may be told of as `SOMETHING`, once for
            many of them. It saves the parsing.
        longest: bytes of a line, or of a document, that are waited for.
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
        """Read on.

        Args:
            received: what it wrote, cut anywhere.

        Returns:
            What it has reported.
        """
        return self._read(self._lines.feed(received))

    def finish(self) -> list[Event]:
        """It will write no more. Returns what the last line reported, if that had no line feed."""
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
