"""Agents that run: what `status` tells of them, what is told of limits, how their end is judged, when they stall."""

import gc
import json
import subprocess
import sys
import weakref
from typing import Any

import pytest

from ccexecd.agent_listener import AgentListener
from ccexecd.core.entries import Note
from ccexecd.core.execution import Reason
from ccexecd.core.spec import Spec
from ccexecd.engine import Engine
from ccexecd.process.description import describe
from ccexecd.process.execution import Execution

from .in_process import running
from .process.programs import python, sh
from .process.stage import end_of, lines_of, running_engine, wait_for

OPTIONS = ("-p", "x", "--output-format", "stream-json", "--verbose")

INIT = {"type": "system", "subtype": "init", "session_id": "5e55", "model": "opus", "claude_code_version": "2.1"}
TOOL = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "make\nall"}}
USE = {"type": "assistant", "message": {"content": [TOOL]}}
TASK = {"type": "system", "subtype": "task_started", "task_id": "b1", "tool_use_id": "t1", "description": "make"}
TOOL_ENDS = {"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": "t1"}]}}
RETRY = {"type": "system", "subtype": "api_retry", "attempt": 2, "max_retries": 10, "retry_delay_ms": 500, "error": "x"}
GOOD = {"type": "result", "subtype": "success", "is_error": False, "total_cost_usd": 0.5, "num_turns": 2}
GOOD["usage"] = {"input_tokens": 7, "service_tier": "standard"}


def failing(text: str, **fields: object) -> dict[str, Any]:
    """The result of a turn that failed."""
    return {"type": "result", "subtype": "success", "is_error": True, "result": text, **fields}


def showing(*lines: object, then: str = "") -> tuple[str, ...]:
    """A program that prints events and words, a line each, waiting for input before each that is None."""
    code = "import sys, time\n"
    for line in lines:
        text = line if isinstance(line, str) else json.dumps(line)
        code += "sys.stdin.readline()\n" if line is None else f"print({text!r}, flush=True)\n"
    return (*python(code + then), *OPTIONS)


async def begin(engine: Engine, argv: tuple[str, ...], **spec: Any) -> Execution:
    """Have something executed as Claude Code."""
    session = await engine.open_session("somebody")
    return engine.admit(session, Spec(argv, **{"display": argv[0], "agent": "claude", "grace": 2.0, **spec}))


async def run(engine: Engine, argv: tuple[str, ...], **spec: Any) -> Execution:
    """Have it executed, and wait for its end."""
    execution = await begin(engine, argv, **spec)
    await end_of(execution)
    return execution


def agent(execution: Execution) -> dict[str, Any]:
    """What `status` tells of it as an agent."""
    return describe(execution)["agent"]


def notes_of(execution: Execution) -> list[tuple[str, dict[str, Any]]]:
    """The state changes in its log."""
    cursor = execution.log.cursor(0)
    found = [(each.method, each.params) for each in iter(cursor.take, None) if isinstance(each, Note)]
    cursor.close()
    return found


def alarms_of(execution: Execution) -> list[tuple[str, dict[str, Any]]]:
    """What was told of limits."""
    return [each for each in notes_of(execution) if each[0].startswith("error.")]


async def test_what_is_known_while_it_runs_and_afterwards():
    """Session, model, tool in flight, the API that fails; at the end cost, tokens, verdict, and how to go on."""
    async with running_engine() as engine:
        execution = await begin(engine, showing(INIT, USE, TASK, None, TOOL_ENDS, RETRY, None, GOOD), stdin_open=True)
        assert agent(execution)["name"] == "claude"
        await lines_of(execution, 3)
        told = await wait_for(lambda: agent(execution)["tool"] and agent(execution), "the tool is known")
        assert told["tool"] == {"name": "Bash", "summary": "make all"}
        assert (told["session_id"], told["model"], told["version"]) == ("5e55", "opus", "2.1")
        assert (told["tools_in_flight"], told["tool_uses"], told["verdict"]) == (1, 1, None)
        assert told["background_tasks"] == 0, "the tool is in front"
        assert told["last_event_at"].startswith("20")
        await execution.stdin.write(b"\n")
        told = await wait_for(lambda: agent(execution)["api_retry"] and agent(execution), "the retry is known")
        assert told["api_retry"] == {"attempt": 2, "max_retries": 10, "delay": 0.5, "status": None, "error": "x"}
        assert (told["tool"], told["tools_in_flight"], told["background_tasks"]) == (None, 0, 1)
        await execution.stdin.write(b"\n")
        await end_of(execution)
        told = agent(execution)
        assert (told["turns"], told["cost_usd"], told["usage"], told["api_retry"]) == (
            2,
            0.5,
            {"input_tokens": 7},
            None,
        )
        assert (told["verdict"]["cause"], told["verdict"]["is_success"]) == ("success", True)
        assert told["resume"][-4:] == ["--resume=5e55", "-p", "--output-format=stream-json", "--verbose"]
        completed = notes_of(execution)[-1]
        assert (completed[0], completed[1]["agent"]) == ("process.completed", told)
        assert alarms_of(execution) == []


