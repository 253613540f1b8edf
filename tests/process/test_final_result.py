"""Agents that stay after their final result: when they are ended, by what they count, and what is told of it."""

import json
import signal
import time
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ccexecd.agent_listener import AgentListener
from ccexecd.core.entries import Note
from ccexecd.core.execution import Reason
from ccexecd.core.spec import Spec
from ccexecd.engine import Engine
from ccexecd.process.execution import Execution

from .programs import python, sh
from .stage import end_of, is_alive, lines_of, living, running_engine, text_of, wait_for

GRACE = 0.3

RESULT = {"type": "result", "subtype": "success", "is_error": False, "result": "4"}
FAILURE = {"type": "result", "subtype": "success", "is_error": True, "result": "API Error"}
TURN = {"type": "assistant", "message": {"role": "assistant", "content": []}}


def showing(*events: object, then: str = "time.sleep(1000)") -> tuple[str, ...]:
    """A program that prints events, a line each, in two writes, and then does something."""
    lines = [json.dumps(event, separators=(",", ":")) for event in events]
    return python(
        "import os, signal, sys, time\n"
        f"for line in {lines!r}:\n"
        "    os.write(1, line[:9].encode())\n"
        "    os.write(1, line[9:].encode() + b'\\n')\n"
        f"{then}\n"
    )


async def begin(engine: Engine, argv: tuple[str, ...], **spec: object) -> Execution:
    """Have something executed as an agent that may stay for a moment."""
    session = await engine.open_session("somebody")
    chosen = {"grace": 5.0, "agent": "claude", "post_result_grace": GRACE, **spec}
    return engine.admit(session, Spec(argv, argv[0], **chosen))  # type: ignore[arg-type]


async def run(engine: Engine, argv: tuple[str, ...], **spec: object) -> Execution:
    """Have it executed, and wait for its end."""
    execution = await begin(engine, argv, **spec)
    await end_of(execution)
    return execution


def notes_of(execution: Execution) -> list[tuple[str, dict[str, Any]]]:
    """The state changes in its log, in order."""
    cursor = execution.log.cursor(0)
    notes = []
    while (entry := cursor.take()) is not None:
        if isinstance(entry, Note):
            notes.append((entry.method, entry.params))
    cursor.close()
    return notes


def facts(execution: Execution) -> tuple[int | None, int | None, Reason, str]:
    """Exit code, signal, reason, status."""
    outcome = execution.outcome
    assert outcome is not None
    return outcome.exit_code, outcome.signal, outcome.reason, outcome.status


@pytest.mark.parametrize("framing", ["lines", "line", "raw"])
@pytest.mark.parametrize(("event", "code", "status"), [(RESULT, 0, "completed"), (FAILURE, 1, "failed")])
async def test_an_agent_that_stays_is_ended_and_counts_by_its_result(event, code, status, framing):
    """Not before the grace is over; with everything below it; whatever signal it took."""
    async with running_engine() as engine:
        began = time.monotonic()
        stay = "os.spawnlp(os.P_NOWAIT, 'setsid', 'setsid', 'sleep', '1000')\ntime.sleep(1000)"
        execution = await run(engine, showing(TURN, event, then=stay), framing=framing)
        assert time.monotonic() - began >= GRACE
        assert facts(execution) == (code, None, Reason.POST_RESULT, status)
        assert len(living()) == 1, "only the keeper is left"


async def test_it_is_told_when_the_end_begins():
    """Which agent, how it went, and since when it had been done; before the end, in the same sequence."""
    async with running_engine() as engine:
        execution = await run(engine, showing(TURN, RESULT), labels={"task": "7"})
        methods = [method for method, _ in notes_of(execution)]
        assert methods == ["process.started", "task.early_completion", "process.completed"]
        told = dict(notes_of(execution))["task.early_completion"]
        seen_at = datetime.fromisoformat(told.pop("result_seen_at"))
        assert 0 <= (datetime.now(UTC) - seen_at).total_seconds() < 20
        assert told == {
            "task": "7",
            "agent": "claude",
            "subtype": "success",
            "is_error": False,
            "grace": GRACE,
            "pid": execution.pid,
            "pgid": execution.pid,
        }


@pytest.mark.parametrize("code", [0, 3])
async def test_an_agent_that_ends_in_time_ends_as_any_program(code):
    """Its own exit code, whatever its result said."""
    async with running_engine() as engine:
        then = f"time.sleep(0.1)\nsys.exit({code})"
        execution = await run(engine, showing(TURN, RESULT, then=then), post_result_grace=20.0)
        assert facts(execution)[::2] == (code, Reason.EXITED)
        assert [method for method, _ in notes_of(execution)] == ["process.started", "process.completed"]


async def test_no_grace_at_all_ends_it_at_once():
    """0 is a time like any other."""
    async with running_engine() as engine:
        execution = await run(engine, showing(RESULT), post_result_grace=0.0)
        assert facts(execution)[::2] == (0, Reason.POST_RESULT)


async def test_an_agent_that_is_deaf_to_term_is_killed():
    """After the grace between the two; it counts by its result all the same."""
    async with running_engine() as engine:
        deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.write(1, b'deaf\\n')\nwhile True: time.sleep(1000)"
        execution = await run(engine, showing(RESULT, then=deaf), grace=0.2)
        assert facts(execution) == (0, None, Reason.POST_RESULT, "completed")


