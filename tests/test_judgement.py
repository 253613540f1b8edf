"""What may run, judged on real files: by the allow-list, by the policy, and why."""

import os
import time
from pathlib import Path

import pytest

from ccexecd.config import Config
from ccexecd.core.policy import RefusedError
from ccexecd.core.rules import Policy, Rule
from ccexecd.judgement import Judge, question

SHELL = "/bin/bash"


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    """A folder with programs `ok`, `other` and `many`, of which `one` is another name."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("ok", "other", "many"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    (folder / "one").symlink_to("many")
    return folder


@pytest.fixture
def judge(bin_dir: Path):
    """Makes a judge whose PATH is that folder."""

    def make(rules: Policy | None = None, environ: dict[str, str] | None = None, **keys: object) -> Judge:
        return Judge(Config(**keys), rules, {"PATH": str(bin_dir), "KEPT": "1", **(environ or {})})

    return make


def ask(command: str | None = None, *words: str, **given: object):
    return question(words or None, command, SHELL, **given)


DENY = Policy("deny", (Rule("allow", 1, "ok", program=("ok",)),))
ALLOW = Policy("allow", (Rule("deny", 1, "other", program=("other",)),))


def test_without_rules_everything_may_run(judge):
    """And nothing about it is changed."""
    spec = ask("anything; at | all")
    assert judge().rule(spec, "x").spec is spec


def test_a_string_that_was_judged_runs_without_a_shell(judge):
    """Its words do."""
    for one in (judge(DENY), judge(allowed_commands=("ok",))):
        ruling = one.rule(ask("ok 'a b' --x=y"), "x")
        assert (ruling.spec.argv, ruling.spec.shell) == (("ok", "a b", "--x=y"), False)
        assert ruling.reason


@pytest.mark.parametrize("command", ["ok; other", "ok && ok", "ok $(other)", "ok > file", "X=1 ok", "", "'", "other"])
def test_a_string_that_cannot_be_judged_is_refused(judge, command):
    """Wherever something has to be allowed."""
    for one in (judge(DENY), judge(allowed_commands=("ok",))):
        with pytest.raises(RefusedError):
            one.rule(ask(command), "x")


def test_both_have_to_agree(judge):
    """An allow-list and a policy."""
    one = judge(Policy("allow", (Rule("deny", 1, any_argument=("x",)),)), allowed_commands=("ok",))
    assert one.rule(ask(None, "ok"), "x")
    for words in (("ok", "x"), ("other",)):
        with pytest.raises(RefusedError):
            one.rule(ask(None, *words), "x")


def test_with_a_default_that_allows_a_shell_is_judged_as_a_program(judge, bin_dir):
    """A string that only a shell understands is that shell's; a rule may deny the shell."""
    assert judge(ALLOW).rule(ask("ok; other"), "x").spec.shell
    assert judge(ALLOW).rule(ask("cd /"), "x").spec.shell
    assert not judge(ALLOW).rule(ask("ok a"), "x").spec.shell
    with pytest.raises(RefusedError, match=r"rule 1 \(other\) denies it"):
        judge(ALLOW).rule(ask("other a"), "x")
    without_shell = Policy("allow", (Rule("deny", 1, program=(SHELL,)),))
    with pytest.raises(RefusedError):
        judge(without_shell).rule(ask("ok; other"), "x")


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "PYTHONPATH", "GIT_SSH_COMMAND", "BASH_FUNC_ok%%", "PAGER"])
def test_the_environment_walks_around_nothing(judge, name):
    """Whatever decides: names by which one program makes another run are refused, set or taken away."""
    for rules in (DENY, ALLOW):
        with pytest.raises(RefusedError) as caught:
            judge(rules).rule(ask(None, "ok", env={name: "x"}), "x")
        assert caught.value.environment == (name,)
    with pytest.raises(RefusedError):
        judge(DENY, {name: "x"} if name != "PATH" else None).rule(ask(None, "ok", unset=(name,)), "x")


def test_a_rule_may_grant_a_name_by_itself(judge):
    """Written out, not by a pattern; PATH never, by which the program itself is found."""
    granting = Policy("deny", (Rule("allow", 1, program=("ok",), environment=("GIT_SSH", "PY*", "PATH")),))
    assert judge(granting).rule(ask(None, "ok", env={"GIT_SSH": "x", "KEPT": "1"}), "x")
    for name in ("PYTHONPATH", "PATH"):
        with pytest.raises(RefusedError):
            judge(granting).rule(ask(None, "ok", env={name: "x"}), "x")


def test_a_name_that_is_a_link_counts_by_itself(judge, bin_dir):
    """Allowing one name of a file allows no other."""
    one = Policy("deny", (Rule("allow", 1, program=("one",)),))
    assert judge(one).rule(ask(None, "one"), "x")
    with pytest.raises(RefusedError):
        judge(one).rule(ask(None, "many"), "x")
    assert judge(one).explain(ask(None, "one"), "x")["executable"] == str(bin_dir / "many")


