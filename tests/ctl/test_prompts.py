"""prompts: what is asked for each deed, and how it is told."""

import base64
import os
from pathlib import Path

from ccexecctl.commands.prompts import STDIN_PIECE

VERSION = {
    "name": "review",
    "version": 2,
    "kind": "prompt",
    "why": "shorter",
    "created_at": "2026-01-02T03:04:05+00:00",
    "successes": 9,
    "failures": 1,
    "rate": 0.9,
    "interval": [0.5958, 0.9821],
    "lacking": "9 to 1 in 10 runs: 1 more successes needed",
    "production": False,
}

COUNTED = {**VERSION, "succeeded": True, "counted": True, "demoted": False}


def test_prompts_are_listed(ctl, daemon):
    """Newest and production, side by side."""
    daemon.answers["prompts_list"] = {
        "prompts": [{"name": "review", "kind": "prompt", "newest": VERSION, "production_version": None}]
    }
    assert ctl("prompts", "list").out.splitlines()[1].split() == ["review", "prompt", "2", "9:1", "-", "-"]


def test_one_is_shown_with_its_versions(ctl, daemon):
    """Its text, and which version does better, as far as that is known."""
    first = {**VERSION, "version": 1, "production": True, "compared": "worse"}
    shown = {
        **VERSION,
        "text": "do\nit\x1b[31m",
        "sha256": "x",
        "versions": [first, {**VERSION, "compared": "unclear"}],
    }
    daemon.answers["prompts_show"] = shown
    lines = ctl("prompts", "show", "review", "--version", "2").out.splitlines()
    assert lines[0] == "review version 2, 9 to 1 in 10 runs: 1 more successes needed"
    assert lines[2:4] == ["do", "it\\x1b[31m"]
    assert lines[6].split() == ["1", "*", "9:1", "60%", "to", "98%", "worse", "shorter"]
    assert lines[7].split() == ["2", "9:1", "60%", "to", "98%", "shorter"]
    assert daemon.asked("prompts_show") == [{"name": "review", "version": 2}]


def test_a_version_or_a_run_is_recorded(ctl, daemon, tmp_path):
    """A version needs its reason; a run says itself what it ran."""
    daemon.answers |= {"prompts_record": {"name": "review", "version": 3}, "prompts_count": COUNTED}
    (tmp_path / "p.md").write_text("text\n")
    said = ctl("prompts", "record", "review", "--file", str(tmp_path / "p.md"), "--why", "shorter")
    assert said.out == "review version 3\n"
    assert daemon.asked("prompts_record") == [{"name": "review", "text": "text\n", "why": "shorter"}]
    said = ctl("prompts", "record", "review", "--execution", "1aa0")
    assert said.out == "review version 2: verified, succeeded; now 9:1, 60% to 98%\n"
    assert ctl("prompts", "record", "review", "--file", str(tmp_path / "p.md")).code == 2
    assert ctl("prompts", "record", "review").code == 2
    assert ctl("prompts", "record", "review", "--file", str(tmp_path / "none"), "--why", "x").code == 1


def answers_of_a_run(text):
    """What a daemon says while the prompt `text` is run."""
    return {
        "prompts_show": {**VERSION, "text": text, "sha256": "d1"},
        "execute": {"execution_id": "e1", "status": "started"},
        "detach": {},
        "write_stdin": {"accepted_bytes": 1},
        "close_stdin": {},
        "wait": {"exit_code": 0, "reason": "exited"},
        "prompts_count": COUNTED,
    }


def test_a_run_is_labelled_and_counted(ctl, daemon):
    """An agent is called as by `agent`, here and with this environment; the exit status tells what came of it."""
    text = "do 'it'; $(rm)"
    daemon.answers |= answers_of_a_run(text)
    said = ctl("prompts", "run", "review", "--version", "2", "--model", "m", "--timeout", "9", "--label", "a=b")
    assert said.code == 0
    assert daemon.asked("prompts_show") == [{"name": "review", "version": 2}]
    [request] = daemon.asked("execute")
    assert request["argv"] == ["claude", "-p", text, "--output-format=stream-json", "--verbose", "--model=m"]
    assert request["labels"] == {"a": "b", "prompt": "review", "prompt_version": "2", "prompt_sha256": "d1"}
    assert (request["agent"], request["timeout"], request["cwd"]) == ("claude", 9.0, str(Path.cwd()))
    assert request["env"]["PATH"] == os.environ["PATH"]
    assert said.out.splitlines()[0] == "execution e1"
    daemon.answers["prompts_count"] = {**COUNTED, "succeeded": False, "demoted": True, "counted": False}
    said = ctl("prompts", "run", "review", "--no-env")
    assert said.code == 1
    assert daemon.asked("execute")[-1]["env"] == {}
    assert "failed, which had been counted before" in said.out
    assert "no longer in production" in said.out
    daemon.answers["prompts_show"] |= {"kind": "tasks"}
    assert ctl("prompts", "run", "review").code == 2


def test_a_command_has_the_prompt_as_its_last_word(ctl, daemon):
    """As it is, whatever it begins with; how an agent would be called is none of its business."""
    daemon.answers |= answers_of_a_run("- dashes")
    assert ctl("prompts", "run", "review", "--version", "2", "--", "echo", "-n", "--", "x").code == 0
    [request] = daemon.asked("execute")
    assert request["argv"] == ["echo", "-n", "--", "x", "- dashes"]
    assert "agent" not in request
    said = ctl("prompts", "run", "review", "--model", "m", "--", "echo")
    assert said.code == 2
    assert "model" in said.err
    assert "required: NAME\n" in ctl("prompts", "run").err


def test_an_agent_takes_no_prompt_for_an_option(ctl, daemon):
    """One that begins with a dash, or is too long for a word, goes to its standard input."""
    text = "- dashes, é, " + "x" * STDIN_PIECE
    daemon.answers |= answers_of_a_run(text)
    assert ctl("prompts", "run", "review").code == 0
    [request] = daemon.asked("execute")
    assert request["stdin"] == "open"
    assert text not in request["argv"]
    written = [base64.b64decode(each["data_base64"]) for each in daemon.asked("write_stdin")]
    assert len(written) == 2
    assert b"".join(written).decode() == text
    assert daemon.asked("close_stdin") == [{"execution_id": "e1"}]


def test_graduation_and_history(ctl, daemon, refusal):
    """What is refused is told with what is missing."""
    daemon.answers["prompts_graduate"] = {**VERSION, "production": True}
    assert ctl("prompts", "graduate", "review").out == "review version 2 is in production\n"
    daemon.answers["prompts_graduate"] = refusal(-32005, "not fit for production: 1 more successes needed")
    said = ctl("prompts", "graduate", "review", "--version", "1")
    assert said.code == 1
    assert said.err == "ccexecctl: not fit for production: 1 more successes needed\n"
    assert ctl("prompts", "graduate", "review", "--version", "0").code == 2
    event = {"version": 2, "event": "recorded", "told": "shorter", "at": "2026-01-02T03:04:05+00:00"}
    daemon.answers["prompts_history"] = {"events": [event]}
    assert ctl("prompts", "history", "review").out.splitlines()[1].split()[-3:] == ["2", "recorded", "shorter"]
