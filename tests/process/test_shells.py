"""How command strings are run on this machine, compared with what Bash does with them."""

import os
import shutil
import subprocess
import sys
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


PROGRAM = Path(shutil.which("expr") or sys.executable).read_bytes()
"""A program for this machine."""


def changed(at: int, to: bytes) -> bytes:
    """The same with other bytes in one place."""
    return PROGRAM[:at] + to + PROGRAM[at + len(to) :]


def outcome_of(argv: tuple[str, ...], path: str = PATH) -> tuple[bytes, bytes, int]:
    """What somebody sees of it."""
    done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, env={"PATH": path}, check=False)
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
        (b"#!/bin/sh", 0o755, True),
        (b"#! \t/bin/sh -u\techo\necho $0 $-\n", 0o755, True),
        (b"#!/usr/bin/env sh\necho mine\n", 0o755, True),
        (b"#!/usr/bin/env no_such_program\n", 0o755, True),
        (b"#!" + b" " * 240 + b"/bin/sh\necho mine\n", 0o755, True),
        (b"#!/bin/sh " + b"x" * 300 + b"\n", 0o755, False),
        (b"#!" + b" " * 250 + b"/bin/sh\necho mine\n", 0o755, False),
        (b"#!\necho mine $BASH_VERSION\n", 0o755, False),
        (b"#! \t \necho mine $BASH_VERSION\n", 0o755, False),
        (b"#!", 0o755, False),
        (b"#!/nonexistent/interp\necho mine\n", 0o755, False),
        (b"#!/etc/passwd\n", 0o755, False),
        (b"#!/\n", 0o755, False),
        (b"#!/bin/sh\r\necho mine\n", 0o755, False),
        (b"#!sh\necho mine\n", 0o755, False),
        (b"#!/bin/sh\0\necho mine\n", 0o755, False),
        (b"echo $BASH_VERSION\n", 0o755, False),
        (b"", 0o755, False),
        (b"#!/bin/sh\n", 0o644, False),
        (b"\x7fELFgarbage", 0o755, False),
        (PROGRAM[:64], 0o755, False),
        (changed(4, b"\1"), 0o755, False),
        (changed(5, b"\2"), 0o755, False),
        (changed(16, b"\1"), 0o755, False),
        (changed(18, b"\xff\xff"), 0o755, False),
        (changed(54, b"\0"), 0o755, False),
        (PROGRAM.replace(b"/ld-linux", b"/no-linux"), 0o755, False),
        (PROGRAM, 0o755, True),
    ],
    ids=[
        *("with an interpreter line", "and nothing else", "with an argument", "env", "env of none", "far behind"),
        *("too long", "too far behind", "without an interpreter", "of blanks", "of nothing", "that is not there"),
        *("that is not executable", "that is a folder", "CR LF", "that is relative", "with a zero", "no line", "empty"),
        *("not executable", "no program", "cut off", "of another word size", "of another byte order", "not linked"),
        *("of another machine", "of odd segments", "without its loader", "a program"),
    ],
)
@pytest.mark.parametrize("before", ["", "exec "])
def test_what_the_kernel_cannot_start_is_left_to_bash(text, mode, by_itself, before, tmp_path):
    """It runs a script without an interpreter itself, and has its own words for what cannot be started."""
    script = tmp_path / "mine"
    script.write_bytes(text)
    script.chmod(mode)
    for command in (f"{before}mine a", f"{before}{script} a"):
        argv = argv_of(command, f"{tmp_path}:{PATH}")
        if by_itself and not before:
            assert argv == tuple(command.split())
        else:
            assert (argv == (default_shell(), "-c", command)) == (not by_itself or quick_shell() is None)
        by_bash = outcome_of((default_shell(), "-c", command), f"{tmp_path}:{PATH}")
        assert outcome_of(argv, f"{tmp_path}:{PATH}") == by_bash


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
