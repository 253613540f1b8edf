"""Since when an agent is done: the result that nothing has followed, in the output of Claude Code."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccexecd.agents.adapter import EventReader
from ccexecd.agents.claude import CLAUDE
from ccexecd.agents.final_result import FinalResultReader
from ccexecd.agents.stream import LONGEST_LINE
from ccexecd.core.result import FinalResult

GOOD = FinalResult("claude", "success", is_error=False)


def line(**event: object) -> bytes:
    """An event as Claude Code prints it."""
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


RESULT = line(type="result", subtype="success", is_error=False, result="Done.", session_id="s")
LATE_TYPE = line(subtype="success", is_error=False, result="Done.", type="result")
INIT = line(type="system", subtype="init", tools=["Bash"])
TEXT = line(type="assistant", message={"role": "assistant", "content": [{"type": "text", "text": "Done."}]})
HOOK = line(type="system", subtype="hook_response", hook_event="SessionEnd")


class ResultLines:
    """A reader of Claude Code's output, and what looks for the final result in it."""

    def __init__(self) -> None:
        self._reader, self._last = EventReader(CLAUDE, is_brief=True), FinalResultReader("claude")

    @property
    def result(self) -> FinalResult | None:
        """The final result so far."""
        return self._last.result

    def feed(self, received: bytes) -> bool:
        """Read on. Whether there is another result."""
        before = self.result
        for event in self._reader.feed(received):
            self._last.take(event)
        return self.result is not before


def read(output: bytes, size: int = 65536) -> FinalResult | None:
    """The result after an output that comes in pieces of one size."""
    reader = ResultLines()
    for start in range(0, len(output), size):
        reader.feed(output[start : start + size])
    return reader.result


# Where its final result is


@pytest.mark.parametrize("size", [1, 2, 7, 64, 65536])
@pytest.mark.parametrize(
    "output",
    [
        RESULT,
        INIT + TEXT + RESULT,
        INIT + TEXT + LATE_TYPE,
        b"warning: something\n" + RESULT,
        b"{\n{}\n[]\n" + RESULT + HOOK,
        RESULT.replace(b":", b": ").replace(b",", b", "),
        RESULT.replace(b"\n", b"\r\n"),
        RESULT + b"and a word without its end",
    ],
    ids=["alone", "last", "type last", "after words", "before a hook", "spaced", "CR LF", "unfinished words"],
)
def test_a_result_is_found(output, size):
    """Wherever a read may cut the output, and in whichever order its keys come."""
    assert read(output, size) == GOOD


@pytest.mark.parametrize("size", [1, 5, 65536])
@pytest.mark.parametrize(
    "output",
    [
        INIT + TEXT,
        RESULT[:-1],
        line(type="user", message={"content": RESULT.decode()}),
        line(type="user", message={"type": "result", "subtype": "success"}),
        line(type="user", message={"content": [{"type": "tool_result", "content": [{"type": "result"}]}]}),
        b'[{"type":"result"}]\n',
        b'{"type":"result"\n',
        b'say {"type":"result","subtype":"success"}\n',
        b' {"type":"result","subtype":"success"}\n',
        b'\xff{"type":"result"}\n',
        b'{"type":"result","x":"\xff"}\n',
        b'{"a":' * 2000 + b'{"type":"result"}' + b"}" * 2000 + b"\n",
    ],
    ids=[
        *("none", "unfinished", "in a text", "in an event", "in a tool's answer", "in a list", "broken"),
        *("in words", "indented", "after a bad byte", "with a bad byte", "very deep"),
    ],
)
def test_what_is_no_result_is_not_taken_for_one(output, size):
    """A prompt that speaks of it, an event that holds one, a line that is not whole."""
    assert read(output, size) is None


