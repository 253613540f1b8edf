"""Checks that the params of several methods share.

Owns how a rule that spans fields is refused; types and bounds of single values are `codec`'s.
"""

from collections.abc import Sequence

from ccexecd.protocol.codec import StructureError


def require(holds: bool, path: str, error: str) -> None:
    """Refuse params that break a rule.

    Args:
        holds: whether the rule holds.
        path: JSON path of the field at fault; `$` is the params as a whole.
        error: what the rule asks for.

    Raises:
        StructureError: the rule does not hold.
    """
    if not holds:
        raise StructureError([{"path": path, "error": error}])


def require_argv(argv: Sequence[str] | None) -> None:
    """Refuse an `argv` that names no program; None, where the client sent none, passes.

    Raises:
        StructureError: it is empty, or its first word is.
    """
    require(argv is None or bool(argv and argv[0]), "$.argv", "must not be empty, nor its first word")


def require_command(command: str | None, argv: Sequence[str] | None) -> None:
    """Refuse params that do not name exactly one command, as a string or as words.

    Raises:
        StructureError: both or neither were sent, or the one that was sent is empty.
    """
    require((command is None) != (argv is None), "$", "exactly one of command and argv is required")
    require(command is None or bool(command.strip()), "$.command", "must not be empty")
    require_argv(argv)
