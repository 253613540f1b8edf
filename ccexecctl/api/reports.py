"""Reports the progress of a task, to the caller's callback and on standard output.

Owns the words of the progress, and what is printed live. Must not decide anything.
"""

import sys
from inspect import isawaitable

import anyio

from ccexecctl.api.options import AgentOptions, Kind, Progress
from ccexecctl.render import printable
from ccexecd.agents.events import ApiRetry, Delta, Event, Init, Text, Thinking, ToolUse

THINKING_INTERVAL = 2.0
"""Seconds of silence after which an update says that the agent still thinks."""

EXCERPT = 100
"""Characters of an agent's words in an update; the rest is cut off."""


class Reports:
    """Reports on one task.

    Args:
        options: the task's options, with the callback (`progress`) and whether to print (`stream`).
    """

    def __init__(self, options: AgentOptions) -> None:
        self._told = options.progress
        self._prints = options.stream
        self._begun = anyio.current_time()
        self._is_within_line = False

    @property
    def interval(self) -> float | None:
        """Seconds of silence after which `silence` is to be called; None for never."""
        return THINKING_INTERVAL if self._told is not None else None

    @property
    def elapsed(self) -> float:
        """Seconds since the task was begun."""
        return anyio.current_time() - self._begun

    async def tell(self, kind: Kind, message: str) -> None:
        """Call the callback with an update."""
        if self._told is None:
            return
        answer = self._told(Progress(kind, message, self.elapsed))
        if isawaitable(answer):
            await answer

    async def silence(self) -> None:
        """Report that the agent has said nothing for a while, which is normal."""
        await self.tell(Kind.THINKING, f"thinking ({self.elapsed:.0f} s)")

    async def event(self, event: Event) -> None:
        """Report an event of the agent."""
        if self._prints:
            self._print(event)
        match event:
            case Init() if event.model:
                await self.tell(Kind.STARTED, f"{event.model} has begun")
            case Thinking(text=text):
                await self.tell(Kind.THINKING, _excerpt(text) or "thinking")
            case Text(text=text):
                await self.tell(Kind.TEXT, _excerpt(text))
            case ToolUse():
                await self.tell(Kind.TOOL, _excerpt(f"{event.name} {event.summary}"))
            case ApiRetry():
                wait = f" in {event.delay:.0f} s" if event.delay is not None else ""
                why = event.error or event.status or "an error"
                await self.tell(Kind.RETRY, f"the agent asks its model again{wait} ({why})")
            case _:
                pass

    def ended(self) -> None:
        """Finish the printed output: nothing more is printed."""
        if self._is_within_line:
            self._write("\n")

    def _print(self, event: Event) -> None:
        match event:
            case Delta(text=text, is_thinking=False):
                self._write(text)
            case Text(text=text) if not event.parent:
                self._write("\n" if self._is_within_line else f"{text}\n")
            case ToolUse():
                self.ended()
                self._write(f"[{event.name}] {event.summary}\n")
            case _:
                pass

    def _write(self, text: str) -> None:
        """Print an agent's words; control characters, which could take over the terminal, are escaped."""
        lines = ("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))
        sys.stdout.write("\n".join(lines))
        sys.stdout.flush()
        self._is_within_line = bool(text) and not text.endswith("\n")


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else line[: EXCERPT - 1] + "…"