@pytest.mark.parametrize(
    ("lines", "then", "cause"),
    [
        ((INIT, GOOD), "", "success"),
        ((INIT, failing("API Error: 500 x")), "sys.exit(1)", "api_error"),
        ((INIT, GOOD), "sys.exit(3)", "failed"),
        ((INIT, USE), "", "truncated"),
        ((), "", "truncated"),
        ((INIT,), "import os; os.kill(os.getpid(), 11)", "crashed"),
        ((INIT,), "print('error: unknown option', file=sys.stderr); sys.exit(1)", "not_accepted"),
        ((INIT, {"type": "result", "subtype": "error_max_turns"}), "", "max_turns"),
    ],
)
async def test_an_end_is_judged(lines, then, cause):
    """By exit code and events together; the reason is another thing."""
    async with running_engine() as engine:
        execution = await run(engine, showing(*lines, then=then))
        assert agent(execution)["verdict"]["cause"] == cause


async def test_what_we_end_is_an_interruption():
    """Whatever it exits with; unless it had shown its result, and is ended because of that."""
    async with running_engine() as engine:
        obedient = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nprint('on', flush=True)\n"
        execution = await begin(engine, showing(INIT, then=obedient + "time.sleep(1000)"))
        await lines_of(execution, 2)
        execution.cancel(Reason.CANCELLED)
        await end_of(execution)
        assert agent(execution)["verdict"]["cause"] == "interrupted"
        execution = await run(engine, showing(INIT, GOOD, then="time.sleep(1000)"), post_result_grace=0.0)
        assert agent(execution)["verdict"]["cause"] == "success"


async def test_what_is_no_conversation_is_not_judged():
    """Another verb of the program, a pipe behind it that prints something else, a program that is not there."""
    async with running_engine() as engine:
        execution = await run(engine, ("true", "mcp", "list"))
        assert agent(execution)["verdict"] is None
        words = f"claude {' '.join(OPTIONS)} | jq ."
        execution = await run(engine, sh("echo 4"), display=words, shell=True, agent="auto")
        assert agent(execution)["verdict"] is None
        execution = await run(engine, ("/nowhere/claude", *OPTIONS))
        assert agent(execution)["verdict"] is None
        execution = await run(engine, ("true",), agent="none")
        assert "agent" not in describe(execution)


TOO_MANY = "API Error: Request rejected (429) · This request would exceed your account's rate limit."


async def test_a_rate_limit_is_told_once():
    """In the fields that clients of the earlier system read; again only when a turn has gone well between."""
    async with running_engine() as engine:
        turns = (
            INIT,
            failing(TOO_MANY),
            INIT,
            failing(TOO_MANY),
            INIT,
            GOOD,
            INIT,
            failing(TOO_MANY, api_error_status=429),
        )
        execution = await run(engine, showing(*turns, then="sys.exit(1)"))
        alarms = alarms_of(execution)
        assert [method for method, _ in alarms] == ["error.rate_limit_exceeded"] * 2
        told = dict(alarms[0][1])
        assert told.pop("suggestion")
        assert told == {
            "session_id": execution.session_id,
            "agent": "claude",
            "error_text": TOO_MANY,
            "error_type": "rate_limit_429",
            "message": "too many requests (429)",
            "reset_timestamp": None,
            "retry_after": 60,
            "recoverable": True,
        }
        assert notes_of(execution)[-1][0] == "process.completed"


async def test_a_usage_limit_says_when_it_ends():
    """From the event that tells it, or from the text of older versions."""
    rejected = {"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", "resetsAt": 4102444800}}
    async with running_engine() as engine:
        for lines in (
            (rejected, failing("You've hit your session limit")),
            (failing("Claude AI usage limit reached|4102444800"),),
        ):
            ((method, told),) = alarms_of(await run(engine, showing(INIT, *lines, then="sys.exit(1)")))
            assert (method, told["error_type"], told["recoverable"]) == (
                *("error.rate_limit_exceeded", "usage_limit"),
                False,
            )
            assert told["reset_timestamp"] == 4102444800
            assert told["retry_after"] > 1_000_000


