"""The main job: the Claude Code command line runs through the daemon, against a stand-in for the model's API.

Everything here holds for the native program, for the last one in JavaScript, and for a stand-in program where npm or
the network is missing.
"""

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from . import anthropic_api, claude_program
from .anthropic_api import Api, Bash, Failure, Hang, Text
from .client import Client, Watched
from .daemon_process import Daemon, command_of, eventually, state_of

WITHIN = 60.0
"""Seconds for one run: the JavaScript version takes 2.5 s to say hello on an idle machine."""

ESSAY = [f"word{number} " for number in range(1, 5001)]

SLEEPER = "python3 -c 'import time; time.sleep(300)'"
"""What the Bash tool is to run; the real program refuses a bare `sleep`."""

MENTION = "API Error: 429 is what a rate limit looks like, and: Prompt is too long."
"""An answer that speaks of errors and is none."""

TOLD_NOT_TO = (
    "DISABLE_TELEMETRY",
    "DISABLE_AUTOUPDATER",
    "DISABLE_ERROR_REPORTING",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
)

pytestmark = pytest.mark.timeout(claude_program.INSTALL_LIMIT + 60)  # the first test of a machine installs


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """The model."""
    with anthropic_api.serve() as served:
        yield served


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(partial(claude_program.real, claude_program.NATIVE), id="native", marks=pytest.mark.claude),
        pytest.param(
            partial(claude_program.real, claude_program.JAVASCRIPT), id="javascript", marks=pytest.mark.claude
        ),
        pytest.param(claude_program.standin, id="standin"),
    ],
)
def program(request: pytest.FixtureRequest) -> list[str]:
    """The words that start each of the programs."""
    try:
        return request.param()
    except claude_program.MissingError as missing:
        pytest.skip(str(missing))


class Claude:
    """How a client has the daemon run the program.

    Attributes:
        api: the model that it talks to.
        program: the words that start it.
        is_real: whether it has the name that the daemon knows.
    """

    def __init__(self, program: list[str], api: Api, home: Path) -> None:
        self.api = api
        self.program = program
        self._env = {
            "ANTHROPIC_BASE_URL": api.url,
            "ANTHROPIC_API_KEY": "sk-ant-stand-in-" + "0" * 40,
            "HOME": str(home),
            "IS_SANDBOX": "1",
            "CLAUDE_CODE_MAX_RETRIES": "0",
            **dict.fromkeys(TOLD_NOT_TO, "1"),
        }
        self._home = str(home)
        self.is_real = program[0].endswith("/claude")

    async def start(self, one: Client, prompt: str, *flags: str) -> Watched:
        """Have it answer a prompt."""
        words = [*self.program, "-p", prompt, "--output-format", "stream-json", "--verbose", *flags]
        return await self.execute(one, words)

    async def execute(self, one: Client, words: list[str]) -> Watched:
        """Run any words in its environment; by its name the daemon knows it, where it has that."""
        agent = "auto" if self.is_real else "claude"
        return await one.execute(*words, env=self._env, cwd=self._home, agent=agent)

    async def run(self, one: Client, prompt: str, *flags: str) -> tuple[Watched, dict[str, Any]]:
        """Have it answer a prompt, to the end; gives how it ended, too."""
        execution = await self.start(one, prompt, *flags)
        return execution, await execution.completed(WITHIN)


@pytest.fixture
def claude(program: list[str], api: Api, tmp_path: Path) -> Claude:
    """One of the programs, with a home directory of its own."""
    return Claude(program, api, tmp_path)


def events(execution: Watched) -> list[dict[str, Any]]:
    """What it printed: every line is JSON, and every notification holds whole lines or a numbered part of one."""
    whole = [piece["data"] for piece in execution.pieces() if "chunk_index" not in piece]
    assert all(data.endswith("\n") for data in whole)
    for data in whole:
        for line in data.splitlines():
            json.loads(line)
    return [json.loads(line) for line in execution.stdout.split("\n")[:-1]]


def answers(execution: Watched) -> list[str]:
    """What the assistant said."""
    blocks = [
        block for event in events(execution) if event["type"] == "assistant" for block in event["message"]["content"]
    ]
    return [block["text"] for block in blocks if block["type"] == "text"]


def streamed(execution: Watched) -> str:
    """The same as it came, piece by piece (`--include-partial-messages`)."""
    deltas = [event["event"].get("delta", {}) for event in events(execution) if event["type"] == "stream_event"]
    return "".join(delta.get("text", "") for delta in deltas)


def result(execution: Watched) -> dict[str, Any]:
    """The event that ends it."""
    assert [event["type"] for event in events(execution)].count("result") == 1
    last = events(execution)[-1]
    assert last["type"] == "result"
    return last