@pytest.mark.parametrize(
    "turn",
    [
        TEXT,
        INIT,
        line(type="user", message={}),
        line(type="stream_event", event={}),
        line(type="system", subtype="task_started"),
        line(type="system", subtype="session_state_changed", state="running"),
        line(type="system", subtype="hook_response", hook_event="UserPromptSubmit"),
        line(type="something_new"),
        line(type=["odd"]),
        b'{"type":"user","message":"\\ud83d"}\n',
        line(type="user", message="x" * LONGEST_LINE),
    ],
    ids=[
        *("text", "init", "user", "stream", "task", "running", "prompt", "new", "odd", "half a character", "overlong"),
    ],
)
def test_another_turn_takes_a_result_back(turn):
    """A conversation has a result after each turn: only one that nothing follows is final."""
    reader = ResultLines()
    assert reader.feed(INIT + RESULT)
    assert not reader.feed(HOOK)
    assert reader.feed(turn)
    assert reader.result is None
    assert not reader.feed(turn)
    assert reader.feed(RESULT)
    assert reader.feed(RESULT), "the wait begins anew with each"
    for size in (4000, 65536, 2 * LONGEST_LINE):
        assert read(RESULT + turn, size) is None
        assert read(RESULT + turn + RESULT, size) == GOOD


@pytest.mark.parametrize(
    "event",
    [
        HOOK,
        line(type="system", subtype="hook_started", hook_event="SessionEnd", hook_name="x"),
        line(type="system", subtype="session_state_changed", state="idle"),
        line(type="system", subtype="files_persisted", files=[]),
        line(type="prompt_suggestion", suggestion="Run the tests."),
        line(message="no type"),
        b"words\n",
        b"{ words\n",
        b"x" * (LONGEST_LINE + 1) + b"\n",
    ],
    ids=["hook", "hook begins", "idle", "files", "suggestion", "no type", "words", "braces", "long words"],
)
def test_what_comes_at_the_end_takes_no_result_back(event):
    """Claude Code prints some events between a result and its end; and whatever is no event says nothing."""
    for size in (100, 65536):
        assert read(INIT + RESULT + event, size if len(event) < 1000 else 65536) == GOOD


@pytest.mark.parametrize(
    ("event", "exit_code", "subtype"),
    [
        ({"subtype": "success", "is_error": False}, 0, "success"),
        ({"subtype": "success"}, 0, "success"),
        ({"is_error": False}, 0, "success"),
        ({"subtype": "success", "is_error": True}, 1, "success"),
        ({"subtype": "error_max_turns", "is_error": False}, 1, "error_max_turns"),
        ({"subtype": "error_during_execution", "is_error": True}, 1, "error_during_execution"),
        ({"subtype": None}, 1, "None"),
    ],
)
def test_a_result_is_good_when_nothing_says_otherwise(event, exit_code, subtype):
    """Some errors have only their subtype, some only `is_error`."""
    result = read(line(type="result", **event))
    assert result is not None
    assert (result.exit_code, result.subtype) == (exit_code, subtype)


# What it costs


def test_a_result_that_is_too_long_is_none():
    """Nothing is ended then; what follows it is read."""
    reader = ResultLines()
    reader.feed(RESULT)
    long_line = line(type="result", subtype="success", result="x" * LONGEST_LINE)
    for start in range(0, len(long_line), 1 << 20):
        reader.feed(long_line[start : start + (1 << 20)])
    assert reader.result is None
    reader.feed(RESULT)
    assert reader.result == GOOD


def test_a_long_result_is_found():
    """An answer of a mebibyte."""
    assert read(INIT + line(type="result", subtype="success", result="ä" * (1 << 18))) == GOOD


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from([INIT, TEXT, RESULT, LATE_TYPE, HOOK, b"words\n", b"{\n", b"\n"]), max_size=12),
    st.lists(st.integers(1, 400), min_size=1, max_size=30),
)
def test_cuts_make_no_difference(lines, cuts):
    """However an output is cut into reads, the result is the one of its lines."""
    output, reader, start = b"".join(lines), ResultLines(), 0
    expected = None
    for each in lines:
        expected = GOOD if each in (RESULT, LATE_TYPE) else None if each in (TEXT, INIT) else expected
    while start < len(output):
        size = cuts[start % len(cuts)]
        reader.feed(output[start : start + size])
        start += size
    assert reader.result == expected
