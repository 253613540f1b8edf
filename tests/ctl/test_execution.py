"""`ccexecctl status ID`: one execution, and what is known of an agent."""

from typing import Any

import pytest

from ccexecctl import execution

AGENT = {
    "name": "claude",
    "session_id": "5e55",
    "model": "opus",
    "version": "2.1",
    "turns": 3,
    "cost_usd": 0.25,
    "usage": {"input_tokens": 1200, "output_tokens": 34},
    "tool": {"name": "Bash", "summary": "make \x1b[31m all"},
    "tools_in_flight": 1,
    "tool_uses": 4,
    "background_tasks": 1,
    "last_event_at": "2020-01-02T03:04:05+00:00",
    "api_retry": {"attempt": 2, "max_retries": 10, "delay": 0.5, "status": 429, "error": "rate_limit"},
    "verdict": None,
    "resume": ["claude", "-p", "--resume=5e55"],
}

VERDICT = {
    "cause": "rate_limited",
    "is_success": False,
    "advice": "Wait.",
    "text": "API Error: 429",
    "denied_tools": ["Bash"],
}


def described(**facts: Any) -> dict[str, Any]:
    """What the daemon tells of one that runs."""
    return {
        "execution_id": "1f0c9b2e-0000-4000-8000-000000000000",
        "state": "RUNNING",
        "queue_position": None,
        "command": "claude -p x",
        "cwd": "/work dir",
        "pid": 17,
        "started_at": None,
        "duration": 61.0,
        "exit_code": None,
        "reason": None,
        "error": "",
        "stdout_bytes": 2048,
        "stderr_bytes": 0,
        "labels": {"job": "nightly"},
        "resources": {"cpu_seconds": 1.0, "memory_bytes": 1 << 20, "process_count": 3},
        **facts,
    }


def facts_of(found: dict[str, Any]) -> dict[str, str]:
    """What each line says, by its name."""
    return {line[2:14].rstrip(): line[14:] for line in execution.lines(found)[1:]}


def test_a_command_that_runs():
    """One fact on a line; nothing of an agent."""
    first, *_ = execution.lines(described())
    assert first == "1f0c9b2e-0000-4000-8000-000000000000 is running"
    assert facts_of(described()) == {
        "command": "claude -p x",
        "cwd": "/work dir",
        "pid": "17",
        "started": "-",
        "duration": "1m01s",
        "output": "2.0 KiB, errors 0 B",
        "labels": "job=nightly",
        "uses": "1.0s of CPU, 1.0 MiB, 3 processes",
    }


def test_an_agent_that_runs():
    """Its conversation, what it has used, what it does; characters that could take over a terminal are escaped."""
    facts = facts_of(described(agent=AGENT))
    assert facts["agent"] == "claude 2.1 opus"
    assert facts["session"] == "5e55"
    assert facts["used"] == "3 turns, 1200 tokens in, 34 out, $0.2500"
    assert facts["tool"] == "Bash: make \\x1b[31m all"
    assert facts["tools"] == "4 used, 2 at work"
    assert facts["API"] == "failed: rate_limit (429); attempt 2 of 10"
    assert facts["go on with"] == "claude -p --resume=5e55 PROMPT"
    assert "verdict" not in facts


def test_an_agent_that_has_ended():
    """How it went, in words, and what it said itself."""
    ended = described(state="FINISHED", exit_code=1, reason="exited", agent={**AGENT, "verdict": VERDICT, "tool": None})
    assert execution.lines(ended)[0].endswith("is finished: exited, exit code 1")
    facts = facts_of(ended)
    assert (facts["verdict"], facts["details"], facts["denied"]) == ("rate limited: Wait.", "API Error: 429", "Bash")


def test_what_waits_or_never_ran():
    """Its place, or why not."""
    waits = described(state="QUEUED", queue_position=2, pid=None, resources=None)
    assert execution.lines(waits)[0].endswith("is queued, 2 from the front")
    assert not {"duration", "uses"} & facts_of(waits).keys()
    held = execution.lines({**waits, "lane": "slow"})
    assert held[0].endswith("is queued, 2 from the front of the lane slow")
    failed = described(state="FINISHED", reason="spawn_failed", error="program: no such file")
    assert execution.lines(failed)[0].endswith("is finished: spawn_failed")
    assert facts_of(failed)["error"] == "program: no such file"


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"reason": "signaled", "exit_code": -9}, "finished: signaled, signal 9"),
        ({"reason": "limit", "limit": "cpu_seconds", "exit_code": -15}, "finished: limit (cpu_seconds), signal 15"),
        ({"reason": "lost"}, "finished: lost"),
    ],
)
def test_its_end_names_signal_and_limit(facts, told):
    """A signal is no exit code, and which limit it was is known."""
    assert execution.lines(described(state="FINISHED", **facts))[0].endswith(f" is {told}")


def test_it_is_asked_for_by_its_id(ctl, daemon):
    """The beginning of one is enough; --json prints what the daemon said."""
    found = described(agent=AGENT)
    daemon.answers["status"] = found
    said = ctl("status", "1f0c")
    assert said.code == 0
    assert said.out.splitlines() == execution.lines(found)
    assert daemon.asked("status") == [{"execution_id": "1f0c"}]
    assert ctl("status", "1f0c", "--json").json == found
