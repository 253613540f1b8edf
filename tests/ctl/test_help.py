"""The command line: help that cannot rot, and what counts as wrong usage.

The files in tests/golden/help are the help as people see it; a difference is a decision to be reviewed. After a wanted
change: CCEXEC_WRITE_GOLDEN=1 pytest tests/ctl/test_help.py
"""

import argparse
import os
from pathlib import Path

import pytest

from ccexecctl import arguments as command_line
from ccexecctl import commands

GOLDEN = Path(__file__).parent.parent / "golden" / "help"


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every parser of the tree, by its full path."""
    found = {"ccexecctl": command_line.top_parser()}
    pending = [command_line.verb_parser(verb) for verb in commands.SUMMARIES]
    while pending:
        parser = pending.pop(0)
        found[parser.prog] = parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                pending += action.choices.values()
    return found


TREE = parsers()


@pytest.mark.parametrize("path", TREE)
def test_help_is_golden(path):
    """The help of every verb is what was reviewed, on every version of Python."""
    golden = GOLDEN / f"{path.replace(' ', '-')}.txt"
    shown = TREE[path].format_help()
    if os.environ.get("CCEXEC_WRITE_GOLDEN"):
        golden.write_text(shown)
    assert golden.read_text() == shown


@pytest.mark.parametrize("path", TREE)
def test_help_names_its_path_and_has_an_example(path):
    """Every level says its full name, shows at least one example that uses it, and fits the terminal."""
    shown = TREE[path].format_help()
    assert shown.startswith(f"usage: {path} ")
    _, _, examples = shown.partition("\nexample")
    assert f"  {path}" in examples
    assert max(map(len, shown.splitlines())) <= 120


def test_no_help_is_orphaned():
    """Every golden file belongs to a verb that exists."""
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {path.replace(" ", "-") for path in TREE}


def test_every_module_is_a_verb():
    """One verb, one file, one line in the table."""
    files = Path(commands.__file__).parent.glob("*.py")
    assert {file.stem for file in files} - {"__init__"} == set(commands.SUMMARIES)


@pytest.mark.parametrize("verb", commands.SUMMARIES)
def test_a_verb_prints_its_help(ctl, verb):
    """VERB --help is exit 0 and needs no daemon."""
    said = ctl(verb, "--help")
    assert said.code == 0
    assert said.out.startswith(f"usage: ccexecctl {verb}")


def test_without_a_verb_it_is_wrong_usage(ctl):
    """Exit 2, and nothing on stdout."""
    said = ctl()
    assert said[:2] == (2, "")


def test_a_mistyped_verb_is_corrected(ctl):
    """The nearest verb is proposed."""
    said = ctl("strat")
    assert said.code == 2
    assert said.err == "ccexecctl: there is no verb 'strat'\nhint: did you mean 'start'?\n"


@pytest.mark.parametrize("words", [["status", "--no-such"], ["health", "surplus"], ["config"], ["config", "shwo"]])
def test_surplus_words_are_wrong_usage(ctl, words):
    """Exit 2, never a guess."""
    assert ctl(*words).code == 2


def test_options_may_come_before_and_after_the_verb():
    """The later one wins; one that is not repeated stays."""
    before = command_line.parse(["--json", "--timeout", "3", "--state-dir", "/a", "config", "show"])
    assert (before.json, before.timeout, before.state_dir) == (True, 3.0, "/a")
    after = command_line.parse(["--state-dir", "/a", "config", "show", "--state-dir", "/b", "--json"])
    assert (after.json, after.timeout, after.state_dir) == (True, None, "/b")


def test_a_command_s_own_options_are_its_own():
    """Words after -- are never ours, nor words after the first one of the command."""
    assert command_line.parse(["run", "--", "ls", "--json", "--", "x"]).argv == ["--", "ls", "--json", "--", "x"]
    assert command_line.parse(["run", "ls", "--json"]).argv == ["ls", "--json"]
    assert command_line.parse(["run", "--", "--weird"]).argv == ["--", "--weird"]
    assert not command_line.parse(["run", "ls", "--json"]).json


def test_the_timeout_of_run_is_the_command_s():
    """Before the verb --timeout is that of the answer, after it that of the command."""
    parsed = command_line.parse(["--timeout", "3", "run", "--timeout", "60", "--", "make"])
    assert (parsed.timeout, parsed.run_timeout) == (3.0, 60.0)


@pytest.mark.parametrize(
    "words",
    [
        ["start", "--port", "99999"],
        ["start", "--port", "-1"],
        ["logs", "--since-seq", "-1", "1f0c9b2e"],
        ["run", "--", ""],
        ["run", "--shell", " "],
        ["start", "--", "--state-dir", "/x"],
        ["start", "--", "--state-dir=/x"],
        ["--state-dir", "", "status"],
        ["stop", "--socket="],
        ["surplus"],
        ["status", "--no-such"],
    ],
)
def test_wrong_usage_is_json_too(ctl, words):
    """A value that no daemon could take is wrong usage: with --json an object on stdout, and a sentence on stderr."""
    said = ctl("--json", *words)
    assert said.code == 2
    error = said.json["error"]
    assert (error["name"], error["exit_code"]) == ("USAGE", 2)
    assert error["message"] in said.err


def test_the_command_s_json_is_not_ours(ctl):
    """A --json behind -- belongs to the command."""
    assert ctl("run", "--no-such", "--", "x", "--json")[:2] == (2, "")


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--state-dir", "/a b", "status"], "--state-dir '/a b' "),
        (["status", "--socket", "/s"], "--socket /s "),
        (["status"], ""),
    ],
)
def test_a_hint_is_about_the_daemon_that_was_named(words, names):
    """What is proposed can be typed as it is; words that are no command stay."""
    hint = "ccexecctl may be old: ccexecctl start; or ccexecctl stop --force"
    shown = command_line.at_place(hint, command_line.parse(words))
    assert shown == f"ccexecctl may be old: ccexecctl {names}start; or ccexecctl {names}stop --force"


@pytest.mark.parametrize("words", [(), ("run",), ("token",)])
def test_help_is_a_verb_too(words, capsys):
    """`ccexecctl help run` is `ccexecctl run --help`, as people know it from other programs."""
    with pytest.raises(SystemExit) as left:
        command_line.parse(["help", *words])
    assert left.value.code == 0
    assert capsys.readouterr().out == TREE[" ".join(("ccexecctl", *words))].format_help()
