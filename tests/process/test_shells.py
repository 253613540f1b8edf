"""How command strings are run on this machine, compared with what Bash does with them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ccexecd.core.shells import simple_commands_of
from ccexecd.process import shells
from ccexecd.process.shells import argv_of, default_shell, quick_shell

PATH = os.environ["PATH"]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash on this machine to compare with")

needs_quick_shell = pytest.mark.skipif(
    quick_shell() is None, reason="/bin/sh is not dash here: there is no quick shell"
)

ONE_PROGRAM = [
    "sleep 0",
    "env",
    "expr 2 + 3",
    "grep -c root /etc/passwd",
    "cat /nowhere",
    "ls '' \"a b\"",
    "id -u -n",
    "sh -c 'kill -9 $$'",
    "sh -c 'echo a; exit 3'",
]
"""Run without any shell."""

SEVERAL = [
    "echo",
    "echo a  b\tc 'd  e' \"f g\"",
    "echo a; echo b",
    "false && echo no || echo yes",
    "false; exit 7",
    "exit 255",
    "echo first; exec expr 1 + 1",
    "exec grep -c nothing /etc/passwd",
    "false || exec cat /nowhere",
    "echo a; exec sh -c 'kill -9 $$'",
    "true && exec sh -c 'exit 4'; echo unreached",
    "echo =a b=c /d:e,f @g %h +i",
    "'echo' quoted; exec \"expr\" 1 + 2",
]
"""Run by the quick shell."""


def outcome_of(argv: tuple[str, ...]) -> tuple[bytes, bytes, int]:
    """What somebody sees of it."""
    done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, env={"PATH": PATH}, check=False)
    environment = (b"_=", b"SHLVL=", b"PWD=", b"OLDPWD=")  # what every shell sets as it likes
    lines = [line for line in done.stdout.splitlines() if not line.startswith(environment)]
    return b"\n".join(lines), done.stderr.replace(b"/usr/bin/", b""), done.returncode


@pytest.mark.parametrize("command", ONE_PROGRAM)
def test_one_program_needs_no_shell(command):
    """It is started with its words, and nobody can tell the difference."""
    argv = argv_of(command, PATH)
    assert [list(argv)] == simple_commands_of(command)
    assert outcome_of(argv) == outcome_of((default_shell(), "-c", command))


@needs_quick_shell
@pytest.mark.parametrize("command", SEVERAL)
def test_several_are_run_by_the_quick_shell(command):
    """It does with them what Bash does."""
    argv = argv_of(command, PATH)
    assert argv == ("/bin/sh", "-c", command)
    assert outcome_of(argv) == outcome_of((default_shell(), "-c", command))


@pytest.mark.parametrize("name", ["true", "false"])
def test_what_does_nothing_is_done_by_the_systems_own_program(name, tmp_path):
    """The built-in command is not looked for in PATH, and neither is that."""
    mine = tmp_path / name
    mine.write_text("#!/bin/sh\nexit 9\n")
    mine.chmod(0o755)
    argv = argv_of(f" {name} ", f"{tmp_path}:{PATH}")
    assert Path(argv[0]).name == name
    assert len(argv) == 1
    assert outcome_of(argv) == outcome_of((default_shell(), "-c", name))


@pytest.mark.parametrize("command", ["echo $0", "[[ a == a ]]", "no_such_program", "sleep 0; no_such_program", "a=b"])
def test_everything_else_is_run_by_the_default_shell(command):
    """Its syntax, and what it says of a program that is not there."""
    assert argv_of(command, PATH) == (default_shell(), "-c", command)


@pytest.mark.parametrize(
    ("text", "mode", "by_itself"),
    [
        (b"#!/bin/sh\necho mine\n", 0o755, True),
        (b"echo $BASH_VERSION\n", 0o755, False),
        (b"", 0o755, False),
        (b"#!/bin/sh\n", 0o644, False),
    ],
    ids=["with an interpreter line", "without one", "empty", "not executable"],
)
def test_what_the_kernel_cannot_start_is_left_to_bash(text, mode, by_itself, tmp_path):
    """It runs a script without an interpreter line itself."""
    script = tmp_path / "mine"
    script.write_bytes(text)
    script.chmod(mode)
    for command in ("mine a", f"{script} a"):
        argv = argv_of(command, f"{tmp_path}:{PATH}")
        assert argv == (tuple(command.split()) if by_itself else (default_shell(), "-c", command))


@pytest.mark.parametrize("path", ["", ":/usr/bin", ".:/usr/bin", "bin:/usr/bin", "/usr/bin:"])
def test_a_path_that_depends_on_the_directory_is_left_to_bash(path):
    """The command runs in another directory than we do."""
    assert argv_of("sleep 0", path) == (default_shell(), "-c", "sleep 0")


@pytest.fixture
def _fresh_caches():
    shells.default_shell.cache_clear()
    shells.quick_shell.cache_clear()
    yield
    shells.default_shell.cache_clear()
    shells.quick_shell.cache_clear()


@pytest.mark.usefixtures("_fresh_caches")
def test_without_bash_the_shell_is_sh(monkeypatch):
    """The only one that every system has."""
    monkeypatch.setattr(shells.shutil, "which", lambda *_, **__: None)
    assert shells.default_shell() == "/bin/sh"


@pytest.mark.usefixtures("_fresh_caches")
def test_a_sh_that_is_another_shell_is_not_the_quick_one(monkeypatch):
    """It has not been compared with Bash, or is Bash."""
    monkeypatch.setattr(shells, "_QUICK", "another")
    assert shells.quick_shell() is None
    assert argv_of("echo a; echo b", PATH) == (default_shell(), "-c", "echo a; echo b")
