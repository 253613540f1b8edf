"""The options of an agent's command line, as far as they are known.

Owns taking words apart into options and the rest, and the first command of a command string. Must not know any agent:
each brings a table of its options.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from enum import Enum

import attrs

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=", re.ASCII)

_ENDS_A_COMMAND = frozenset("|&;<>()")

_EXPANDED = frozenset("$`*?[~\n")
"""What a shell replaces: words with these in them are not the ones that the program is given."""


class Takes(Enum):
    """What follows an option."""

    NOTHING = "nothing"
    ONE = "one word"
    SOME = "words, up to the next option"


@attrs.frozen
class Command:
    """The words of one command.

    Attributes:
        words: from its program on.
        is_all: whether what it prints is what the whole command line prints.
        is_literal: whether these are the words that the program is given.
    """

    words: tuple[str, ...]
    is_all: bool = True
    is_literal: bool = True


NO_COMMAND = Command(())


def first_command(text: str) -> Command:
    """The first command of a command string, after assignments and `exec`; no words if it cannot be told."""
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
    """Words taken apart.

    Attributes:
        given: every option that is known, with its values, in order; one that takes several has a pair for each.
        others: the words that are neither, after the program; options that are not known are left out.
    """

    given: tuple[tuple[str, str | None], ...]
    others: tuple[str, ...]

    def value(self, *names: str) -> str | None:
        """The last value that one of these names was given; empty if it takes none; None if it was not given."""
        return next((value or "" for name, value in reversed(self.given) if name in names), None)

    def without(self, *names: str) -> list[str]:
        """The options again, except for these; each value in one word with its name (`--name=value`)."""
        kept = [each for each in self.given if each[0] not in names]
        return [name if value is None else f"{name}={value}" for name, value in kept]


def take_apart(words: Sequence[str], table: Mapping[str, Takes]) -> Options:
    """Read the words behind a program.

    Args:
        words: those, without the program.
        table: what each known option takes; short ones too.
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
