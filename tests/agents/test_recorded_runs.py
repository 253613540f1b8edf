"""Runs of four versions of Claude Code, recorded against a stand-in for the model's API: how each is judged.

`recorded/VERSION/SCENARIO.out` is what a run printed. `recorded/runs.jsonl` has a line for each run: its words, its
exit code, its error output, and what is expected; of some only the result was recorded, or that nothing was printed.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from ccexecd.agents.adapter import EventReader, Shape
from ccexecd.agents.claude import CLAUDE
from ccexecd.agents.conversation import Conversation
from ccexecd.agents.verdict import Cause, judge

RECORDED = Path(__file__).with_name("recorded")
RUNS = [json.loads(line) for line in (RECORDED / "runs.jsonl").read_text().splitlines()]
STREAMS = sorted(RECORDED.glob("*/*.out"))


def output_of(run: dict[str, Any]) -> bytes:
    """What a run printed, as far as it was recorded."""
    if "stdout" in run:
        return run["stdout"].encode()
    if "result" in run:
        return json.dumps({"type": "result", **run["result"]}).encode() + b"\n"
    return (RECORDED / run["version"] / f"{run['scenario']}.out").read_bytes()


def conversation_in(output: bytes, size: int, *words: str, is_brief: bool = False) -> Conversation:
    """What an output comes to that comes in pieces of one size."""
    reader = EventReader(CLAUDE, CLAUDE.shape_of(("claude", *words)), is_brief=is_brief)
    conversation = Conversation()
    for start in range(0, len(output), size):
        for event in reader.feed(output[start : start + size]):
            conversation.take(event)
    for event in reader.finish():
        conversation.take(event)
    return conversation


@pytest.mark.parametrize("is_brief", [False, True], ids=["all", "brief"])
@pytest.mark.parametrize("run", RUNS, ids=[f"{run['version']}-{run['scenario']}" for run in RUNS])
def test_a_run_is_judged_as_what_it_was(run, is_brief):
    """Whether everything is read of it or only what status needs."""
    output = output_of(run)
    verdict = judge(
        CLAUDE,
        CLAUDE.shape_of(("claude", *run["argv"])),
        run["exit_code"],
        conversation_in(output, 4096, *run["argv"], is_brief=is_brief),
        said=output[:500].decode(errors="replace"),
        complaint=run.get("stderr", ""),
    )
    found = {
        "cause": verdict.cause.value,
        "status": verdict.status,
        "limit": verdict.limit,
        "denied": list(verdict.denied),
    }
    assert found == run["expected"]
    assert verdict.advice


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_reading_briefly_misses_nothing_that_is_kept(path):
    """Cut into pieces of any size, and without parsing the answers: the same conversation, but for the count."""
    output = path.read_bytes()
    whole = conversation_in(output, len(output) or 1)
    for size, is_brief in ((7, False), (1000, True), (65536, True)):
        found = conversation_in(output, size, is_brief=is_brief)
        found.events = whole.events
        assert found == whole


def test_what_there_is_to_know():
    """Session, model, version, cost, tokens, turns, tools: of a run with a tool, in the newest version."""
    known = conversation_in((RECORDED / "2.1.329" / "tool_bash_allowed.out").read_bytes(), 65536)
    assert len(known.session_id) == 36
    assert (known.model, known.version, known.permission_mode) == ("claude-opus-5-5", "2.1.329", "default")
    assert (known.tool_uses, known.tools, known.turns) == (1, {}, 2)
    assert known.cost is not None
    assert known.cost > 0
    assert known.usage["input_tokens"] > 10_000
    assert not known.is_open


def test_several_turns_in_one_run():
    """A command in the background that ends begins another turn: tokens and turns add up, the cost is of all."""
    known = conversation_in((RECORDED / "2.1.329" / "tool_bash_run_in_background.out").read_bytes(), 65536)
    assert (known.turns, known.cost, known.usage["input_tokens"]) == (3, 0.150848, 37697)
    assert known.tasks == {}


def test_a_command_in_the_background_is_known_while_it_runs():
    """It keeps the program, after a result, too."""
    lines = (RECORDED / "2.1.329" / "tool_bash_run_in_background.out").read_bytes().splitlines(keepends=True)
    until = next(at for at, line in enumerate(lines) if b'"type":"result"' in line)
    known = conversation_in(b"".join(lines[: until + 1]), 65536)
    assert [task.description for task in known.tasks.values()] == ["probe"]
    assert known.is_busy
    assert not known.tools


def test_the_api_is_asked_again():
    """That it is, how often and how soon; and no more of it when it has answered."""
    lines = (RECORDED / "2.1.329" / "err_429_twice_then_ok.out").read_bytes().splitlines(keepends=True)
    retry = conversation_in(b"".join(lines[:3]), 65536).retry
    assert retry is not None
    assert (retry.attempt, retry.most, retry.delay, retry.status) == (2, 10, 1.002, 429)
    for is_brief in (False, True):
        assert conversation_in(b"".join(lines[:4]), 65536, is_brief=is_brief).retry is None


def test_an_output_that_was_cut_off():
    """In the middle of the answer, and of the result: with exit code 0, as when a pipe was not drained."""
    whole = (RECORDED / "2.1.112" / "answer_stream.out").read_bytes()
    for length in (len(whole) - 100, len(whole) // 2, 10, 0):
        conversation = conversation_in(whole[:length], 4096)
        assert judge(CLAUDE, Shape.EVENTS, 0, conversation).cause is Cause.TRUNCATED
    for is_brief in (False, True):
        complete = conversation_in(whole[:-1], 4096, is_brief=is_brief)
        assert judge(CLAUDE, Shape.EVENTS, 0, complete).is_success, "only its line feed is missing"
