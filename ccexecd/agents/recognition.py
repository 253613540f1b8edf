"""Recognises which commands start an agent, and which agent.

Owns the table of the agents that are known; every other command is a plain one. Most commands are, so the adapters are
imported when the first agent is met.
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
    """Whether an execution is an agent that is known."""
    return name_of(spec) in NAMES


def agent_of(spec: Spec) -> "Adapter | None":
    """Return the adapter of an execution's agent; None if it is no agent that is known."""
    return _adapter(name_of(spec))


def agent_named(words: Sequence[str]) -> "Adapter | None":
    """Return the adapter of the agent that a command starts, by the base name of its first word; None if it is none."""
    return _adapter(_base_name(words))


def name_of(spec: Spec) -> str:
    """Return the name of an execution's agent: the request's `agent`, or for `auto` the first program's base name.

    It need not be a name of `NAMES`; it is empty if the command does not contain any of those.
    """
    if spec.agent != "auto":
        return spec.agent
    if not any(name in spec.display for name in NAMES):
        return ""
    return _base_name(command_of(spec).words)


def command_of(spec: Spec) -> Command:
    """Return the first command that an execution runs: its `argv`, or the first one of its command string."""
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
