"""The allow-list: which commands may run.

Owns the judgement of a command against the allow-list of the configuration. With no list, everything may run. With
one, a program must be named in it; a command string is admitted only when it is one simple command whose words can be
told without a shell, and it is then run without one, so nothing in it can escape. What cannot be judged is refused.
Knows no file system: whoever asks hands in how a name is resolved.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

from ccexecd.core.rules import name_of

_SHELL_SYNTAX = frozenset(";&|<>()$`\n*?[]{}~#!\\\r")
"""Characters that mean something to a shell outside of quotes, wherever they stand."""

_ASSIGNMENT = "="
"""What means something in the words up to the program's, as in `NAME=value program`; nothing behind it."""

_BLANKS = " \t"

MAX_STRING = 128 * 1024
"""Characters of the longest string that is judged: MAX_ARG_STRLEN of execve(2); no shell is told a longer one."""

_IN_DOUBLE_QUOTES = frozenset("$`\\!")

_LOADERS = (
    "PATH BASH_ENV ENV SHELLOPTS BASHOPTS IFS PS4 PROMPT_COMMAND NODE_OPTIONS NODE_PATH RUBYOPT RUBYLIB CLASSPATH "
    "JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS EDITOR VISUAL PAGER MANPAGER LESSOPEN LESSCLOSE BROWSER "
    "GCONV_PATH GLIBC_TUNABLES AWKPATH LUA_PATH LUA_CPATH LUA_INIT TCLLIBPATH SUDO_ASKPASS SSH_ASKPASS OPENSSL_CONF "
    "MAKEFLAGS MFLAGS GNUMAKEFLAGS ZDOTDIR"
)
_LOADER_NAMES = frozenset(_LOADERS.split())
_LOADER_PREFIXES = ("LD_", "BASH_FUNC_", "PYTHON", "PERL5", "GIT_", "DYLD_", "npm_config_", "NPM_CONFIG_", "RSYNC_")
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
    """Split a command string that needs no shell into its words.

    Raises:
        RefusedError: it needs a shell, or is too long (`MAX_STRING`).
    """
    if len(command) > MAX_STRING:
        raise RefusedError(f"command string is longer than {MAX_STRING} characters; send argv instead")
    words: list[str] = []
    word: list[str] = []
    has_begun = False  # a word, be it an empty one
    quote = ""
    for position, character in enumerate(command, 1):
        if quote:
            if character == quote:
                quote = ""
            elif quote == '"' and character in _IN_DOUBLE_QUOTES:
                raise RefusedError(_needs_shell(character, position))
            else:
                word.append(character)
        elif character in "'\"":
            quote, has_begun = character, True
        elif character in _BLANKS:
            if has_begun:
                words.append("".join(word))
            word, has_begun = [], False
        elif character in _SHELL_SYNTAX or (character == _ASSIGNMENT and not words):
            raise RefusedError(_needs_shell(character, position))
        else:
            word.append(character)
            has_begun = True
    if quote:
        raise RefusedError(f"command string has an unfinished {quote} quote")
    return tuple([*words, "".join(word)] if has_begun else words)


def _needs_shell(character: str, position: int) -> str:
    return (
        f"command string holds shell syntax ({character!r} at character {position}), which an allow-list cannot judge; "
        "send argv instead, or quote it"
    )


def loaders_in(names: Iterable[str]) -> tuple[str, ...]:
    """Return those of the names by which an allowed program could be made to run another one."""
    return tuple(name for name in names if name in _LOADER_NAMES or name.startswith(_LOADER_PREFIXES))


def refuse_loaders(names: Iterable[str], granted: Collection[str] = ()) -> None:
    """Refuse environment names by which an allowed program could be made to run another one.

    Args:
        names: names whose values differ from the inherited ones.
        granted: names that a rule allows nevertheless; never PATH, by which the program itself is found.

    Raises:
        RefusedError: one of the names is such a name.
    """
    loaders = tuple(name for name in loaders_in(names) if name == "PATH" or name not in granted)
    if loaders:
        raise RefusedError(
            f"environment name {', '.join(loaders)} could make an allowed program run another one; "
            "leave it as the daemon has it",
            loaders,
        )


def refuse_relative(name: str) -> None:
    """Refuse a program that is named by a relative path, which depends on the client's `cwd`.

    Raises:
        RefusedError: the name is such a path.
    """
    if "/" in name and not name.startswith("/"):
        raise RefusedError(f"{name!r} is a relative path; give a program's name or its absolute path")


def judge(
    argv: tuple[str, ...],
    env: Mapping[str, str],
    allowed: Collection[str],
    resolve: Callable[[str], str | None],
) -> None:
    """Decide whether a program may run under an allow-list.

    It has to be called by the name that is listed: one file may be many programs, and which one its name tells.

    Args:
        argv: the words; the first is a name or an absolute path.
        env: names that the client adds to the environment, takes from it, or gives another value.
        allowed: program names (found in the daemon's PATH) and absolute paths.
        resolve: a name or path to the absolute real path of the program that it stands for; None if there is none.

    Raises:
        RefusedError: it may not.
    """
    refuse_loaders(env)
    name = argv[0] if argv else ""
    refuse_relative(name)
    program, called = resolve(name), name_of(name)
    if program is None or program not in {resolve(entry) for entry in allowed if name_of(entry) == called}:
        raise RefusedError(f"{name!r} is not an allowed command; allowed: {', '.join(sorted(allowed)) or 'none'}")
