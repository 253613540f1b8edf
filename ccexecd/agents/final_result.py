"""Claude Code: which commands are it, and where in its output its final result is.

Under `--output-format stream-json` it prints one JSON object a line, the last of which has the type "result". It may
stay all the same: a server that it started keeps it, or an unfinished hook. Told turn by turn through its standard
input, it prints a result after each; the next turn takes that back. So does every event that follows, but for those
that are known to belong to its end: to be ended in the middle of a turn is worse than to stay. Owns the recognition of
both. Nothing inside of a string can be mistaken for a type, because quotes are escaped there; nothing deeper in an
event, because it is parsed.
"""

import re
import shlex
from typing import Any

import orjson

from ccexecd.core.result import FinalResult, ResultReader
from ccexecd.core.spec import Spec

NAME = "claude"

LONGEST_LINE = 4 * 1024 * 1024
"""Bytes of a line that is waited for. A result repeats the last answer, which models limit to less than a mebibyte."""

_RESULT = re.compile(rb'"type"\s*:\s*"result"')
_EVENT = re.compile(rb'"type"\s*:')

_AFTER_A_RESULT = (
    {"type": "system", "subtype": "hook_started", "hook_event": "SessionEnd"},
    {"type": "system", "subtype": "hook_progress", "hook_event": "SessionEnd"},
    {"type": "system", "subtype": "hook_response", "hook_event": "SessionEnd"},
    {"type": "system", "subtype": "session_state_changed", "state": "idle"},
    {"type": "system", "subtype": "files_persisted"},
    {"type": "prompt_suggestion"},
)
"""What Claude Code may print between a result and the next turn (its Agent SDK's messages): none has begun by it."""

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=", re.ASCII)


def reader_for(spec: Spec) -> ResultReader | None:
    """What finds the final result in an execution's output; None where nobody is to look for it."""
    return ResultLines() if spec.post_result_grace is not None and is_claude(spec) else None


def is_claude(spec: Spec) -> bool:
    """Whether a command is Claude Code: as the client says, or by the name of the program that it starts first."""
    if spec.agent != "auto":
        return spec.agent == NAME
    if NAME not in spec.display:
        return False
    program = _first_program(spec.display) if spec.shell else next(iter(spec.argv), "")
    return program.rpartition("/")[2] == NAME


def _first_program(command: str) -> str:
    """The first program of a command string, after assignments and `exec`; empty if it cannot be told."""
    words = shlex.shlex(command, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    words.commenters = ""
    try:
        return next((word for word in words if word != "exec" and not _ASSIGNMENT.match(word)), "")
    except ValueError:  # a quote that does not end
        return ""


class ResultLines:
    """Finds the final result in an output that comes in pieces.

    Attributes:
        result: the one that was shown last, unless another turn has begun since.
    """

    def __init__(self) -> None:
        self.result: FinalResult | None = None
        self._held: list[bytes] = []  # the beginning of a line that may be an event
        self._held_size = 0
        self._is_passed_over = False  # the line that has begun is none, or too long

    def feed(self, received: bytes) -> bool:
        """Read on. Returns whether `result` is another one now."""
        before = self.result
        start, end = 0, received.rfind(b"\n") + 1
        if end and (self._held or self._is_passed_over):
            start = received.index(b"\n") + 1
            self._hold(received[:start])
            self._read_held()
        if start < end:
            self._read(received[start:end])
        if end < len(received):
            self._hold(received[end:])
        return self.result is not before

    def _hold(self, part: bytes) -> None:
        is_event = bool(self._held) or part.startswith(b"{")
        if is_event and not self._is_passed_over and self._held_size + len(part) <= LONGEST_LINE:
            self._held.append(part)
            self._held_size += len(part)
            return
        if is_event and not self._is_passed_over:
            self.result = None  # too long to know what it says, but it says that something goes on
        self._forget()
        self._is_passed_over = True

    def _read_held(self) -> None:
        line = b"".join(self._held)
        self._forget()
        self._read(line)

    def _forget(self) -> None:
        self._held = []
        self._held_size = 0
        self._is_passed_over = False

    def _read(self, lines: bytes) -> None:
        """Read whole lines. Most need no look at each: the words that matter are not in them."""
        if self.result is None and (b'"result"' not in lines or not _RESULT.search(lines)):
            return
        for line in lines.split(b"\n"):
            if not line.startswith(b"{"):
                continue
            if len(line) > LONGEST_LINE:
                self.result = None
            elif _RESULT.search(line) or (self.result is not None and _EVENT.search(line)):
                self._take(line)

    def _take(self, line: bytes) -> None:
        """Read one event. What cannot be read, for half of a surrogate pair in it, say, is one all the same."""
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError:
            self.result = None
            return
        if event.get("type") == "result":
            self.result = _result_of(event)
        elif "type" in event and not any(known.items() <= event.items() for known in _AFTER_A_RESULT):
            self.result = None


def _result_of(event: dict[str, Any]) -> FinalResult:
    """A result is good when nothing says otherwise: some errors have only their subtype, some only `is_error`."""
    subtype = event.get("subtype", "success")
    is_error = bool(event.get("is_error")) or subtype != "success"
    return FinalResult(NAME, str(subtype)[:100], is_error)
