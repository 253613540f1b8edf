"""What may run under an allow-list: words that need no shell, and programs that are named."""

import shutil
import subprocess
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccexecd.core.policy import MAX_STRING, RefusedError, judge, words_of

PROGRAMS = {
    "ls": "/usr/bin/ls",
    "/bin/ls": "/usr/bin/ls",
    "/usr/bin/ls": "/usr/bin/ls",
    "bin/ls": "/usr/bin/ls",  # from the daemon's own directory, which is /
    "cat": "/usr/bin/cat",
}
"""A file system in which /bin is a link to /usr/bin."""

SIMPLE = [
    "ls",
    "ls -l /tmp",
    "  ls\t-l  ",
    "ls 'a b' \"c d\" e'f g'h",
    "echo '$HOME `id` \\ ! * ; | & < >'",
    'echo "; | & < > * ? [ ] { } ~ # ="',
    "echo '\"' \"'\"",
    "echo ''",
    'echo "" x',
    "echo a,b@c%d^e+f:g/h.i-j_k",
    "echo ünïcödé '日本'",
    "echo 'a\nb' \"c\nd\"",
    "ls --color=auto a=b =",
]


@pytest.mark.parametrize("command", SIMPLE)
def test_words_are_those_that_a_shell_would_see(command):
    """Where a command string is admitted, running its words is running what a shell would have run."""
    program, *words = words_of(command)
    shell = shutil.which("bash") or "/bin/sh"
    script = command.replace(program, "printf '%s\\0'", 1)
    seen = subprocess.run([shell, "-c", script], capture_output=True, check=True, timeout=10).stdout
    assert [word.encode() for word in words or [""]] == seen.split(b"\0")[:-1]


@pytest.mark.parametrize("character", ";&|<>()$`\n*?[]{}~#!\\\r")
def test_shell_syntax_is_refused_outside_quotes(character):
    """What only a shell understands cannot be judged; the text says which character, where, and what to do instead."""
    with pytest.raises(RefusedError) as caught:
        words_of(f"ls a{character}b")
    assert str(caught.value) == (
        f"command string holds shell syntax ({character!r} at character 5), which an allow-list cannot judge; "
        "send argv instead, or quote it"
    )


@pytest.mark.parametrize("command", ["A=1", "A=1 ls", "  A=1\tls", "A=' ' ls", "'A B'=1 ls", "l=s x"])
def test_an_assignment_is_refused(command):
    """Up to the program's word, `=` may set a variable, of which the program may be another one."""
    with pytest.raises(RefusedError, match="shell syntax \\('=' at"):
        words_of(command)


@pytest.mark.parametrize("character", "$`\\!")
def test_double_quotes_do_not_hide_what_a_shell_would_expand(character):
    """A substitution inside of double quotes is a substitution."""
    with pytest.raises(RefusedError, match="shell syntax"):
        words_of(f'ls "a{character}b"')


def test_a_string_that_no_shell_could_be_told_is_refused():
    """And one of that length is judged in no time that anybody notices."""
    began = time.process_time()
    assert len(words_of("ls '" + "a" * (MAX_STRING - 5) + "'")[1]) == MAX_STRING - 5
    assert time.process_time() - began < 1  # seconds; it takes 20 ms
    with pytest.raises(RefusedError, match="longer than"):
        words_of("a" * (MAX_STRING + 1))


@pytest.mark.parametrize("quote", "'\"")
def test_an_unfinished_quote_is_refused(quote):
    """Half a word is no word."""
    with pytest.raises(RefusedError, match=f"unfinished {quote} quote"):
        words_of(f"ls {quote}a b")


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab '\"\\$`;&|<>()*?[]{}~#!=\n\r\t\v\0é"), max_size=12))
def test_a_command_string_has_words_or_is_refused(command):
    """There is no third way out: no other exception, and no quote that survives into an unquoted word."""
    try:
        words = words_of(command)
    except RefusedError:
        return
    assert all(isinstance(word, str) for word in words)
    assert " ".join(words_of(" ".join(f"'{word}'" for word in words if "'" not in word))) == " ".join(
        word for word in words if "'" not in word
    )


@pytest.mark.parametrize("program", ["ls", "/bin/ls", "/usr/bin/ls"])
@pytest.mark.parametrize("allowed", [["ls"], ["/bin/ls"], ["cat", "/usr/bin/ls"]])
def test_a_program_is_allowed_by_what_it_is(program, allowed):
    """A name and the paths of one program stand for each other, links resolved."""
    judge((program, "-l"), {}, allowed, PROGRAMS.get)


def test_a_program_that_is_not_named_is_refused():
    """The text names the program and what is allowed."""
    with pytest.raises(RefusedError) as caught:
        judge(("cat", "x"), {}, ["/bin/ls", "awk"], PROGRAMS.get)
    assert str(caught.value) == "'cat' is not an allowed command; allowed: /bin/ls, awk"


def test_an_empty_list_allows_nothing():
    """No entry is no permission, and says so."""
    with pytest.raises(RefusedError, match="allowed: none"):
        judge(("ls",), {}, [], PROGRAMS.get)


def test_one_file_may_be_many_programs():
    """Where a name decides what a file does (busybox), an entry allows no other name of it."""
    files = {"ls": "/bin/busybox", "sh": "/bin/busybox", "busybox": "/bin/busybox", "/bin/busybox": "/bin/busybox"}
    judge(("ls",), {}, ["ls"], files.get)
    for name in ("sh", "busybox", "/bin/busybox"):
        with pytest.raises(RefusedError):
            judge((name, "sh"), {}, ["ls"], files.get)


def test_a_program_that_does_not_exist_is_not_the_entry_that_does_not_exist():
    """Two names that lead nowhere do not make each other legal."""
    with pytest.raises(RefusedError):
        judge(("nosuch",), {}, ["neither"], PROGRAMS.get)


def test_a_relative_path_is_refused():
    """It would be judged in the daemon's directory and run from the client's `cwd`: another program."""
    with pytest.raises(RefusedError, match="relative"):
        judge(("bin/ls",), {}, ["ls"], PROGRAMS.get)


@pytest.mark.parametrize("words", [(), ("",)])
def test_no_program_is_not_an_allowed_one(words):
    """Nothing to run is refused, too."""
    with pytest.raises(RefusedError):
        judge(words, {}, ["ls"], PROGRAMS.get)


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "BASH_ENV", "BASH_FUNC_ls%%", "PYTHONPATH", "NODE_OPTIONS"])
def test_an_environment_that_could_load_another_program_is_refused(name):
    """The allow-list cannot be walked around by way of the loader."""
    with pytest.raises(RefusedError, match=f"environment name {name} "):
        judge(("ls",), {"HOME": "/", name: "x"}, ["ls"], PROGRAMS.get)


def test_other_environment_names_are_the_clients_own():
    """An allow-list is about programs."""
    judge(("ls",), {"HOME": "/", "LANG": "C", "MY_PATH": "x"}, ["ls"], PROGRAMS.get)
