"""The cases of the self-test: what each has an agent do, and what is checked.

Owns the checks. Each case is a function that returns figures for the report, and raises an exception if a check fails.
Must not know how a case is reported.
"""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ccexecctl.errors import RefusedError
from ccexecctl.stress.agents import Agent, StandIn
from ccexecctl.stress.standin_agent import LINE_BYTES
from ccexecctl.stress.trial import CaseFailedError, Run, Trial
from ccexecd.protocol.errors import ErrorCode

IN_SEQUENCE = 3
"""Executions of the case `sequential`."""

Seen = dict[str, Any]
"""Figures that a case returns for the report, by name."""


class Setting(NamedTuple):
    """What a case gets.

    Attributes:
        trial: runs executions for the case.
        agent: the agent under test.
        parallel: executions that the case `parallel` runs at the same time.
    """

    trial: Trial
    agent: Agent
    parallel: int

    def ask(self, argv: list[str], **params: Any) -> Run:
        """Run a command of the agent to its end.

        Args:
            argv: the command.
            **params: further params of `execute`.
        """
        return self.trial.run(argv, self.agent.patience, **params)


class Case(NamedTuple):
    """One case.

    Attributes:
        category: the name by which users choose it (`--categories`).
        name: what it is about, for the report.
        check: runs the case; returns its figures, raises `CaseFailedError` if a check fails.
    """

    category: str
    name: str
    check: Callable[[Setting], Seen]


def expect(holds: object, wrong: str) -> None:
    """Check a condition.

    Args:
        holds: the condition; anything that is true.
        wrong: the text of the exception.

    Raises:
        CaseFailedError: the condition is not true.
    """
    if not holds:
        raise CaseFailedError(wrong)


def marker() -> str:
    """Return a random word, which no reply has by chance."""
    return f"m{uuid.uuid4().hex[:12]}"


def simple(setting: Setting) -> Seen:
    """The reply to a prompt has the word that it asks for."""
    word = marker()
    reply = setting.ask(setting.agent.answer(word)).reply()
    expect(word in reply, f"the reply lacks {word}: {reply[:80]!r}")
    return {"reply_bytes": len(reply)}


def parallel(setting: Setting) -> Seen:
    """Executions that run at the same time each give their own reply."""
    words = [marker() for _ in range(setting.parallel)]
    runs = [setting.trial.begin(setting.agent.answer(word), setting.agent.patience) for word in words]
    setting.trial.finish(runs, setting.agent.patience)
    for word, run in zip(words, runs, strict=True):
        expect(word in run.reply(), f"the reply of {run.id} lacks {word}")
    return {"executions": len(runs)}


def long(setting: Setting) -> Seen:
    """A reply of about 1000 words arrives whole."""
    count = len(setting.ask(setting.agent.words()).reply().split())
    expect(count >= setting.agent.least_words, f"the answer has {count} words only")
    return {"words": count}


def json_reply(setting: Setting) -> Seen:
    """A reply in JSON can be parsed, and is the object that was asked for."""
    word = marker()
    reply = setting.ask(setting.agent.json(word)).reply()
    text = reply[reply.find("{") : reply.rfind("}") + 1]  # a model may put a fence around it
    try:
        found = json.loads(text)
    except ValueError:
        raise CaseFailedError(f"the reply is not JSON: {reply[:80]!r}") from None
    expect(found == {"answer": 42, "word": word}, f"the reply is another object: {text[:80]!r}")
    return {"reply_bytes": len(reply)}


def json_stream(setting: Setting) -> Seen:
    """Each line of the output is an event, and as many bytes arrive as the program wrote."""
    run = setting.ask(setting.agent.answer(marker()))
    run.reply()
    kinds = [str(event.get("type")) for event in run.events()]
    expect(kinds[0] == "system", f"the first event is {kinds[0]!r}")
    expect("assistant" in kinds, "no event of the model came")
    written = run.outcome["stdout_bytes"]
    expect(len(run.stdout.encode()) == written, f"{written} bytes were written, {len(run.stdout.encode())} came")
    return {"events": len(kinds), "bytes": written}


