"""policy: what is in force, and why something may or may not run."""

from pathlib import Path

import pytest

SHOWN = {
    "allowed_commands": ["git", "ls"],
    "policy_file": "/etc/ccexecd/policy.toml",
    "policy": {"default": "deny", "rules": [{"action": "allow", "place": 1, "name": "x", "program": ["git"]}]},
    "warnings": ["rule 1 allows git with any argument"],
}
VERDICT = {
    "principal": "uid 0",
    "command": "git push",
    "decision": "refused",
    "reason": "rule 2 denies it",
    "rule": "rule 2",
    "steps": [{"rule": "rule 1", "miss": "argument 1 is none that it knows"}],
    "words": ["git", "push"],
    "executable": "/usr/bin/git",
    "cwd": "/",
    "environment": [],
    "warnings": ["careful"],
}


def test_show_lists_what_is_in_force(ctl, daemon):
    """The allow-list, the rules in order, and what is to be said of them."""
    daemon.answers["policy"] = SHOWN
    assert ctl("policy", "show").out.splitlines() == [
        "allowed_commands: git, ls",
        "policy_file: /etc/ccexecd/policy.toml, default deny",
        '  1. allow name="x" program=["git"]',
        "warning: rule 1 allows git with any argument",
    ]
    assert ctl("policy", "show", "--json").json == SHOWN
    daemon.answers["policy"] = {**SHOWN, "allowed_commands": None, "policy": None, "warnings": []}
    assert ctl("policy", "show").out == "allowed_commands: not set\npolicy_file: not set\n"


def test_a_verdict_is_explained(ctl, daemon):
    """The exit code says which it is; the daemon is asked about exactly that."""
    daemon.answers["policy"] = VERDICT
    said = ctl("policy", "test", "--cwd", "/srv", "--env", "A", "--env", "B", "--", "git", "--json", "push")
    assert said.code == 1
    assert said.out.splitlines() == [
        "refused: rule 2 denies it",
        "  program    /usr/bin/git",
        '  words      ["git", "push"]',
        "  directory  /",
        "  asked by   uid 0",
        "  not rule 1: argument 1 is none that it knows",
        "warning: careful",
    ]
    assert daemon.asked("policy") == [{"argv": ["git", "--json", "push"], "cwd": "/srv", "env": ["A", "B"]}]
    daemon.answers["policy"] = {**VERDICT, "decision": "allowed"}
    assert ctl("policy", "test", "--shell", "git log; x").code == 0
    assert daemon.asked("policy")[-1] == {"command": "git log; x", "cwd": str(Path.cwd()), "env": []}


@pytest.mark.parametrize("words", [(), ("--shell", "x", "--", "y"), ("--",)])
def test_words_or_a_string(ctl, words):
    """One of them, and not both."""
    assert ctl("policy", "test", *words).code == 2


def test_a_file_is_judged_by_without_a_daemon(ctl, tmp_path):
    """With this machine's programs; what it allows without saying so is said."""
    file = tmp_path / "policy.toml"
    file.write_text('default = "deny"\n[[rule]]\naction = "allow"\nprogram = ["env"]\n')
    allowed = ctl("policy", "test", "--file", str(file), "--json", "--", "env", "x").json
    assert (allowed["decision"], allowed["rule"]) == ("allowed", "rule 1")
    assert any("so every program" in warning for warning in allowed["warnings"])
    refused = ctl("policy", "test", "--file", str(file), "--shell", "env; x")
    assert refused.code == 1
    assert refused.out.startswith("refused: command string holds shell syntax (';' at character 4)")
    assert "a shell is needed to tell" in refused.out
    assert ctl("policy", "test", "--file", str(file), "--env", "LD_PRELOAD", "--", "env").code == 1
    file.write_text('default = "deny"\nrules = 1\n')
    said = ctl("policy", "test", "--file", str(file), "--", "env")
    assert said.code == 1
    assert "unknown field: rules" in said.err