async def test_pauses_are_not_counted():
    """While it is paused it cannot end: its time stands still, before its result has been read and after."""
    async with running_engine() as engine:
        execution = await begin(engine, showing(RESULT), post_result_grace=1.0)
        await lines_of(execution, 1)
        await execution.pause()
        paused = execution.clock.now
        await trio.sleep(1.2)
        assert execution.clock.now == paused
        assert execution.is_live
        await execution.resume()
        resumed = time.monotonic()
        await end_of(execution)
        assert time.monotonic() - resumed > 0.5
        assert facts(execution)[::2] == (0, Reason.POST_RESULT)


async def test_a_result_that_is_taken_back_in_a_pause_ends_nothing():
    """What was read before the pause is judged after it."""
    async with running_engine() as engine:
        execution = await begin(engine, sh("echo ready; exec sleep 1000"), post_result_grace=0.0)
        await lines_of(execution, 1)
        await execution.pause()
        listener = next(each for each in execution.listeners if isinstance(each, AgentListener))
        listener.has_output("stdout", json.dumps(RESULT).encode() + b"\n")
        await wait_all_tasks_blocked()
        listener.has_output("stdout", json.dumps(TURN).encode() + b"\n")
        await execution.resume()
        await wait_all_tasks_blocked()
        assert execution.intent is None
        listener.has_output("stdout", json.dumps(FAILURE).encode() + b"\n")
        await end_of(execution)
        assert facts(execution)[::2] == (1, Reason.POST_RESULT)


@pytest.mark.parametrize("begins", [TURN, {"type": "system", "subtype": "init"}], ids=["words", "init"])
async def test_a_conversation_goes_on(begins):
    """A result that another turn follows was not the final one; the wait begins with the next."""
    async with running_engine() as engine:
        chatty = python(
            "import os, sys, time\n"
            f"result, turn = {json.dumps(RESULT)!r}, {json.dumps(begins)!r}\n"
            "os.write(1, (result + '\\n').encode())\n"
            "for line in sys.stdin:\n"
            "    os.write(1, (turn + '\\n').encode())\n"
            "    time.sleep(1)\n"
            "    os.write(1, (result + '\\n').encode())\n"
        )
        execution = await begin(engine, chatty, stdin_open=True, post_result_grace=0.6)
        await lines_of(execution, 1)
        await execution.stdin.write(b"next\n")
        await end_of(execution)
        assert text_of(execution, "stdout").count(b'"result": "4"') == 2, "the second turn came to its end"
        assert facts(execution)[::2] == (0, Reason.POST_RESULT)


@pytest.mark.parametrize(
    ("argv", "spec"),
    [
        (showing({"type": "user", "message": {"content": json.dumps(RESULT)}}), {}),
        (showing({"type": "user", "message": RESULT}), {}),
        (sh("printf '%s' '" + json.dumps(RESULT) + "'; sleep 1000"), {}),
        (sh("echo '" + json.dumps(RESULT) + "' >&2; sleep 1000"), {}),
        (showing(RESULT), {"agent": "none"}),
        (showing(RESULT), {"agent": "auto"}),
        (showing(RESULT), {"post_result_grace": None}),
    ],
    ids=["a text", "inside", "no line feed", "stderr", "no agent", "another program", "no grace"],
)
async def test_what_is_no_final_result_ends_nothing(argv, spec):
    """Its own time-out ends it, as it would have."""
    async with running_engine() as engine:
        execution = await run(engine, argv, timeout=GRACE * 3, **spec)
        assert facts(execution)[2] is Reason.TIMEOUT


async def test_a_cancel_in_the_grace_is_a_cancel():
    """The first decision gives the reason."""
    async with running_engine() as engine:
        execution = await begin(engine, showing(RESULT), post_result_grace=1000.0)
        await lines_of(execution, 1)
        execution.cancel(Reason.CANCELLED)
        await end_of(execution)
        assert facts(execution)[:3] == (-signal.SIGTERM, signal.SIGTERM, Reason.CANCELLED)


async def test_an_agent_is_known_by_its_name(tmp_path):
    """As a program, and as the first program of a command string."""
    program = tmp_path / "claude"
    program.write_text(f"#!/bin/sh\necho '{json.dumps(RESULT)}'\nexec sleep 1000\n")
    program.chmod(0o755)
    async with running_engine() as engine:
        for spec in (
            {"argv": (str(program), "-p")},
            {"argv": ("sh", "-c", f"{program} -p x | cat"), "display": f"{program} -p x | cat", "shell": True},
        ):
            session = await engine.open_session("somebody")
            chosen = {"display": "claude", "grace": 5.0, "post_result_grace": GRACE, **spec}
            execution = engine.admit(session, Spec(**chosen))  # type: ignore[arg-type]
            await end_of(execution)
            assert facts(execution)[::2] == (0, Reason.POST_RESULT)


async def test_what_an_agent_leaves_is_ended_with_it():
    """It was our decision that it ends, so nothing is left running, whatever `leftovers` says."""
    async with running_engine() as engine:
        stay = "print(os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '1000'), flush=True)\ntime.sleep(1000)"
        execution = await begin(engine, showing(RESULT, then=stay), leftovers="detach")
        await lines_of(execution, 2)
        child = int(text_of(execution, "stdout").split()[-1])
        await end_of(execution)
        assert not execution.leaves_running
        await wait_for(lambda: not is_alive(child), "the child is gone")