def timeout(setting: Setting) -> Seen:
    """An agent that hangs is ended at its time-out with all of its processes, and its output until then is kept."""
    run = setting.trial.run(setting.agent.hang(), setting.agent.hang_time)
    reason, duration = run.outcome["reason"], run.outcome["duration"]
    expect(reason == "timeout", f"it ended by {reason!r}, not by its time-out")
    pids = [run.outcome["pid"]]
    if setting.agent.name == StandIn.name:  # it writes at once; a real agent may write nothing before its time-out
        said = [event["waits_for"] for event in run.events() if "waits_for" in event]
        expect(said, "what it had said is not there")
        pids += said
    left = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    expect(not left, f"processes of it are left: {left}")
    return {"ended_after": duration}


def sequential(setting: Setting) -> Seen:
    """Executions one after another each give their own reply."""
    for _ in range(IN_SEQUENCE):
        simple(setting)
    ids = {run.id for run in setting.trial.runs}
    expect(len(ids) == IN_SEQUENCE, "an id was used twice")
    return {"executions": len(ids)}


def error(setting: Setting) -> Seen:
    """An agent that fails is reported as failed with its own exit code; a missing program is refused."""
    run = setting.ask(setting.agent.fail())
    code = run.outcome["exit_code"]
    expect(code not in (0, None), f"it counts as a success: exit code {code}")
    expect(run.outcome["status"] == "failed", f"it counts as {run.outcome['status']}")
    expect(run.stderr or run.stdout, "what it had to say is not there")
    try:
        setting.trial.run([f"/nonexistent/{marker()}"], setting.agent.patience)
    except RefusedError as refused:
        expect(refused.code == ErrorCode.SPAWN_FAILED, f"a missing program is told as {refused.name}")
    else:
        raise CaseFailedError("a missing program counts as started")
    return {"exit_code": code}


def environment(setting: Setting) -> Seen:
    """The program has the environment variables and the working directory that were asked for."""
    word = marker()
    script = 'printf "%s %s %s\\n" "$CCEXEC_STRESS" "$CCEXEC_EXECUTION_ID" "$PWD"; exec "$@"'
    argv = ["/bin/sh", "-c", script, "sh", *setting.agent.version()]
    run = setting.ask(argv, env={"CCEXEC_STRESS": word}, cwd="/")
    first, _, rest = run.stdout.partition("\n")
    expect(first.split(" ") == [word, run.id, "/"], f"the environment is another one: {first[:120]!r}")
    expect(run.outcome["exit_code"] == 0 and rest.strip(), "the agent did not tell its version")
    return {"version": rest.strip()[:80]}


def buffer(setting: Setting) -> Seen:
    """A line of 100,000 bytes arrives whole. The stand-in writes it, since a model cannot be made to."""
    run = setting.ask(StandIn().line())
    reply = run.reply()
    longest = max(map(len, run.stdout.splitlines()))
    expect(len(reply) == LINE_BYTES and longest > LINE_BYTES, f"the longest line has {longest} bytes")
    return {"longest_line": longest}


def tools(setting: Setting) -> Seen:
    """An agent uses a tool, and the reply has what the tool printed."""
    word = marker()
    run = setting.ask(setting.agent.tool(word))
    expect(word in run.reply(), f"the reply lacks {word}")
    blocks = [
        block
        for event in run.events()
        for block in (event.get("message") or {}).get("content") or []
        if isinstance(block, dict)
    ]
    kinds = [block.get("type") for block in blocks]
    expect("tool_use" in kinds and "tool_result" in kinds, "no tool was used")
    return {"tools": kinds.count("tool_use")}


CASES = (
    Case("simple", "a simple prompt", simple),
    Case("parallel", "many at the same time", parallel),
    Case("long", "an answer of 1000 words", long),
    Case("json", "a reply in a given format", json_reply),
    Case("json", "a stream of JSON events", json_stream),
    Case("timeout", "a time-out", timeout),
    Case("sequential", "three in sequence", sequential),
    Case("error", "errors", error),
    Case("environment", "environment", environment),
    Case("buffer", "a line of 100,000 bytes", buffer),
    Case("tools", "tools", tools),
)
"""All cases, in the order in which they are run."""

CATEGORIES = tuple(dict.fromkeys(case.category for case in CASES))
"""The categories of the cases, each once."""
