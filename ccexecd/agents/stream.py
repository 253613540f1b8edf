"""Splits an output that comes in pieces into whole lines, and parses the JSON in them.

Agents print one JSON object a line. Reads cut lines anywhere, a line may have many megabytes, and anything may stand
between: warnings, progress, bytes that are no text. Owns the cutting, its bounds, and the parsing. Must not know what
any object means.

A piece is looked at once, however long the line becomes that it belongs to: what is unfinished is kept in a list and
joined when the end has come. What begins unlike an event is not kept at all.
"""

import json
from typing import Any

import orjson

from ccexecd.agents.events import Unread
from ccexecd.core.framing import hold

LONGEST_LINE = 16 * 1024 * 1024
"""Bytes of a line that is waited for. Of what agents print, results of tools are the longest; an image has some."""

_REPAIRED = 1024 * 1024
"""Bytes of a line up to which half of a surrogate pair in it is forgiven: that takes a slower parser."""


class EventLines:
    """Whole lines that begin as events do.

    Args:
        opening: the bytes that an event's line may begin with.
        longest: bytes of the longest line that is kept; a longer one is given as `Unread`.
    """

    def __init__(self, opening: tuple[bytes, ...] = (b"{",), longest: int = LONGEST_LINE) -> None:
        self._opening = opening
        self._longest = longest
        self._held: list[bytes] = []  # the beginning of a line that may be an event
        self._held_size = 0
        self._is_passed_over = False  # the line that has begun is none, or too long

    @property
    def held_bytes(self) -> int:
        """Bytes of the unfinished line that are kept."""
        return self._held_size

    def feed(self, received: bytes) -> list[bytes | Unread]:
        """Take output, and return what it completes.

        Args:
            received: bytes of the output, cut anywhere.

        Returns:
            Blocks of one or more whole lines, which may include lines that are no events, and `Unread` for each line
            that was too long.
        """
        found: list[bytes | Unread] = []
        start, end = 0, received.rfind(b"\n") + 1
        if end and (self._held or self._is_passed_over):
            start = received.index(b"\n") + 1
            self._hold(received[:start], found)
            if self._held:
                found.append(b"".join(self._held))
            self._forget()
        if start < end:
            found.append(received[start:end] if start or end < len(received) else received)
        if end < len(received):
            self._hold(received[end:], found)
        return found

    def finish(self) -> list[bytes | Unread]:
        """Everything has been read. Returns the last line, if it is a beginning of an event that has no line feed."""
        found: list[bytes | Unread] = [b"".join(self._held)] if self._held else []
        self._forget()
        return found

    def _hold(self, part: bytes, found: list[bytes | Unread]) -> None:
        if self._is_passed_over:
            return
        size = self._held_size + len(part)
        if not (self._held or part.startswith(self._opening)):
            self._is_passed_over = True
        elif size > self._longest:
            self._forget()
            self._is_passed_over = True
            found.append(Unread(size, is_too_long=True))
        else:
            hold(self._held, part)
            self._held_size = size

    def _forget(self) -> None:
        self._held = []
        self._held_size = 0
        self._is_passed_over = False


class Document:
    """Collects an output that is one JSON value over many lines.

    Args:
        longest: bytes of the longest output that is kept.
    """

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self._longest = longest
        self._held: list[bytes] = []
        self._size = 0

    def feed(self, received: bytes) -> list[bytes | Unread]:
        """Take output. Returns nothing before the end, which `finish` tells."""
        self._size += len(received)
        if self._size <= self._longest:
            hold(self._held, received)
        else:
            self._held = []
        return []

    def finish(self) -> list[bytes | Unread]:
        """Everything has been read. Returns it, from the first line that begins with a brace."""
        if self._size > self._longest:
            return [Unread(self._size, is_too_long=True)]
        text = b"".join(self._held)
        start = 0 if text.startswith(b"{") else text.find(b"\n{") + 1
        return [text[start:]] if text[start:].startswith(b"{") else []


def parse(line: bytes) -> list[dict[str, Any] | Unread]:
    """The JSON objects of one line, which begins as events do: one, or those of a list."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        found = _repaired(line)
    if isinstance(found, list):
        return [each for each in found if isinstance(each, dict)]
    return [found if isinstance(found, dict) else Unread(len(line))]


def _repaired(line: bytes) -> Any:
    """The same where a string holds half of a surrogate pair, as one that was cut in the middle of a character does."""
    if len(line) > _REPAIRED or b"\\u" not in line:
        return None
    try:
        return orjson.loads(json.dumps(json.loads(line), ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
