"""Patterns that people write into a configuration, and that are held against what clients send.

Owns what they mean and that none of them can keep the event loop busy: a glob is matched in steps, a regular
expression is refused where some text might take it for ever. Knows no file system.
"""

import fnmatch
import math
import re
from collections.abc import Sequence
from re import _constants as opcodes  # type: ignore[attr-defined]  # the parser is the only one that knows what repeats
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

EXPRESSION = "re:"
"""What a pattern begins with that is a regular expression; any other one is a glob."""

MAX_TEXT = 4096
"""Characters of the longest text that a regular expression is held against."""

WHOLE = 1 << 25
ANYWHERE = 1 << 13
"""In how many ways an expression may be tried on a text, at most: on a whole one, and from each of its characters on.
Measured, that takes 10 ms for the most expensive ones."""

_LONG = 64  # repetitions beyond which what is repeated must have one way only


class PatternError(ValueError):
    """A configured pattern cannot be used; the text says why."""


def is_glob(pattern: str) -> bool:
    """Whether a pattern stands for more than itself."""
    return any(character in "*?[" for character in pattern)


def matches(pattern: str, text: str) -> bool | None:
    """Hold a pattern against the whole of a text, upper and lower case told apart.

    Args:
        pattern: a glob, in which `*` is any characters, or `re:` and a regular expression.
        text: what is judged.

    Returns:
        Whether it matches; None where that cannot be judged, because the text is too long for it.
    """
    if not pattern.startswith(EXPRESSION):
        return fnmatch.fnmatchcase(text, pattern)
    if len(text) > MAX_TEXT:
        return None
    return re.fullmatch(pattern.removeprefix(EXPRESSION), text) is not None


def matches_path(pattern: str, path: str) -> bool:
    """Hold a glob against an absolute path: `*` stays within a folder's name, `**` is any number of folders."""
    return _match_parts(pattern.split("/"), path.split("/"))


def _match_parts(patterns: Sequence[str], parts: Sequence[str]) -> bool:
    """Match folder by folder; of several `**` only the last one has to be tried again, so it ends soon."""
    at = part = 0
    retry: tuple[int, int] | None = None
    while part < len(parts):
        if at < len(patterns) and patterns[at] == "**":
            retry, at = (at, part), at + 1
        elif at < len(patterns) and fnmatch.fnmatchcase(parts[part], patterns[at]):
            at, part = at + 1, part + 1
        elif retry is not None:
            retry = (retry[0], retry[1] + 1)
            at, part = retry[0] + 1, retry[1]
        else:
            return False
    return all(pattern == "**" for pattern in patterns[at:])


def check(pattern: str) -> None:
    """See that a pattern can be used.

    Raises:
        PatternError: it cannot.
    """
    if pattern.startswith(EXPRESSION):
        compiled(pattern.removeprefix(EXPRESSION), WHOLE)


def compiled(expression: str, most: int) -> re.Pattern[str]:
    """A regular expression, ready for use.

    Args:
        expression: Python's.
        most: `WHOLE` or `ANYWHERE`.

    Raises:
        PatternError: it is not valid, or some text might keep it busy for too long.
    """
    try:
        ways = _ways(parser.parse(expression))
        found = re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"not a valid regular expression: {error}") from None
    if ways > most:
        raise PatternError(
            "could take too long on some text: it repeats what repeats or alternates, or repeats too often; name the "
            "characters, or give several patterns"
        )
    return found


def _ways(parsed: Any) -> float:
    """In how many ways a parsed expression can divide a text, at most: what one that matches nowhere has to try."""
    ways = 1.0
    for operation, value in parsed:
        if operation in _REPEATS:
            least, most, repeated = value
            inside = _ways(repeated)
            if inside > 1 and most > _LONG:
                return math.inf
            ways *= (min(most, MAX_TEXT) - min(least, MAX_TEXT) + 1) * inside ** min(most, _LONG)
        elif operation is opcodes.BRANCH:
            ways *= sum(_ways(each) for each in value[1])
        else:
            ways *= math.prod(_ways(each) for each in _parts_of(operation, value))
    return ways


_REPEATS = (opcodes.MAX_REPEAT, opcodes.MIN_REPEAT, getattr(opcodes, "POSSESSIVE_REPEAT", None))


def _parts_of(operation: Any, value: Any) -> list[Any]:
    """The expressions inside of a part of a parsed one."""
    if operation is opcodes.SUBPATTERN:
        return [value[-1]]
    if operation in (opcodes.ASSERT, opcodes.ASSERT_NOT):
        return [value[1]]
    if operation is opcodes.GROUPREF_EXISTS:
        return [each for each in value[1:] if each is not None]
    return [value] if operation is getattr(opcodes, "ATOMIC_GROUP", None) else []