def test_a_relative_directory_in_path_makes_names_unsafe(judge, bin_dir, tmp_path):
    """It is another one from each working directory: absolute paths still work."""
    one = judge(Policy("deny", (Rule("allow", 1, program=("ok", f"{bin_dir}/ok")),)), {"PATH": f".:{bin_dir}"})
    with pytest.raises(RefusedError, match="no program that can be found and judged"):
        one.rule(ask(None, "ok", cwd=str(tmp_path)), "x")
    assert one.rule(ask(None, f"{bin_dir}/ok"), "x")


def test_a_path_that_is_withheld_is_not_judged_by(judge, bin_dir):
    """Programs are then found where the system has them, so that is where they are judged."""
    with pytest.raises(RefusedError):
        judge(DENY, unset_environment=("PATH",)).rule(ask(None, "ok"), "x")


@pytest.mark.parametrize("name", ["bin/ok", "./ok", "../ok", "nosuch", "/nosuch"])
def test_what_cannot_be_found_for_sure_is_refused(judge, name):
    """By either default."""
    for rules in (DENY, ALLOW):
        with pytest.raises(RefusedError):
            judge(rules).rule(ask(None, name), "x")


def test_a_directory_is_judged_by_where_it_leads(judge, tmp_path):
    """A link out of the roots is outside of them."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "out").symlink_to("/")
    one = judge(Policy("deny", (Rule("allow", 1, cwd=(str(tmp_path / "in"),)),)))
    assert one.rule(ask(None, "ok", cwd=str(tmp_path / "in" / "a")), "x")
    for cwd in (str(tmp_path / "in" / "out"), str(tmp_path / "in" / ".."), None):
        with pytest.raises(RefusedError):
            one.rule(ask(None, "ok", cwd=cwd), "x")


def test_so_much_takes_no_long_time(judge):
    """A thousand arguments that an expression takes longest on are not tried by it; more are refused."""
    slow = Policy("allow", (Rule("allow", 1, no_argument=("re:a*a*b",)), Rule("deny", 2, any_argument=("*c",))))
    began = time.process_time()
    told = judge(slow).explain(ask(None, "ok", *["a" * 200] * 900), "x")
    assert time.process_time() - began < 2  # seconds; the expression would take 20 ms for each
    assert told["steps"][0] == {"rule": "rule 1", "miss": "argument 1 is one that it excludes"}
    with pytest.raises(RefusedError, match="too much to be judged"):
        judge(slow).rule(ask(None, "ok", *["a"] * 1001), "x")


def test_a_verdict_explains_itself(judge, bin_dir):
    """What was resolved, which rule decided, and what was looked at before."""
    rules = Policy("deny", (Rule("deny", 1, "no x", any_argument=("x",)), Rule("allow", 2, program=("ok",))))
    assert judge(rules).explain(ask("ok y", env={"A": "1", "KEPT": "1"}), "uid 5") == {
        "principal": "uid 5",
        "command": "ok y",
        "decision": "allowed",
        "reason": "rule 2 allows it",
        "run_as": None,
        "runs": ["ok", "y"],
        "rule": "rule 2",
        "steps": [{"rule": "rule 1 (no x)", "miss": "none of its arguments is there"}],
        "words": ["ok", "y"],
        "executable": str(bin_dir / "ok"),
        "cwd": "/",
        "environment": ["A"],
        "warnings": [],
    }
    refused = judge(rules).explain(ask("ok; y"), "uid 5")
    assert (refused["decision"], refused["words"], refused["executable"]) == ("refused", None, None)
    assert refused["reason"].startswith("command string holds shell syntax (';' at character 3)")
    assert judge().explain(ask("a; b"), "x")["reason"] == "everything may run"


def test_a_wrapper_is_warned_of(judge, bin_dir):
    """What is allowed there runs what nobody has judged."""
    (bin_dir / "env").symlink_to("/usr/bin/env")
    one = judge(Policy("deny", (Rule("allow", 1, program=("env",)),)))
    told = one.explain(ask(None, "env", "other"), "x")
    assert told["decision"] == "allowed"
    assert told["warnings"] == ["env is allowed here, and it runs what it is told: nothing that it starts is judged"]
    assert len(one.warnings()) == 1


def test_the_record_names_what_starts(judge, bin_dir):
    """Also by a PATH of the client's own, where everything may run."""
    assert judge().executable_of(ask(None, "one")) == str(bin_dir / "many")
    assert judge().executable_of(ask(None, "one", env={"PATH": "/nowhere"})) == ""
    assert judge().executable_of(ask("x; y")) == os.path.realpath(SHELL)
