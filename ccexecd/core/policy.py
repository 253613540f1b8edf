"""What may run.

Owns the judgement of a command against the allow-list of the configuration. With no list, everything may run. With
one, a program must be named in it; a command string is admitted only when it is one simple command whose words can be
told without a shell, and it is then run without one, so nothing in it can escape. What cannot be judged is refused.
Knows no file system: whoever asks hands in how a name is resolved.
"""

import shlex
from collections.abc import Callable, Collection, Mapping

_SHELL_SYNTAX = frozenset(";&|<>()$`\n*?[]{}~#!=\\\r")
"""Characters that mean something to a shell outside of quotes. "=" for `NAME=value program`."""

_IN_DOUBLE_QUOTES = frozenset("$`\\!")

_LOADER_NAMES = frozenset(
    {"PATH", "BASH_ENV", "ENV", "SHELLOPTS", "IFS", "NODE_OPTIONS", "PERL5OPT", "RUBYOPT", "GIT_SSH"}
)
_LOADER_PREFIXES = ("LD_", "BASH_FUNC_", "PYTHON")
"""Environment names by which a client could make an allowed program run another: refused under an allow-list."""


class RefusedError(Exception):
    """The policy does not allow a command; the text says why and what to do.

    Attributes:
        environment: the names in the environment that it refuses, if it is these.
    """

    def __init__(self, message: str, environment: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.environment = environment


def words_of(command: str) -> tuple[str, ...]:
    """The words of a command string that needs no shell to be understood.

    Raises:
        RefusedError: it needs one.
    """
    quote = ""
    for position, character in enumerate(command, 1):
        if quote:
            if character == quote:
                quote = ""
            elif quote == '"' and character in _IN_DOUBLE_QUOTES:
                raise RefusedError(_needs_shell(character, position))
        elif character in "'\"":
            quote = character
        elif character in _SHELL_SYNTAX:
            raise RefusedError(_needs_shell(character, position))
    if quote:
        raise RefusedError(f"command string has an unfinished {quote} quote")
    return tuple(shlex.split(command))


def _needs_shell(character: str, position: int) -> str:
    return (
        f"command string holds shell syntax ({character!r} at character {position}), which an allow-list cannot judge; "
        "send argv instead, or quote it"
    )


def judge(
    argv: tuple[str, ...],
    env: Mapping[str, str],
    allowed: Collection[str],
    resolve: Callable[[str], str | None],
) -> None:
    """Decide whether a program may run under an allow-list.

    Args:
        argv: the words; the first is a name or an absolute path.
        env: names that the client adds to the environment, takes from it, or gives another value.
        allowed: program names (found in the daemon's PATH) and absolute paths.
        resolve: a name or path to the absolute real path of the program that it stands for; None if there is none.

    Raises:
        RefusedError: it may not.
    """
    loaders = tuple(name for name in env if name in _LOADER_NAMES or name.startswith(_LOADER_PREFIXES))
    if loaders:
        raise RefusedError(
            f"environment name {', '.join(loaders)} could make an allowed program run another one; "
            "leave it as the daemon has it",
            loaders,
        )
    name = argv[0] if argv else ""
    if "/" in name and not name.startswith(
        "/"
    ):  # resolved from the daemon's directory, but run from the client's `cwd`
        raise RefusedError(f"{name!r} is a relative path; give a program's name or its absolute path")
    program = resolve(name)
    if program is None or program not in {resolve(entry) for entry in allowed}:
        raise RefusedError(f"{name!r} is not an allowed command; allowed: {', '.join(sorted(allowed)) or 'none'}")
