"""Which commands are an agent, and which one.

Owns the table of those that are known. What is not in it is a plain command.
"""

from collections.abc import Sequence

from ccexecd.agents.adapter import Adapter
from ccexecd.agents.claude import CLAUDE
from ccexecd.agents.codex import CODEX
from ccexecd.agents.gemini import GEMINI
from ccexecd.agents.options import NO_COMMAND, Command, first_command
from ccexecd.core.spec import Spec

ADAPTERS = {each.name: each for each in (CLAUDE, CODEX, GEMINI)}
"""The agents that are known, by the name of their program."""


def agent_of(spec: Spec) -> Adapter | None:
    """Which agent an execution is: as the client says, or by the name of the program that it starts first."""
    if spec.agent != "auto":
        return ADAPTERS.get(spec.agent)
    if not any(name in spec.display for name in ADAPTERS):
        return None
    return agent_named(command_of(spec).words)


def agent_named(words: Sequence[str]) -> Adapter | None:
    """Which agent some words start, by the base name of the first."""
    return ADAPTERS.get(words[0].rpartition("/")[2]) if words else None


def command_of(spec: Spec) -> Command:
    """The words that start an execution's first program; none if they cannot be told."""
    if not spec.shell:
        return Command(spec.argv) if spec.argv else NO_COMMAND
    return first_command(spec.display)
