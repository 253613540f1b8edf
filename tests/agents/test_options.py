"""The words of a command line, taken apart."""

import pytest

from ccexecd.agents.options import Takes, first_command, take_apart

TABLE = {"-p": Takes.NOTHING, "--model": Takes.ONE, "--tools": Takes.SOME}


@pytest.mark.parametrize(
    ("words", "given", "others"),
    [
        (["-p", "hello"], [("-p", None)], ["hello"]),
        (["hello", "-p"], [("-p", None)], ["hello"]),
        (["--model", "m", "hello"], [("--model", "m")], ["hello"]),
        (["--model=m", "hello"], [("--model", "m")], ["hello"]),
        (["--tools", "a", "b", "-p", "hello"], [("--tools", "a"), ("--tools", "b"), ("-p", None)], ["hello"]),
        (["--tools=a", "hello"], [("--tools", "a")], ["hello"]),
        (["--unknown", "x", "-"], [], ["x", "-"]),
        (["-p", "--", "--model", "m"], [("-p", None)], ["--model", "m"]),
        (["--model"], [], []),
        ([], [], []),
    ],
)
def test_options_and_the_rest(words, given, others):
    """What is known with its values, and what is no option."""
    options = take_apart(words, TABLE)
    assert (list(options.given), list(options.others)) == (given, others)


def test_values_and_what_is_left():
    """The last one counts; each value is joined to its name, so that nothing after it is taken for another."""
    options = take_apart(["--model", "a", "-p", "--tools", "b", "c", "--model=d"], TABLE)
    assert (options.value("--model"), options.value("-p"), options.value("--tools"), options.value("-x")) == (
        *("d", "", "c"),
        None,
    )
    assert options.without("--model") == ["-p", "--tools=b", "--tools=c"]


@pytest.mark.parametrize(
    ("text", "words", "is_all", "is_literal"),
    [
        ("claude -p 'a b'", ("claude", "-p", "a b"), True, True),
        ("A=1 exec claude -p", ("claude", "-p"), True, True),
        ("claude -p 'a|b' | jq .", ("claude", "-p", "a|b"), False, True),
        ("claude -p >out 2>&1", ("claude", "-p"), False, True),
        ("claude;echo", ("claude",), False, True),
        ("claude -p $PROMPT", ("claude", "-p", "$PROMPT"), True, False),
        ("claude -p `date`", ("claude", "-p", "`date`"), True, False),
        ("claude -p \"it's", ("claude",), False, False),
        ("'claude", (), False, False),
        ("", (), True, True),
    ],
)
def test_the_first_command_of_a_string(text, words, is_all, is_literal):
    """Its words, whether its output is all of it, and whether a shell would give it the very same words."""
    command = first_command(text)
    assert (command.words, command.is_all, command.is_literal) == (words, is_all, is_literal)
