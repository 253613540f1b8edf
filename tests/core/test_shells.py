"""Which command strings mean the same to every POSIX shell."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccexecd.core.shells import is_plain, program_of, simple_commands_of


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("true", [["true"]]),
        ("  false\t", [["false"]]),
        ("sleep 5", [["sleep", "5"]]),
        ("/usr/bin/env -i a=b", [["/usr/bin/env", "-i", "a=b"]]),
        ("claude -p 'What is 2+2?' --output-format=json", [["claude", "-p", "What is 2+2?", "--output-format=json"]]),
        ('grep "a; b && c | d" /etc/passwd', [["grep", "a; b && c | d", "/etc/passwd"]]),
        ("echo a'b'\"c\" ''", [["echo", "abc", ""]]),
        ("echo x; exec sleep 0.05", [["echo", "x"], ["exec", "sleep", "0.05"]]),
        ("true&&echo a||exit 3", [["true"], ["echo", "a"], ["exit", "3"]]),
        ("echo if then fi", [["echo", "if", "then", "fi"]]),
        ("echo 'a $HOME `b` *' x", [["echo", "a $HOME `b` *", "x"]]),
    ],
)
def test_programs_and_their_words_are_the_same_everywhere(command, words):
    """Whatever is quoted is literal; `;`, `&&` and `||` join."""
    assert simple_commands_of(command) == words


@pytest.mark.parametrize(
    "command",
    [
        "",
        " ",
        ";",
        "sleep 1;",
        "sleep 1; sleep 2",
        "echo a; sleep 1",
        "sleep 1 || exit 3",
        "; sleep 1",
        "sleep 1;; sleep 2",
        "sleep 1 &",
        "sleep 1 & sleep 2",
        "yes | head",
        "sleep 1 &&& sleep 2",
        "echo $HOME",
        'echo "$HOME"',
        "echo `date`",
        'echo "`date`"',
        "echo *",
        "echo a?",
        "echo [a]",
        "echo {a,b}",
        "echo ~",
        "echo a > file",
        "cat < file",
        "cat <<< word",
        "echo a\\b",
        "echo 'a\\nb'",
        'echo "a\\nb"',
        "echo -n x",
        "echo -e x",
        "echo '-n' x",
        "echo a # comment",
        "sleep 1\nsleep 2",
        "sleep 1\r",
        "NAME=value sleep 1",
        "sleep=1",
        "(sleep 1)",
        "{ sleep 1; }",
        "! sleep 1",
        "if sleep 1; then sleep 2; fi",
        "while true; do sleep 1; done",
        "[[ a == b ]]",
        "[ a = b ]",
        "test a = b",
        "time sleep 1",
        "printf x",
        "cd /tmp && ls",
        "source /etc/profile",
        ". /etc/profile",
        "exec",
        "exec -a name sleep 1",
        "exec > file",
        "exec echo x",
        "exit",
        "exit 256",
        "exit -1",
        "exit 08",
        "exit 1 2",
        "true --help",
        "ulimit -a",
        "kill 1",
        "chdir /tmp",
        "./run",
        "bin/run",
        "%1",
        "'a b'",
        "''",
        "-x",
        "echo 'unfinished",
        'echo "unfinished',
        "echo \u00fcber",
        "sl\u00e9ep 1",
        "echo a\0b",
        "echo \u00a0x",
    ],
)
def test_everything_else_is_left_to_bash(command):
    """Expansions, redirections, pipes, keywords, assignments, built-in commands, comments, odd characters."""
    assert simple_commands_of(command) is None


@given(st.text(alphabet="ab/;&|\"' =-.$\\*\t\n", max_size=12))
def test_nothing_that_a_shell_would_expand_passes(command):
    """Outside of single quotes, no character that means something to a shell is ever among the words."""
    commands = simple_commands_of(command)
    if commands is not None:
        assert all(commands)
        unquoted = command.replace('"', "'").split("'")[::2]
        assert not any(character in part for part in unquoted for character in "$\\*\n")


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["sleep", "1"], "sleep"),
        (["exec", "sleep", "1"], "sleep"),
        (["/usr/bin/g++"], "/usr/bin/g++"),
        (["python3.11"], "python3.11"),
        (["echo"], None),
        (["exec", "exec"], None),
        (["exec"], None),
        ([], None),
    ],
)
def test_the_program_of_a_simple_command(words, program):
    """Its first word, or the one behind `exec`, if no shell has a command of that name."""
    assert program_of(words) == program


@pytest.mark.parametrize(
    ("env", "plain"),
    [
        ({}, True),
        ({"PATH": "/bin", "LC_ALL": "C", "_": "x", "a1": ""}, True),
        ({"BASH_ENV": "/etc/x"}, False),
        ({"BASHPID": "1"}, False),
        ({"BASH_XTRACEFD": "9"}, False),
        ({"OPTIND": "abc"}, False),
        ({"IFS": ","}, False),
        ({"PS1": "> "}, False),
        ({"ENV": ""}, False),
        ({"POSIXLY_CORRECT": ""}, False),
        ({"SHELLOPTS": "errexit"}, False),
        ({"BASH_FUNC_sleep%%": "() { echo mine; }"}, False),
        ({"odd.name": "x"}, False),
        ({"1a": "x"}, False),
        ({"": "x"}, False),
        ({"N\u00e4me": "x"}, False),
    ],
)
def test_an_environment_may_have_wishes_of_a_certain_shell(env, plain):
    """Settings and functions of Bash, and names that only some shells pass on."""
    assert is_plain(env) is plain