async def test_a_token_limit_is_told():
    """With the number, where it is told."""
    text = "API Error: Claude's response exceeded the 32000 output token maximum. To configure this, set X."
    async with running_engine() as engine:
        ((method, told),) = alarms_of(await run(engine, showing(INIT, failing(text), then="sys.exit(1)")))
        assert (method, told["error_type"], told["limit"]) == ("error.token_limit_exceeded", "token_limit", 32000)
        assert told["message"] == "the token limit of 32000 tokens was exceeded"
        assert (told["error_text"], told["recoverable"]) == (text, True)


MENTION = "API Error: 429 rate limit. Prompt is too long. Claude AI usage limit reached|4102444800"


async def test_what_mentions_a_limit_raises_nothing():
    """A prompt, an answer, a tool's result, the error output; whether an agent prints events or text."""
    answer = {"type": "assistant", "message": {"content": [{"type": "text", "text": MENTION}]}}
    result = {"type": "user", "message": {"content": [{"type": "tool_result", "content": MENTION, "is_error": True}]}}
    lines = (INIT, answer, result, MENTION, {**GOOD, "result": MENTION})
    noise = f"print({MENTION!r}, file=sys.stderr)"
    text = (*python(f"print({MENTION!r})"), "-p", MENTION)
    async with running_engine() as engine:
        for execution in (await run(engine, showing(*lines, then=noise)), await run(engine, text)):
            assert alarms_of(execution) == []
        assert agent(execution)["verdict"]["cause"] == "unverified"


async def test_numbers_beyond_all_bounds_keep_no_execution_from_its_end(tmp_path):
    """What is told of an agent fits into the journal and into every reply, whatever it has reported."""
    largest = {**GOOD, "num_turns": 10**18 - 1, "usage": {"input_tokens": 10**18 - 1}}
    argv = showing(*[largest] * 40)
    async with running(tmp_path) as daemon, daemon.client() as one:
        execution = await one.run(*argv, agent="claude")
        completed = execution.notifications[-1]["params"]
        assert (completed["exit_code"], completed["agent"]["usage"]["input_tokens"]) == (0, 10**18)


async def test_text_is_looked_at_where_there_are_no_events():
    """When all of the output is the error and the exit code agrees; an answer that speaks of one is an answer."""
    async with running_engine() as engine:
        for text, code, expected in (
            (TOO_MANY, 1, ["error.rate_limit_exceeded"]),
            ("Prompt is too long", 1, ["error.token_limit_exceeded"]),
            (f"You asked: {TOO_MANY}", 1, []),
            (TOO_MANY, 0, []),
        ):
            argv = (*python(f"import sys\nprint({text!r})\nsys.exit({code})"), "-p", "x")
            execution = await run(engine, argv)
            assert [method for method, _ in alarms_of(execution)] == expected


async def test_a_tool_in_flight_is_no_stall():
    """The silence begins when it has answered; a warning on standard error does not end one."""
    async with running_engine() as engine:
        then = "while True:\n    print('waiting', file=sys.stderr)\n    time.sleep(0.05)"
        limit = 0.3
        execution = await begin(
            engine, showing(INIT, USE, None, TOOL_ENDS, then=then), stdin_open=True, stall_timeout=limit
        )
        await lines_of(execution, 2)
        written = execution.clock.now
        await wait_for(lambda: execution.clock.now > written + 3 * limit, "much more than the time is over")
        assert execution.intent is None
        await execution.stdin.write(b"\n")
        await end_of(execution)
        assert execution.outcome is not None
        assert execution.outcome.reason is Reason.STALLED
        assert [method for method, _ in notes_of(execution)].count("process.stalled") == 1


async def test_what_has_finished_is_let_go_of():
    """With the collector off: neither its output nor what it said stays because somebody listened."""
    async with running_engine() as engine:
        execution = await run(engine, showing(INIT, {**GOOD, "result": "x" * 100_000}))
        listener = next(each for each in execution.listeners if isinstance(each, AgentListener))
        assert len(json.dumps(dict(listener.facts()))) < 2000
        gc.collect()
        gc.disable()
        try:
            engine.records._remembered.clear()
            engine.executions.clear()
            for session in engine.sessions:
                session.executions.clear()
            gone = weakref.ref(execution)
            del execution
            assert gone() is None
        finally:
            gc.enable()


def test_a_daemon_starts_without_what_reads_agents():
    """It is imported when the first one runs."""
    program = "import sys, ccexecd.daemon; print(*(name for name in sys.modules if name.startswith('ccexecd.agent')))"
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    recognizing = {"ccexecd.agents", "ccexecd.agents.options", "ccexecd.agents.recognition"}
    assert set(said.split()) == {"ccexecd.agent_detection", *recognizing}
