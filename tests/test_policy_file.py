"""The policy file: what it holds, and everything that is wrong with it at once."""

import os
from pathlib import Path

import pytest

from ccexecd.config import ConfigError, load
from ccexecd.core.rules import Rule
from ccexecd.operator_file import FaultyFileError
from ccexecd.policy_file import load as load_policy

DOCUMENT = Path(__file__).parent.parent / "docs" / "security.md"

EXAMPLE = """
default = "deny"

[[rule]]
name = "no push"
action = "deny"
program = ["git"]
any_argument = ["push"]

[[rule]]
action = "allow"
program = ["git", "/usr/bin/l*"]
arguments = ["status"]
no_argument = ["-c*", "re:--exec-path.*"]
cwd = ["/srv/repos"]
environment = ["LANG"]
principal = ["uid 1000"]
"""


@pytest.fixture
def write(tmp_path: Path):
    """Puts a text into a policy file."""

    def write(text: str) -> Path:
        file = tmp_path / "policy.toml"
        file.write_text(text)
        return file

    return write


def faults(file: Path) -> list[tuple[str, str]]:
    with pytest.raises(FaultyFileError) as caught:
        load_policy(file)
    return [tuple(fault) for fault in caught.value.faults]


def test_a_policy_is_read(write):
    """Its default and its rules, in order and numbered."""
    policy = load_policy(write(EXAMPLE))
    assert policy.default == "deny"
    assert policy.rules == (
        Rule("deny", 1, "no push", program=("git",), any_argument=("push",)),
        Rule(
            "allow",
            2,
            program=("git", "/usr/bin/l*"),
            arguments=("status",),
            no_argument=("-c*", "re:--exec-path.*"),
            cwd=("/srv/repos",),
            environment=("LANG",),
            principal=("uid 1000",),
        ),
    )


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", "default", "required"),
        ('default = "maybe"', "default", "expected one of"),
        ('default = "deny"\nrules = []', "", "unknown field: rules"),
        ('default = "deny"\n[[rule]]\nprogram = ["x"]', "rule[0].action", "required"),
        ('default = "deny"\n[[rule]]\naction = "deny"\nprogramm = ["x"]', "rule[0]", "unknown field: programm"),
        ('default = "deny"\n[[rule]]\naction = "allow"\nprogram = "x"', "rule[0].program", "expected array"),
        ('default = "deny"\n[[rule]]\naction = "allow"\nprogram = ["bin/x"]', "rule[0].program[0]", "absolute path"),
        ('default = "deny"\n[[rule]]\naction = "allow"\ncwd = ["a"]', "rule[0].cwd[0]", "absolute path"),
        (
            'default = "deny"\n[[rule]]\naction = "allow"\nany_argument = ["re:("]',
            "rule[0].any_argument[0]",
            "not a valid",
        ),
        (
            'default = "deny"\n[[rule]]\naction = "allow"\nany_argument = ["re:(a+)+"]',
            "rule[0].any_argument[0]",
            "long",
        ),
        ('default = "deny"\n[[rule]]\naction = "deny"\nrun_as = "root"', "rule[0].run_as", "rule that allows"),
        ("default =", "", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(write, text, place, message):
    """A rule is named by its number in the file, from 0."""
    (told,) = faults(write(text))
    assert told[0] == place
    assert message in told[1]


def test_everything_wrong_is_told_at_once(write):
    """Over all rules."""
    text = 'default = "deny"\n' + '[[rule]]\naction = "allow"\nprogram = ["a/b"]\ncwd = ["x"]\n' * 2
    assert [place for place, _ in faults(write(text))] == [
        "rule[0].program[0]",
        "rule[0].cwd[0]",
        "rule[1].program[0]",
        "rule[1].cwd[0]",
    ]


def test_a_file_that_everybody_may_write_is_refused(write):
    """It would be everybody's policy."""
    file = write(EXAMPLE)
    file.chmod(0o666)
    assert faults(file) == [("", "may be written by everybody; take that away: chmod o-w")]


@pytest.mark.parametrize("user", ["no-such-user", "root"])
def test_a_user_must_exist_and_the_daemon_be_root(write, user):
    """Who cannot become another user says so when the policy is read, not when it is needed."""
    text = f'default = "deny"\n[[rule]]\naction = "allow"\nrun_as = "{user}"'
    if os.geteuid() != 0:
        assert faults(write(text)) == [("rule[0].run_as", "needs a daemon that runs as root")]
    elif user == "root":
        assert load_policy(write(text)).rules[0].run_as == "root"
    else:
        assert faults(write(text)) == [("rule[0].run_as", "there is no user 'no-such-user'")]


def test_the_configuration_has_the_policy(write, tmp_path):
    """Read with it, and refused with it: each problem has the file and the place."""
    file = write(EXAMPLE)
    (tmp_path / "ccexecd.toml").write_text('policy_file = "policy.toml"\n')
    loaded = load({"state_dir": str(tmp_path)}, {})
    assert loaded.config.policy_file == str(file)
    assert loaded.policy is not None
    assert len(loaded.policy.rules) == 2
    write('default = "deny"\n[[rule]]\naction = "allow"\ncwd = ["x"]')
    with pytest.raises(ConfigError) as caught:
        loaded.load_again()
    assert str(caught.value) == (
        f"rule[0].cwd[0] (policy file {file}): must be an absolute path of a directory, no glob"
    )
    file.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        loaded.load_again()


def test_the_documented_example_is_valid(write):
    """The file of docs/security.md can be used as it is, where there is such a user."""
    text = DOCUMENT.read_text().split("```toml\n")[1].split("```")[0]
    assert 'run_as = "agents"' in text
    policy = load_policy(write(text.replace('run_as = "agents"', "")))
    assert [rule.action for rule in policy.rules] == ["deny", "allow", "allow"]
    (warning,) = policy.warnings()
    assert warning.startswith("rule 3 allows /opt/agents/**")


def test_without_a_key_there_is_no_policy(tmp_path):
    """Everything may run."""
    assert load({"state_dir": str(tmp_path)}, {}).policy is None


def test_an_expression_of_redact_is_checked(tmp_path):
    """With its place in the list."""
    with pytest.raises(ConfigError) as caught:
        load({"state_dir": str(tmp_path), "redact": ["ok", "(a+)+"]}, {})
    (problem,) = caught.value.problems
    assert (problem.key, problem.source) == ("redact[1]", "flag --redact")
