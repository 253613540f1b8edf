"""Whether a command string means the same to every POSIX shell.

A command string is Bash's where there is one: that is what clients write. Bash takes half a millisecond longer to
start than a small POSIX shell, though, and most strings are no more than programs and their words. Owns the judgement
which strings those are. It errs on one side only: what is not known to be the same is Bash's. Knows no file system:
whoever asks looks at the programs.
"""

import re
import shlex
from collections.abc import Mapping

_WORDS = r"""(?:[A-Za-z0-9_@%+=:,./ \t-]|'[^'\\\n]*'|"[^"$`\\\n]*")+"""
"""Literal words: nothing to expand, no redirection, no backslash (`echo` would interpret it)."""

_SIMPLE = re.compile(_WORDS)
_LIST = re.compile(rf"{_WORDS}(?:(?:;|&&|\|\|){_WORDS})*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*|/[A-Za-z0-9_./+-]+")

_NAMES = (
    # what `compgen -bk` of Bash 5.2 names
    ". : [ alias bg bind break builtin caller case cd command compgen complete compopt continue coproc declare dirs "
    "disown do done echo elif else enable esac eval exec exit export false fc fg fi for function getopts hash help "
    "history if in jobs kill let local logout mapfile popd printf pushd pwd read readarray readonly return select set "
    "shift shopt source suspend test then time times trap true type typeset ulimit umask unalias unset until wait "
    "while "
    # what only another shell has
    "chdir"
)
_SPECIAL = frozenset(_NAMES.split())
"""Names that a shell does not look up in PATH: built-in commands, keywords and functions."""

_STATUS = re.compile(r"\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5]")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_WISHES = {"ENV", "POSIXLY_CORRECT", "SHELLOPTS"}
_CHANGED = {
    *("COMP_WORDBREAKS", "EPOCHREALTIME", "EPOCHSECONDS", "HISTCMD", "IFS", "LINENO", "OPTERR", "OPTIND", "PPID"),
    *("PS1", "PS2", "PS4", "RANDOM", "SRANDOM"),
}
"""Variables besides BASH* that Bash changes or removes, so that programs would see other values under another shell."""


def is_plain(env: Mapping[str, str]) -> bool:
    """Whether an environment has no settings for a shell, and nothing that some shells pass on changed."""
    if not _WISHES.isdisjoint(env) or not _CHANGED.isdisjoint(env):
        return False
    return not any(name.startswith("BASH") or not _IDENTIFIER.fullmatch(name) for name in env)


def simple_commands_of(command: str) -> list[list[str]] | None:
    """Split a command string into its simple commands, if every POSIX shell does the same with it.

    The caller has to check that the programs that it names (`program_of`) exist, and that the environment is plain.

    Returns:
        The words of each simple command, at least one; None if shells might differ.
    """
    if not _LIST.fullmatch(command):
        return None
    commands = [_words_of(simple) for simple in _SIMPLE.findall(command)]
    if len(commands) == 1:
        return commands if _is_same_everywhere(commands[0]) or program_of(commands[0]) else None
    return commands if all(_is_same_everywhere(words) or _takes_over(words) for words in commands) else None


def _words_of(simple: str) -> list[str]:
    return shlex.split(simple) if '"' in simple or "'" in simple else simple.split()


def program_of(words: list[str]) -> str | None:
    """The program that a simple command starts; None if it starts none, or none that is known to be one."""
    name = next(iter(words[1:] if words[:1] == ["exec"] else words), "")
    return name if name not in _SPECIAL and _NAME.fullmatch(name) else None


def _takes_over(words: list[str]) -> bool:
    """Whether a command replaces the shell (`exec`); else shells differ in how they report its end."""
    return words[:1] == ["exec"] and program_of(words) is not None


def _is_same_everywhere(words: list[str]) -> bool:
    """Whether a simple command is a built-in one that every shell understands alike."""
    match words:
        case ["true"] | ["false"] | ["echo"]:
            return True
        case ["echo", first, *_]:
            return not first.startswith("-")
        case ["exit", status]:
            return _STATUS.fullmatch(status) is not None
        case _:
            return False