class TestAnswers:
    """What the model says arrives whole."""

    @pytest.mark.parametrize("subprotocol", ["ccexec.v1", None])
    async def test_a_question(self, client, claude, subprotocol):
        """Every event line is delivered intact, in both manners, and the exit code is 0."""
        claude.api.answers["What is 2+2?"] = [Text(["4"])]
        async with client(subprotocol=subprotocol) as one:
            execution, completed = await claude.run(one, "What is 2+2?")
        assert (completed["status"], completed["exit_code"], completed["reason"]) == ("completed", 0, "exited")
        assert (events(execution)[0]["type"], events(execution)[0]["subtype"]) == ("system", "init")
        assert answers(execution) == ["4"]
        assert (result(execution)["result"], result(execution)["is_error"]) == ("4", False)
        assert completed["leftovers"] == []

    async def test_a_slow_essay(self, client, claude):
        """5000 words, one at a time over some seconds: each arrives when it is said, in order, and none is missing."""
        claude.api.answers["Write 5000 words"] = [Text(ESSAY, per_second=1500)]
        async with client() as one:
            execution = await claude.start(one, "Write 5000 words", "--include-partial-messages")
            await execution.printed("word1 ")
            seen_early = execution.stdout
            completed = await execution.completed(WITHIN)
        assert completed["exit_code"] == 0
        assert "word5000" not in seen_early
        assert streamed(execution) == "".join(ESSAY)
        assert answers(execution) == ["".join(ESSAY)]
        assert result(execution)["result"].split() == "".join(ESSAY).split()

    async def test_a_big_answer(self, client, claude):
        """2 MB in one line, twice (message and result): not a byte is missing."""
        text = "".join(f"{number:07} " for number in range(250_000))
        claude.api.answers["Write 2 MB"] = [Text([text[at : at + 10_000] for at in range(0, len(text), 10_000)])]
        async with client() as one:
            execution, completed = await claude.run(one, "Write 2 MB")
        assert completed["exit_code"] == 0
        assert completed["stdout_bytes"] > 2 * len(text)
        assert answers(execution) == [text]
        assert result(execution)["result"].strip() == text.strip()

    async def test_a_tool(self, client, claude):
        """The Bash tool works: what it printed comes back to the model, and nothing of it stays."""
        claude.api.answers["Use a tool"] = [Bash("echo $((6 * 7)) from the tool"), Text([MENTION])]
        async with client() as one:
            execution, completed = await claude.run(one, "Use a tool", "--allowedTools", "Bash")
        assert completed["exit_code"] == 0
        assert "42 from the tool" in json.dumps([event for event in events(execution) if event["type"] == "user"])
        assert (result(execution)["result"], completed["leftovers"]) == (MENTION, [])
        agent = completed["agent"]
        assert (agent["name"], agent["tool_uses"], agent["tools_in_flight"]) == ("claude", 1, 0)
        assert agent["session_id"] == events(execution)[0]["session_id"]
        assert agent["verdict"]["is_success"]
        assert f"--resume={agent['session_id']}" in agent["resume"]
        assert execution.sequence().count("process.output") == len(execution.sequence()) - 2, "no error is told of"

    async def test_three_at_once(self, client, claude):
        """Three on one connection: each answer arrives with its own execution."""
        async with client() as one:
            for number in range(3):
                claude.api.answers[f"Count from {number}000"] = [
                    Text([f"{number}{n:03} " for n in range(1000)], per_second=1000)
                ]
            started = [await claude.start(one, f"Count from {number}000") for number in range(3)]
            for number, execution in enumerate(started):
                assert (await execution.completed(WITHIN))["exit_code"] == 0
                assert "".join(answers(execution)).split() == [f"{number}{n:03}" for n in range(1000)]

    async def test_an_error_of_the_api(self, client, claude):
        """It is told as it is: exit code 1, and `is_error` in a result whose subtype says "success"."""
        claude.api.answers["Fail"] = [Failure(400, "invalid_request_error", "Your credit balance is too low")]
        async with client() as one:
            execution, completed = await claude.run(one, "Fail")
        assert (completed["status"], completed["exit_code"], completed["reason"]) == ("failed", 1, "exited")
        assert (result(execution)["is_error"], result(execution)["subtype"]) == (True, "success")
        assert completed["agent"]["verdict"]["cause"] == "no_credit"

    async def test_limits(self, client, claude):
        """Each is told once, as what it is, before the end, which says what to do; `status` says so afterwards, too."""
        claude.api.answers["Too often"] = [
            Failure(429, "rate_limit_error", "This request would exceed your rate limit.")
        ]
        too_long = "prompt is too long: 250000 tokens > 200000 maximum"
        claude.api.answers["Too long"] = [Failure(400, "invalid_request_error", too_long)]
        async with client() as one:
            started = {prompt: await claude.start(one, prompt) for prompt in ("Too often", "Too long")}
            for prompt, cause, method, kind in (
                ("Too often", "rate_limited", "error.rate_limit_exceeded", "rate_limit_429"),
                ("Too long", "token_limit", "error.token_limit_exceeded", "token_limit"),
            ):
                completed = await started[prompt].completed(WITHIN)
                told = await one.notification(method, started[prompt].id)
                assert (told["error_type"], told["agent"], told["recoverable"]) == (kind, "claude", True)
                assert told["error_text"] == result(started[prompt])["result"]
                sequence = started[prompt].sequence()
                assert [each for each in sequence if each.startswith("error.")] == [method]
                assert completed["exit_code"] == 1
                status = await one.request("status", execution_id=started[prompt].id)
                assert status["agent"] == completed["agent"]
                assert (status["agent"]["verdict"]["cause"], bool(status["agent"]["verdict"]["advice"])) == (
                    cause,
                    True,
                )

    async def test_a_conversation_goes_on(self, client, claude):
        """The words that are told for that, and the next prompt: it remembers what was said."""
        if claude_program.NATIVE not in claude.program[0]:
            pytest.skip("one that keeps conversations is enough; the stand-in keeps none")
        claude.api.answers["What is 3+3?"] = [Text(["6"]), Text(["I said 6."])]
        async with client() as one:
            _, completed = await claude.run(one, "What is 3+3?")
            execution = await claude.execute(one, [*completed["agent"]["resume"], "What did you say?"])
            again = await execution.completed(WITHIN)
        assert answers(execution) == ["I said 6."]
        assert again["agent"]["session_id"] == completed["agent"]["session_id"]


