"""hooks: what is in force, which hooks a command would meet, and what one does."""

import pytest

from ccexecctl.commands.hooks import EVENTS
from ccexecd.core import hooks as core

STATUS = {
    "enabled": True,
    "running": 0,
    "waiting": 0,
    "hooks": [
        {"name": "venv", "events": ["pre_execute"], "required": True, "timeout": 5.0, "calls": 4, "failures": 1,
         "unmade": 0, "refusals": 0, "seconds": 0.2, "last_failure": {"message": "ended with exit code 3"}},
        {"name": "tell", "events": ["on_error", "on_stall"], "required": False, "timeout": 5.0, "calls": 0,
         "failures": 0, "unmade": 2, "refusals": 0, "seconds": 0.0, "last_failure": None},
    ],
}  # fmt: skip
TRIED = {
    "hook": "venv", "event": "pre_execute", "status": "ok", "message": "", "environment_names": ["PATH"], "unset": [],
    "runs": ["nice", "ls"], "seconds": 0.0312, "complaint": "hm\n",
}  # fmt: skip


def test_list_is_a_table(ctl, daemon):
    """One line for each, with its figures; `--json` is as the daemon tells it."""
    daemon.answers["hook_status"] = STATUS
    header, first, second = ctl("hooks", "list").out.splitlines()
    assert header.split() == ["HOOK", "EVENTS", "CALLS", "REFUSED", "FAILED", "UNMADE", "EACH", "LAST", "FAILURE"]
    assert first.split(None, 7) == ["venv", "(required)", "pre_execute", *"4010", "0.050s  ended with exit code 3"]
    assert second.split() == ["tell", "on_error,on_stall", "0", "0", "0", "2", "-"]
    assert ctl("hooks", "list", "--json").json == STATUS
    daemon.answers["hook_status"] = {**STATUS, "hooks": []}
    assert ctl("hooks", "list").out == "no hooks (hooks_file is not set)\n"


def test_one_is_tried(ctl, daemon):
    """The daemon is asked about exactly that; the exit code says whether the command would run."""
    daemon.answers["hook_run"] = TRIED
    said = ctl("hooks", "run", "venv", "--label", "job=a=b", "--lane", "slow", "--", "ls", "--json")
    assert said.code == 0
    assert said.out.splitlines() == [
        "venv at pre_execute: ok",
        "  took       0.031s",
        '  runs       ["nice", "ls"]',
        "  sets       PATH",
        "  complains  hm",
    ]
    asked = {"name": "venv", "argv": ["ls", "--json"], "lane": "slow", "labels": {"job": "a=b"}}
    assert daemon.asked("hook_run") == [asked]
    failed = {"hook": "x", "event": "on_error", "status": "failed", "reason": "exit", "message": "ended"}
    for answer in ({**TRIED, "status": "refused", "message": "no"}, failed):
        daemon.answers["hook_run"] = answer
        assert ctl("hooks", "run", "--event", "pre_execute", "venv").code == 1


def test_which_ones_a_command_meets(ctl, daemon):
    """By event, asked of the daemon."""
    daemon.answers["hook_test"] = {"command": "ls", "hooks": {"pre_execute": ["a", "b"], "on_error": []}}
    assert ctl("hooks", "test", "--", "ls").out == "pre_execute   a, b\non_error      -\n"
    assert daemon.asked("hook_test") == [{"argv": ["ls"]}]
    assert ctl("hooks", "test").code == 2


def test_a_file_is_looked_into_without_a_daemon(ctl, tmp_path):
    """All that is wrong with it, or which of its hooks a command would meet."""
    file = tmp_path / "hooks.toml"
    file.write_text(
        '[[hook]]\nname = "a"\nevents = ["pre_execute"]\nrun = ["/bin/sh"]\nprogram = ["git"]\n'
        '[[hook]]\nname = "b"\nevents = ["pre_execute", "on_stall"]\nrun = ["/bin/sh"]\nlane = ["slow"]\n'
    )
    file.chmod(0o600)
    assert ctl("hooks", "test", "--file", str(file), "--json").json["hooks"]["pre_execute"] == ["a", "b"]
    met = ctl("hooks", "test", "--file", str(file), "--lane", "slow", "--json", "--", "ls").json["hooks"]
    assert (met["pre_execute"], met["on_stall"]) == (["b"], ["b"])
    file.write_text('[[hook]]\nname = ""\n')
    said = ctl("hooks", "test", "--file", str(file))
    assert said.code == 1
    assert "hook[0].events: required" in said.err


@pytest.mark.parametrize("words", [(), ("run",), ("run", "--event", "never", "x"), ("show",)])
def test_wrong_usage(ctl, words):
    """Exit 2."""
    assert ctl("hooks", *words).code == 2


def test_the_events_are_the_daemon_s():
    """The tool has them by itself, to start fast."""
    assert EVENTS == core.EVENTS
