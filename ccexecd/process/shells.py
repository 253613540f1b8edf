"""How a command string is run on this machine: by which shell, if it needs one."""

import functools
import os
import shutil
from pathlib import Path

from ccexecd.core import shells

_QUICK = "dash"
"""The one small shell that has been compared with Bash (tests/process/test_shells.py): /bin/sh of Debian and Ubuntu."""


@functools.cache
def default_shell() -> str:
    """Bash where there is one, looked for once: clients send Bash syntax."""
    return shutil.which("bash") or "/bin/sh"


@functools.cache
def quick_shell() -> str | None:
    """A shell that starts faster than Bash; None if this machine has none."""
    shell = Path("/bin/sh")
    return str(shell) if shell.resolve().name == _QUICK else None


@functools.lru_cache(maxsize=64)
def _same_as_built_in(*words: str) -> str | None:
    """The program that does just what a built-in command does: the system's own, whatever PATH says."""
    return shutil.which(words[0], path=os.confstr("CS_PATH")) if words in {("true",), ("false",)} else None


def argv_of(command: str, path: str) -> tuple[str, ...]:
    """How a command string is run: by the default shell, or by less where nobody could tell the difference.

    A single program with its words needs no shell at all. Of several, a quicker shell sees to it. A script without an
    interpreter line is run by whichever shell starts it, and a program that cannot be found is complained of in the
    shell's words; so both are the default shell's.

    Args:
        command: the string.
        path: PATH of the environment in which it is to run, which is plain.
    """
    by_default = (default_shell(), "-c", command)
    commands = shells.simple_commands_of(command)
    if commands is None:
        return by_default
    if len(commands) == 1 and (program := _same_as_built_in(*commands[0])) is not None:
        return (program,)
    programs = [shells.program_of(words) for words in commands]
    if not all(_is_program(name, path) for name in programs if name is not None):
        return by_default
    if programs == [commands[0][0]]:
        return tuple(commands[0])
    quick = quick_shell()
    return (quick, "-c", command) if quick is not None else by_default


def _is_program(name: str, path: str) -> bool:
    """Whether a name is found, from any directory, and is something that the kernel itself can start."""
    if not all(folder.startswith("/") for folder in path.split(os.pathsep)):
        return False
    found = shutil.which(name, path=path)
    if found is None:
        return False
    try:
        fd = os.open(found, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return os.read(fd, 4).startswith((b"\x7fELF", b"#!"))
    except OSError:
        return False
    finally:
        os.close(fd)