class TestCut:
    """An answer that is stopped, for good or for a while."""

    async def test_cancelled_while_it_writes(self, client, claude, daemon):
        """In the middle of an answer: what was said until then has come, and at the reply no process is left."""
        claude.api.answers["Write slowly"] = [Text(ESSAY, per_second=100)]
        async with client() as one:
            execution = await claude.start(one, "Write slowly", "--include-partial-messages")
            await execution.printed("word20 ")
            assert (await execution.control("CANCEL"))["status"] == "cancelled"
            assert daemon.processes(execution.id) == []
            completed = await execution.completed()
        assert (completed["reason"], completed["status"]) == ("cancelled", "failed")
        words = streamed(execution).split()
        assert len(words) >= 20
        assert words == [f"word{number}" for number in range(1, len(words) + 1)]

    async def test_cancelled_while_it_waits(self, client, claude, daemon):
        """With a model that never answers, too."""
        claude.api.answers["Never answer"] = [Hang()]
        claude.api.asked.clear()
        async with client() as one:
            execution = await claude.start(one, "Never answer")
            await eventually(lambda: "Never answer" in claude.api.asked, "the model has been asked", WITHIN)
            await execution.control("CANCEL")
            assert daemon.processes(execution.id) == []
            assert (await execution.completed())["reason"] == "cancelled"

    @pytest.mark.parametrize("kind", ["CANCEL", "KILL"])
    async def test_cancelled_while_a_tool_runs(self, client, claude, daemon, kind):
        """The tool has a session of its own, where no signal to the program's group finds it: gone all the same."""
        claude.api.answers["Work for long"] = [Bash(SLEEPER), Text(["Done."])]
        async with client() as one:
            execution = await claude.start(one, "Work for long", "--allowedTools", "Bash")
            tool = await eventually(lambda: sleeper_of(daemon, execution), "the tool runs", WITHIN)
            assert os.getsid(tool) != execution.pid
            agent = (await one.request("status", execution_id=execution.id))["agent"]
            assert (agent["tool"], agent["verdict"]) == ({"name": "Bash", "summary": SLEEPER}, None)
            await execution.control(kind)
            assert daemon.processes(execution.id) == []
            assert state_of(tool) == ""
            completed = await execution.completed()
            assert (completed["reason"], completed["agent"]["verdict"]["cause"]) == ("cancelled", "interrupted")

    async def test_cut_by_a_client_that_closes(self, client, claude, daemon):
        """A client that says goodbye takes its agent with it, tool and all."""
        claude.api.answers["Work for long"] = [Bash(SLEEPER), Text(["Done."])]
        async with client() as one:
            execution = await claude.start(one, "Work for long", "--allowedTools", "Bash")
            await eventually(lambda: sleeper_of(daemon, execution), "the tool runs", WITHIN)
        await eventually(lambda: not daemon.processes(execution.id), "agent and tool are gone")

    async def test_paused_and_resumed(self, client, claude, daemon):
        """Stopped in the middle of an answer, every process stands still; resumed, it says the rest, all of it."""
        claude.api.answers["Write on"] = [Text(ESSAY[:1500], per_second=750)]
        async with client() as one:
            execution = await claude.start(one, "Write on", "--include-partial-messages")
            await execution.printed("word100 ")
            await execution.control("PAUSE")
            assert {state_of(pid) for pid in daemon.processes(execution.id)} == {"T"}
            printed = (await one.request("status", execution_id=execution.id))["stdout_bytes"]
            await trio.sleep(1)  # half of what is left would come meanwhile: what is tested is that nothing does
            assert (await one.request("status", execution_id=execution.id))["stdout_bytes"] == printed
            await execution.control("RESUME")
            completed = await execution.completed(WITHIN)
        assert completed["exit_code"] == 0
        assert streamed(execution) == "".join(ESSAY[:1500])
        assert execution.sequence().count("process.paused") == execution.sequence().count("process.resumed") == 1


def sleeper_of(daemon: Daemon, execution: Watched) -> int:
    """The pid of what the tool runs; 0 as long as it does not."""
    running = {pid: command_of(pid) for pid in daemon.processes(execution.id)}
    return next((pid for pid, words in running.items() if words[-1:] == ["import time; time.sleep(300)"]), 0)
