"""The Python API with agents at work: the same results in Trio, asyncio and plain code, and nothing lost when it fails.

The real Claude Code, where npm can be had, and a stand-in for it, against a stand-in for the model's API.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from ccexecctl import api as ccexec
from ccexecctl.api import Kind, Progress, Retries, Task, cc_execute, cc_execute_list, cc_stream
from ccexecctl.api.task_list import Status
from ccexecd.agents.events import Text as Said
from ccexecd.agents.events import ToolUse

from . import anthropic_api, claude_program
from .anthropic_api import Api, Bash, Failure, Hang, Text
from .daemon_process import Daemon
from .test_claude import TOLD_NOT_TO

pytestmark = pytest.mark.timeout(claude_program.INSTALL_LIMIT + 60)  # the first test of a machine installs

QUICK = Retries(most=2, first=0.01, longest=0.1)

WORDS = [f"word{number} " for number in range(1, 2001)]


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """The model."""
    with anthropic_api.serve() as served:
        yield served


@pytest.fixture(
    scope="module", params=[pytest.param("real", marks=pytest.mark.claude) if shutil.which("npm") else "standin"]
)
def program(request: pytest.FixtureRequest) -> list[str]:
    """The words that start the real program, where it can be had; else those of the stand-in."""
    try:
        return claude_program.real(claude_program.NATIVE) if request.param == "real" else claude_program.standin()
    except claude_program.MissingError:
        return claude_program.standin()


def options(program: list[str], api: Api, daemon: Daemon, home: Path) -> dict[str, Any]:
    """How a program is had under a daemon."""
    env = {
        "ANTHROPIC_BASE_URL": api.url,
        "ANTHROPIC_API_KEY": "sk-ant-stand-in-" + "0" * 40,
        "HOME": str(home),
        "IS_SANDBOX": "1",
        "CLAUDE_CODE_MAX_RETRIES": "0",
        **dict.fromkeys(TOLD_NOT_TO, "1"),
    }
    return {"program": program, "env": env, "cwd": str(home), "state_dir": daemon.state_dir, "retries": QUICK}


@pytest.fixture
def given(program, api, daemon, tmp_path) -> dict[str, Any]:
    """Options for each of the programs."""
    return options(program, api, daemon, tmp_path)


@pytest.fixture
def quick(api, daemon, tmp_path) -> dict[str, Any]:
    """Options for the stand-in, where the real one would show nothing else."""
    return options(claude_program.standin(), api, daemon, tmp_path)


def pretending(*lines: object, then: str = "exit 0") -> list[str]:
    """A program that prints some events, and then does something."""
    printed = "\n".join(json.dumps(line) for line in lines)
    return ["sh", "-c", f"cat <<'END'\n{printed}\nEND\n{then}", "sh"]


INIT = {"type": "system", "subtype": "init", "session_id": "s-1", "model": "m"}


def same(result: ccexec.AgentResult) -> dict[str, Any]:
    """What has to be the same, however a task is run."""
    told = result.as_dict()
    for name in ("execution_uuid", "session_id", "timestamp", "execution_time", "stderr"):
        told.pop(name)
    return told


def by_ccexecctl(task: str, given: dict[str, Any], directory: Path) -> ccexec.AgentResult:
    """What `ccexecctl agent --json` tells."""
    program = directory / "claude"
    program.write_text(f'#!/bin/sh\nexec {" ".join(given["program"])} "$@"\n')
    program.chmod(0o755)
    ctl = [sys.executable, "-m", "ccexecctl", "--state-dir", str(given["state_dir"]), "agent", "--json"]
    env = {**os.environ, **given["env"]}
    words = [*ctl, "--program", str(program), "--cwd", given["cwd"], task]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True, timeout=60)
    return ccexec.AgentResult.from_dict(json.loads(done.stdout))


class TestTheSame:
    """One result, whatever the way."""

    def test_in_every_way(self, given, api, daemon, tmp_path):
        """Trio, asyncio, plain code, WebSocket and ccexecctl: the same answer, figures and verdict."""
        api.answers["What is 2+2?"] = [Text(["It is ", "4"])]
        url = {**given, "url": daemon.url}
        del url["state_dir"]
        results = [
            anyio.run(partial(cc_execute, "What is 2+2?", **given), backend="trio"),
            anyio.run(partial(cc_execute, "What is 2+2?", **given), backend="asyncio"),
            ccexec.cc_execute_sync("What is 2+2?", **given),
            anyio.run(partial(cc_execute, "What is 2+2?", **url), backend="asyncio"),
            by_ccexecctl("What is 2+2?", given, tmp_path),
        ]
        first = results[0]
        assert (first.output, first.result, first.return_code, first.verdict) == ("It is 4", "It is 4", 0, "success")
        assert not first.partial
        assert first.session_id
        assert first.check() is first
        assert [same(each) for each in results] == [same(first)] * len(results)
        assert len({each.execution_uuid for each in results}) == len(results)

    async def test_a_stream_of_events(self, given, api):
        """What the agent does is told while it does it, tools too; the result is that of the same run."""
        api.answers["Use a tool"] = [Bash("echo $((6 * 7)) from the tool"), Text(["Done."])]
        async with cc_stream("Use a tool", **given, allowed_tools=["Bash"]) as run:
            events = [event async for event in run]
        assert [event.summary for event in events if isinstance(event, ToolUse)] == ["echo $((6 * 7)) from the tool"]
        assert [event.text for event in events if isinstance(event, Said)] == ["Done."]
        assert (run.result.result, run.result.error) == ("Done.", None)

    def test_a_stream_without_an_event_loop(self, quick, api):
        """The same for plain code."""
        api.answers["Say hello to all"] = [Text(["Hello."])]
        with ccexec.cc_stream_sync("Say hello to all", **quick) as run:
            assert [event.text for event in run if isinstance(event, Said)] == ["Hello."]
        assert run.result.is_success

    async def test_live_on_standard_output(self, quick, api, capsys):
        """`stream=True` prints what the agent says once, and nothing in it can take over a terminal."""
        api.answers["Say it live"] = [Text(["one ", "two\n", "three \x1b[31m"])]
        result = await cc_execute("Say it live", **quick, stream=True)
        assert result.is_success
        assert capsys.readouterr().out == "one two\nthree \\x1b[31m\n"

    async def test_progress(self, quick, api):
        """The callback hears of the beginning, of thinking while nothing comes, and of the end; it may be async."""
        api.answers["Wait a while"] = [Text(["a", "b"], per_second=1 / 2.6)]
        heard: list[Progress] = []

        async def note(progress: Progress) -> None:
            heard.append(progress)

        await cc_execute("Wait a while", **quick, progress=note)
        assert [each.kind for each in heard] == [Kind.STARTED, Kind.THINKING, Kind.TEXT, Kind.ENDED]
        assert str(heard[1]).startswith("thinking")

    async def test_twenty_at_once(self, quick, api):
        """Each has its own answer."""
        results: dict[int, ccexec.AgentResult] = {}

        async def one(client: ccexec.Client, number: int) -> None:
            results[number] = await cc_execute(f"Say number {number}.", client=client, **quick)

        for number in range(20):
            api.answers[f"Say number {number}."] = [Text([str(number)])]
        async with ccexec.connect(state_dir=quick.pop("state_dir")) as client, anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(one, client, number)
        assert {number: each.result for number, each in results.items()} == {n: str(n) for n in range(20)}

    async def test_a_long_prompt_and_one_with_a_dash(self, given, api):
        """Half a megabyte goes through standard input, and so does what looks like an option."""
        api.answers["The end of it."] = [Text(["Read."])]
        for prompt in ("é" * 250_000 + " The end of it.", "--help me. The end of it."):
            result = await cc_execute(prompt, **given)
            assert (result.error, result.result) == (None, "Read.")


class TestJson:
    """JSON mode: a value, or a clear error."""

    async def test_a_value(self, given, api):
        """Fenced, with words around it and a comma too many: it is read, and conforms."""
        api.answers["Count the apples"] = [Text(['Sure!\n```json\n{"apples": 3,}\n```\nAnything else?'])]
        schema = {"type": "object", "properties": {"apples": {"type": "integer"}}, "required": ["apples"]}
        result = await cc_execute("Count the apples", **given, json_schema=schema)
        assert result.result == {"apples": 3}
        assert result.attempts == 1

    async def test_asked_again_with_the_error(self, given, api):
        """A reply that does not conform is asked for once more, in the same conversation; both count."""
        api.answers["cannot be used"] = [Text(['{"apples": 4}'])]
        api.answers["Count the green apples"] = [Text(["Four of them."])]
        api.asked.clear()
        result = await cc_execute("Count the green apples", **given, json_mode=True)
        assert (result.result, result.attempts) == ({"apples": 4}, 2)
        assert api.asked == ["Count the green apples", "cannot be used"]

    async def test_never_a_bare_string(self, quick, api):
        """Twice no JSON is an error that has the text."""
        api.answers["cannot be used"] = [Text(["I said four."])]
        api.answers["Count the red apples"] = [Text(["Four of them."])]
        with pytest.raises(ccexec.JsonReplyError, match="no JSON in it") as failed:
            await cc_execute("Count the red apples", **quick, json_mode=True)
        assert failed.value.raw == "I said four."
        assert (failed.value.result.attempts, failed.value.result.result) == (2, None)

    async def test_a_fresh_agent_judges(self, quick, api):
        """`validation_prompt`: what it says makes a right answer a success and a wrong one a failure."""
        api.answers["Judge whether"] = [Text(['{"is_valid": false, "reason": "2+2 is 4"}'])]
        api.answers["What is 2 and 2?"] = [Text(["5"])]
        result = await cc_execute("What is 2 and 2?", **quick, validation_prompt="Is {response} the sum?")
        del api.answers["Judge whether"]
        assert result.validation is not None
        assert (result.verdict, result.validation.is_valid, result.output) == ("not_valid", False, "5")
        assert result.validation.execution_uuid != result.execution_uuid
        with pytest.raises(ccexec.AgentError, match="2\\+2 is 4"):
            result.check()

    async def test_a_uuid_is_repeated(self, quick, api, daemon):
        """The receipt knows what was asked for; a reply without it is a warning."""
        api.answers["End your reply with this line"] = [Text(["4"])]
        result = await cc_execute("What is two and two?", **quick, expect_uuid=True)
        del api.answers["End your reply with this line"]
        assert (result.error, result.warnings) == (None, ("the reply lacks the UUID that it was asked to repeat",))
        labels = daemon.request("status", execution_id=result.execution_uuid)["labels"]
        assert len(labels["expect_uuid"]) == 36

    async def test_a_prompt_is_amended(self, quick, api):
        """`amend_prompt`: a fresh agent rewrites the task, and the result tells how."""
        api.answers["Rewrite the task below"] = [Text(["Print the number four."])]
        api.answers["Print the number four."] = [Text(["4"])]
        result = await cc_execute("Do it somehow", **quick, amend_prompt=True)
        del api.answers["Rewrite the task below"]
        assert (result.task, result.amended_task, result.result) == ("Do it somehow", "Print the number four.", "4")
        assert len(result.warnings) == 2


class TestTrouble:
    """What goes wrong is told as what it is, and what there was is there."""

    async def test_a_time_out(self, given, api):
        """Half of an answer is given, marked as partial; nothing is raised."""
        api.answers["Write slowly"] = [Text(WORDS, per_second=200)]
        result = await cc_execute("Write slowly", **given, timeout=2.5)
        assert (result.verdict, result.partial, result.reason) == ("timeout", True, "timeout")
        assert result.output.startswith("word1 word2 ")
        assert "2.5 s (request)" in (result.error or "")
        assert "longer timeout" in result.suggestion
        assert result.session_id
        assert result.events

    async def test_a_cancellation(self, given, api, daemon):
        """Cancelled from around it, in the middle: the run has what there was, and nothing goes on running."""
        api.answers["Write on and on"] = [Text(WORDS, per_second=200)]
        with anyio.CancelScope() as scope:
            async with cc_stream("Write on and on", **given) as run:
                async for _ in run:
                    if len(run.result.output) > 100:
                        scope.cancel()
        assert scope.cancelled_caught
        assert (run.result.verdict, run.result.partial) == ("cancelled", True)
        assert run.result.output.startswith("word1 word2 ")
        assert daemon.processes(run.execution_uuid) == []

    async def test_a_rate_limit_that_passes(self, given, api):
        """It is tried again, and said so; the attempts are counted."""
        api.answers["Try it again later"] = [Failure(429, "rate_limit_error", "too many requests")]
        heard = []

        def note(progress: Progress) -> None:
            heard.append(str(progress))
            if progress.kind is Kind.RETRY:
                api.answers["Try it again later"] = [Text(["Now."])]

        result = await cc_execute("Try it again later", **given, progress=note)
        assert (result.result, result.attempts) == ("Now.", 2)
        assert any("rate_limited: tries again" in each for each in heard)

    async def test_a_rate_limit_that_stays(self, quick, api):
        """After the last attempt the result says so; when a limit ends too late, nobody waits for it."""
        api.answers["Try it for ever"] = [Failure(429, "rate_limit_error", "too many requests")]
        result = await cc_execute("Try it for ever", **quick)
        assert (result.verdict, result.attempts) == ("rate_limited", 3)
        late = "Claude AI usage limit reached|4102444800"
        api.answers["Try it for ever"] = [Failure(429, "rate_limit_error", late)]
        result = await cc_execute("Try it for ever", **quick)
        assert (result.verdict, result.attempts) == ("rate_limited", 1)
        assert "2100-01-01 00:00 UTC" in result.suggestion

    async def test_a_full_queue(self, start_daemon, quick, api):
        """The daemon takes nothing more: it is asked again after the time that it names."""
        one = start_daemon(max_running=1, max_queued=0)
        api.answers["Wait for a place"] = [Text(["Here."])]
        async with ccexec.connect(state_dir=one.state_dir) as client:
            blocker = await client.execute(argv=["sleep", "300"])

            async def make_room(progress: Progress) -> None:
                if progress.kind is Kind.RETRY:
                    await blocker.control("KILL")

            given = {**quick, "progress": make_room, "client": client}
            del given["state_dir"]
            result = await cc_execute("Wait for a place", **given)
        assert (result.result, result.attempts) == ("Here.", 1)

    async def test_too_many_tokens(self, given, api):
        """Told apart from a rate limit, not tried again, and with what to do."""
        api.answers["Read it all"] = [
            Failure(400, "invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum")
        ]
        result = await cc_execute("Read it all", **given)
        assert (result.verdict, result.attempts) == ("token_limit", 1)
        assert "ask for less" in result.suggestion

    async def test_who_hangs_is_ended(self, quick, api):
        """A model that never answers costs the timeout and no more."""
        api.answers["Never answer"] = [Hang()]
        result = await cc_execute("Never answer", **quick, timeout=1)
        assert (result.verdict, result.partial, result.output) == ("timeout", True, "")

    @pytest.mark.parametrize(
        ("then", "verdict"), [("kill -SEGV $$", "crashed"), ("exit 0", "truncated"), ("echo no >&2; exit 1", "failed")]
    )
    async def test_an_end_in_the_middle(self, quick, then, verdict):
        """A crash, and an end without a result, even with exit code 0: never a success; what was said is there."""
        said = {"type": "assistant", "message": {"content": [{"type": "text", "text": "Half of"}]}}
        result = await cc_execute("Say a whole thing", **{**quick, "program": pretending(INIT, said, then=then)})
        assert (result.verdict, result.partial, result.output) == (verdict, True, "Half of")
        assert result.error

    @pytest.mark.parametrize(
        ("complaint", "advice"),
        [("Invalid API key · Please run /login", "log in"), ("cannot be used with root/sudo privileges", "IS_SANDBOX")],
    )
    async def test_what_the_user_has_to_mend(self, quick, complaint, advice):
        """No login, or root without a sandbox: the suggestion says what to do."""
        then = f"echo '{complaint}' >&2; exit 1"
        result = await cc_execute("Say hello, please", **{**quick, "program": pretending(INIT, then=then)})
        assert complaint in (result.error or "")
        assert advice in result.suggestion

    async def test_a_missing_program(self, quick):
        """It says how to install it."""
        with pytest.raises(ccexec.AgentMissingError, match="cannot start no-such-claude") as missing:
            await cc_execute("Say hello, please", **{**quick, "program": "no-such-claude"})
        assert "PATH" in missing.value.hint

    async def test_a_daemon_that_dies(self, start_daemon, quick):
        """What was said until then is in the result."""
        one = start_daemon()
        said = {"type": "assistant", "message": {"content": [{"type": "text", "text": "Half of"}]}}
        mine = {**quick, "state_dir": one.state_dir, "program": pretending(INIT, said, then="sleep 300")}
        async with cc_stream("Say a whole thing", **mine) as run:
            run._started.link._endpoint = attrs.evolve(run._started.link._endpoint)
            object.__setattr__(run._started.link._endpoint, "patience", 0.2)
            async for event in run:
                if isinstance(event, Said):
                    one.kill()
        assert (run.result.verdict, run.result.output, run.result.partial) == ("connection_lost", "Half of", True)

    def test_files_that_were_made(self, quick):
        """Those that the agent's own tool wrote, and of these the ones where it worked."""
        uses = [
            {"type": "tool_use", "id": str(n), "name": "Write", "input": {"file_path": f"/tmp/{n}.txt", "content": ""}}
            for n in (1, 2)
        ]
        results = [{"type": "tool_result", "tool_use_id": str(n), "is_error": n == 2, "content": ""} for n in (1, 2)]
        lines = [
            INIT,
            {"type": "assistant", "message": {"content": uses}},
            {"type": "user", "message": {"content": results}},
            {
                "type": "result",
                "subtype": "success",
                "is_error": False,
                "result": "ok",
                "total_cost_usd": 0.5,
                "num_turns": 2,
                "usage": {"input_tokens": 3, "output_tokens": 4, "server_uses": 1},
            },
        ]
        result = ccexec.cc_execute_sync("Write two files", **{**quick, "program": pretending(*lines)})
        assert result.files_created == ("/tmp/1.txt",)
        assert (result.cost, result.turns, result.usage.total_tokens) == (0.5, 2, 7)
        assert json.loads(json.dumps(result.as_dict()))["usage"]["others"] == {"server_uses": 1}

    def test_an_interrupted_call(self, quick):
        """Ctrl-C in plain code ends the agent, and the exception has what it had said."""
        said = {"type": "assistant", "message": {"content": [{"type": "text", "text": "Half of"}]}}
        mine = {**quick, "program": pretending(INIT, said, then="sleep 300"), "state_dir": str(quick["state_dir"])}
        script = f"""
import os, signal
from ccexecctl.api import *
def note(progress):
    if progress.kind is Kind.TEXT:
        os.kill(os.getpid(), signal.SIGINT)
try:
    cc_execute_sync("Say a whole thing", progress=note, **{ ({**mine, "retries": None})!r} | {{"retries": Retries()}})
except InterruptedTaskError as interrupted:
    print(interrupted.result.output, interrupted.result.partial, interrupted.result.verdict)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout == "Half of True cancelled\n"


class TestLists:
    """Tasks one after another."""

    async def test_in_order_with_what_was_said_before(self, quick, api):
        """Each has a fresh agent, which knows of the others what it depends on."""
        api.answers["Judge the plan: three steps"] = [Text(["Good."])]
        api.answers["Make a plan"] = [Text(["three steps"])]
        seen: list[str] = []
        done = await cc_execute_list(
            [Task("Make a plan", "plan"), Task("Judge the plan: {{plan}}", "judge", ["plan"])],
            watcher=lambda task: seen.append(f"{task.name} {task.status.value}"),
            **quick,
        )
        assert seen == ["plan running", "plan done", "judge running", "judge done"]
        assert done.check().outputs == {"plan": "three steps", "judge": "Good."}
        assert len({each.result.session_id for each in done.tasks}) == 2

    async def test_a_failure(self, quick, api):
        """It stops the list, or only what depends on it."""
        api.answers["This goes wrong"] = [Failure(400, "invalid_request_error", "no")]
        api.answers["This goes well"] = [Text(["ok"])]
        tasks = ["This goes wrong", Task("This goes well, too", depends=["1"]), "This goes well"]
        stopped = await cc_execute_list(tasks, **quick)
        assert [each.status for each in stopped.tasks] == [Status.FAILED, Status.SKIPPED, Status.SKIPPED]
        went_on = await cc_execute_list(tasks, on_failure="continue", **quick)
        assert [each.status for each in went_on.tasks] == [Status.FAILED, Status.SKIPPED, Status.DONE]
        with pytest.raises(ccexec.AgentError):
            went_on.check()

    @pytest.mark.parametrize("tasks", [[Task("a b c", "x"), Task("a b c", "x")], [Task("a b c", "x", ["y"])]])
    async def test_a_list_that_makes_no_sense(self, tasks):
        """Two of one name, or one that depends on what does not come before: refused before anything is started."""
        with pytest.raises(ccexec.UsageError):
            await cc_execute_list(tasks, state_dir="/nonexistent")
