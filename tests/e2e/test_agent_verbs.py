"""`ccexecctl agent` and `ccexecctl tasks run`, with an agent under a real daemon."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import anthropic_api, claude_program
from .anthropic_api import Api, Failure, Hang, Text
from .daemon_process import CHECKOUT, Daemon, wait_for

PLAN = """
[[task]]
name = "plan"
prompt = "Make a plan."
[[task]]
name = "judge"
depends = ["plan"]
prompt = "Judge the plan: {{plan}}"
"""


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """The model."""
    with anthropic_api.serve() as served:
        yield served


@pytest.fixture
def words(daemon: Daemon, tmp_path: Path) -> Callable[..., list[str]]:
    """The words of a command line with the stand-in as its agent."""
    program = tmp_path / "claude"
    program.write_text(f'#!/bin/sh\nexec {" ".join(claude_program.standin())} "$@"\n')
    program.chmod(0o755)

    def build(*verb: str, rest: tuple[str, ...]) -> list[str]:
        ctl = [sys.executable, "-m", "ccexecctl", "--state-dir", str(daemon.state_dir)]
        return [*ctl, *verb, "--program", str(program), *rest]

    return build


@pytest.fixture
def environment(api: Api) -> dict[str, str]:
    """What the agent finds, by way of ccexecctl's own environment."""
    return {
        **os.environ,
        "ANTHROPIC_BASE_URL": api.url,
        "ANTHROPIC_API_KEY": "sk-ant-stand-in",
        "PYTHONPATH": str(CHECKOUT),
    }


@pytest.fixture
def agent(words, environment) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `ccexecctl agent` to its end."""

    def run(*rest: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = words("agent", rest=rest)
        return subprocess.run(
            command, env=environment, input=stdin, capture_output=True, text=True, check=False, timeout=60
        )

    return run


@pytest.fixture
def tasks(words, environment) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `ccexecctl tasks run` to its end."""

    def run(*rest: str) -> subprocess.CompletedProcess[str]:
        command = words("tasks", "run", rest=rest)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    return run


def test_an_answer(agent, api, tmp_path):
    """As text, from standard input, live, and as JSON that has all that the Python API tells."""
    api.answers["What is 2+2?"] = [Text(["It is ", "4"])]
    for done in (agent("What is 2+2?"), agent("-", stdin="What is 2+2?"), agent("--stream", "What is 2+2?")):
        assert (done.returncode, done.stdout, done.stderr) == (0, "It is 4\n", "")
    told = json.loads(agent("--json", "What is 2+2?").stdout)
    assert (told["result"], told["verdict"], told["return_code"], told["partial"]) == ("It is 4", "success", 0, False)
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    api.answers["Give me a value"] = [Text(['Here: {"a": 1,}'])]
    assert json.loads(agent("--json-schema", str(schema), "Give me a value").stdout) == {"a": 1}


def test_what_goes_wrong(agent, api):
    """The exit code tells, and what to do is on standard error; what there was is printed all the same."""
    api.answers["Write on and on"] = [Text([f"word{n} " for n in range(1000)], per_second=200)]
    late = agent("--timeout", "1.5", "Write on and on")
    assert late.returncode == 1
    assert late.stdout.startswith("word0 word1 ")
    assert "hint: give it a longer timeout" in late.stderr
    api.answers["This fails at once"] = [Failure(400, "invalid_request_error", "Your credit balance is too low")]
    failed = agent("This fails at once")
    assert (failed.returncode, "credit balance" in failed.stderr) == (1, True)
    silent = agent("--program", "/bin/false", "This fails without a word")
    assert (silent.returncode, silent.stdout) == (1, "")
    assert agent("--agent", "nobody", "Say hello to me").returncode == 2
    assert agent("--program", "no-such-program", "Say hello to me").returncode == 127
    assert agent("--json-schema", "/nonexistent", "Say hello to me").returncode == 2


def test_what_it_waits_for_is_told(agent, tmp_path):
    """An API that has to be asked again, which can go on for minutes, in which nothing else is to be seen."""
    program = tmp_path / "recorded"
    recording = CHECKOUT / "tests" / "agents" / "recorded" / "2.1.329" / "err_429_twice_then_ok.out"
    program.write_text(f"#!/bin/sh\ncat {recording}\n")
    program.chmod(0o755)
    done = agent("--program", str(program), "Say hello to me")
    again = "ccexecctl: the agent asks its model again in 1 s (rate_limit)"
    assert (done.returncode, done.stderr.splitlines()) == (0, [again, again])


