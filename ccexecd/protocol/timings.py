"""The params of the methods about how long commands take: `estimate`, `history`, `stats`.

Owns their names, types and bounds, as `messages` does for the methods about executions.
"""

from typing import Literal

import attrs

from ccexecd.protocol.checks import require, require_command
from ccexecd.protocol.codec import Count, Seconds, Text

CategoryName = Literal["agent", "test", "build", "install", "transfer", "check", "script", "shell", "brief", "other"]
"""What sort of work a command is (`core.kinds.Category`)."""

MAX_HISTORY = 10_000
"""Past executions that one `history` may ask for."""


@attrs.frozen
class Estimate:
    """`estimate`: how long a command may take; exactly one of `command` and `argv`, as for `execute`."""

    command: Text | None = None
    argv: tuple[Text, ...] | None = None
    cwd: Text | None = None

    def __attrs_post_init__(self) -> None:
        require_command(self.command, self.argv)


@attrs.frozen
class History:
    """`history`: finished executions with their durations, newest first; `before` goes on where a reply has ended."""

    category: CategoryName | None = None
    program: str | None = None
    reason: str | None = None
    since: Seconds | None = None
    before: Count | None = None
    limit: Count = Count(100)

    def __attrs_post_init__(self) -> None:
        require(0 < self.limit <= MAX_HISTORY, "$.limit", f"must be from 1 to {MAX_HISTORY}")


@attrs.frozen
class Stats:
    """`stats`: how long what took, in percentiles; `since` is how many seconds to look back."""

    by: Literal["category", "program", "form"] = "program"
    category: CategoryName | None = None
    since: Seconds | None = None
