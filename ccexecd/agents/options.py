"""Reads command lines of agents: options with their values, and the other words.

Owns finding these words in a command string, and taking them apart. Must not know any agent: each adapter has a table
of its agent's options.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from enum import Enum

import attrs

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=", re.ASCII)

_ENDS_A_COMMAND = frozenset("|&;<>()")
"""Characters of which shell operators consist; an operator ends a command."""

_EXPANDED = frozenset("$`*?[~\n")
"""Characters that a shell expands, or that end a line: the program may be given other words than those written."""


class Takes(Enum):
    """The values that an option takes."""

    NOTHING = "nothing"
    ONE = "one word"
    SOME = "words, up to the next option"


@attrs.frozen
class Command:
    """The words of one command.

    Attributes:
        words: its words, the program first; empty if they cannot be told.
        is_all: whether it is the whole command string, so that all output is its output.
        is_literal: whether the program is given exactly these words.
    """

    words: tuple[str, ...]
    is_all: bool = True
    is_literal: bool = True


NO_COMMAND = Command(())


def first_command(text: str) -> Command:
    """Return the first command of a command string; assignments and `exec` before it are left out.

    Of a string with a quote that does not end, it returns no more than the program.
    """
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    found: list[str] = []
    try:
        for word in lexer:
            if not found and (word == "exec" or _ASSIGNMENT.match(word)):
                continue
            if _ENDS_A_COMMAND.issuperset(word):
                return Command(tuple(found), is_all=False, is_literal=_EXPANDED.isdisjoint(text))
            found.append(word)
    except ValueError:  # a quote that does not end
        return Command(tuple(found[:1]), is_all=False, is_literal=False)
    return Command(tuple(found), is_literal=_EXPANDED.isdisjoint(text))


@attrs.frozen
class Options:
    """The words of a command, taken apart.

    Attributes:
        given: the known options in order, each as its name and its value (None if it takes none). An option with
            several values has a pair for each.
        others: the words that are no options and no values of known options, in order.
    """

    given: tuple[tuple[str, str | None], ...]
    others: tuple[str, ...]

    def value(self, *names: str) -> str | None:
        """Return the value of an option.

        Args:
            *names: its names; if it was given several times, the last value counts.

        Returns:
            Its value; empty if it has none; None if the option was not given.
        """
        return next((value or "" for name, value in reversed(self.given) if name in names), None)

    def without(self, *names: str) -> list[str]:
        """Return all known options but these as words; a value is in one word with its name (`--name=value`)."""
        kept = [each for each in self.given if each[0] not in names]
        return [name if value is None else f"{name}={value}" for name, value in kept]


def take_apart(words: Sequence[str], table: Mapping[str, Takes]) -> Options:
    """Take the words of a command apart.

    Args:
        words: the words after the program.
        table: each known option, long and short, with what it takes. Unknown options are left out.
    """
    given: list[tuple[str, str | None]] = []
    others: list[str] = []
    rest = list(words)[::-1]
    while rest:
        word = rest.pop()
        name, is_joined, joined = word.partition("=")
        takes = table.get(name)
        if word == "--":
            others += rest[::-1]
            break
        if not word.startswith("-") or word == "-":
            others.append(word)
        elif takes is None:
            continue
        elif is_joined:
            given.append((name, joined))
        elif takes is Takes.NOTHING:
            given.append((name, None))
        elif rest:
            given.append((name, rest.pop()))
            while takes is Takes.SOME and rest and not rest[-1].startswith("-"):
                given.append((name, rest.pop()))
    return Options(tuple(given), tuple(others))