def test_ctrl_c(words, environment, api, daemon):
    """It cancels the agent, prints what it had said, and exits as Ctrl-C does."""
    api.answers["Write until I stop you"] = [Text([f"word{n} " for n in range(5000)], per_second=100)]
    command = words("agent", rest=("--json", "Write until I stop you"))
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    live = wait_for(lambda: daemon.request("list", state="live")["executions"], "it runs", 20)
    output = {"execution_id": live[0]["execution_id"], "from_seq": 0}
    wait_for(lambda: "word3 " in json.dumps(daemon.request("read_output", **output)), "it has said something", 20)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    told = json.loads(said)
    assert (told["verdict"], told["partial"]) == ("cancelled", True)
    assert told["output"].startswith("word0 word1 ")


def test_a_list_goes_on_where_it_stopped(tasks, api, tmp_path):
    """What is done is not asked again; what failed is; and a task whose words have changed, with what depends on it."""
    api.answers["Judge the plan: three steps"] = [Failure(400, "invalid_request_error", "no")]
    api.answers["Make a plan."] = [Text(["three steps"])]
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    api.asked.clear()
    first = tasks(str(plan))
    assert first.returncode == 1
    assert first.stderr.splitlines()[0] == "ccexecctl: [1/2] plan: running"
    assert "1 of 2 done" in first.stdout
    api.answers["Judge the plan: three steps"] = [Text(["Good."])]
    report = tmp_path / "report.json"
    second = tasks(str(plan), "--report", str(report))
    assert (second.returncode, "2 of 2 done" in second.stdout) == (0, True)
    assert [line.split("  ")[1].strip() for line in second.stdout.splitlines()[1:3]] == ["done earlier", "done"]
    assert second.stderr.splitlines()[-1] == f"ccexecctl: the answers are in {report}"
    assert [each["result"]["result"] for each in json.loads(report.read_text())["tasks"]] == ["three steps", "Good."]
    assert api.asked.count("Make a plan.") == 1
    plan.write_text(PLAN.replace("Judge the plan: {{plan}}", "Judge the plan: {{plan}}. Be kind."))
    assert json.loads(tasks(str(plan), "--json").stdout)["is_success"]
    assert (api.asked.count("Make a plan."), api.asked.count("Judge the plan: three steps")) == (1, 3)
    assert tasks(str(plan), "--restart").returncode == 0
    assert api.asked.count("Make a plan.") == 2


def test_what_was_killed_is_gone_on_with(words, environment, tasks, api, daemon, tmp_path):
    """ccexecctl killed in the middle of a task: the next run does it again, and only that."""
    api.answers["Think for ever"] = [Hang()]
    api.answers["Make a plan."] = [Text(["three steps"])]
    plan = tmp_path / "plan.md"
    plan.write_text("## plan\n\nMake a plan.\n\n## think\n\nThink for ever.\n")
    api.asked.clear()
    process = subprocess.Popen(words("tasks", "run", rest=(str(plan),)), env=environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: "Think for ever" in api.asked, "the second task runs", 20)
    process.kill()
    process.wait()
    wait_for(lambda: not daemon.processes(), "its agent has gone with it", 20)
    api.answers["Think for ever"] = [Text(["Thought."])]
    done = tasks(str(plan))
    assert (done.returncode, "2 of 2 done" in done.stdout) == (0, True)
    assert api.asked == ["Make a plan.", "Think for ever", "Think for ever"]


def test_a_table_on_a_terminal(words, environment, api, tmp_path):
    """There, it is drawn again in place; the last one shows what became of all."""
    api.answers["Make a plan."] = [Text(["three steps"])]
    plan = tmp_path / "plan.md"
    plan.write_text("## plan\n\nMake a plan.\n")
    ours, theirs = pty.openpty()
    command = words("tasks", "run", rest=(str(plan),))
    done = subprocess.run(command, env=environment, stderr=theirs, stdout=subprocess.PIPE, check=False, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "\x1b[2A\x1b[J" in shown
    assert shown.rpartition("\x1b[J")[2].split()[:6] == ["TASK", "STATUS", "TIME", "COST", "plan", "done"]
