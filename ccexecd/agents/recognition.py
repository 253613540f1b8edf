"""Which commands are an agent, and which one.

Owns the table of those that are known. What is not in it is a plain command. What is known of each is imported when one
is met: most commands are none.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ccexecd.agents.options import NO_COMMAND, Command, first_command
from ccexecd.core.spec import Spec

if TYPE_CHECKING:  # see above
    from ccexecd.agents.adapter import Adapter

NAMES = frozenset({"claude", "codex", "gemini"})
"""The agents that are known, by the name of their program."""


def is_agent(spec: Spec) -> bool:
    """Whether an execution is one of the agents that are known."""
    return name_of(spec) in NAMES


def agent_of(spec: Spec) -> "Adapter | None":
    """Which agent an execution is; None if it is none that is known."""
    return _adapter(name_of(spec))


def agent_named(words: Sequence[str]) -> "Adapter | None":
    """Which agent some words start, by the base name of the first."""
    return _adapter(_base_name(words))


def name_of(spec: Spec) -> str:
    """Which agent it is by name: as the client says, or by the program that it starts first. It may be none of ours."""
    if spec.agent != "auto":
        return spec.agent
    if not any(name in spec.display for name in NAMES):
        return ""
    return _base_name(command_of(spec).words)


def command_of(spec: Spec) -> Command:
    """The words that start an execution's first program; none if they cannot be told."""
    if not spec.shell:
        return Command(spec.argv) if spec.argv else NO_COMMAND
    return first_command(spec.display)


def _base_name(words: Sequence[str]) -> str:
    return words[0].rpartition("/")[2] if words else ""


def _adapter(name: str) -> "Adapter | None":
    if name not in NAMES:
        return None
    from ccexecd.agents.claude import CLAUDE  # noqa: PLC0415  # see above
    from ccexecd.agents.codex import CODEX  # noqa: PLC0415
    from ccexecd.agents.gemini import GEMINI  # noqa: PLC0415

    return {"claude": CLAUDE, "codex": CODEX, "gemini": GEMINI}[name]
