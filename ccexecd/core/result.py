"""An agent's final result, as far as it decides how its execution ends.

Owns the record and the face of whoever finds it in the output. Must not know any agent.
"""

from typing import Protocol

import attrs


@attrs.frozen
class FinalResult:
    """What an agent said last, before it should have ended.

    Attributes:
        agent: which kind of agent, as requests name it.
        subtype: the agent's own word for how it went.
        is_error: whether it failed.
    """

    agent: str
    subtype: str
    is_error: bool

    @property
    def exit_code(self) -> int:
        """What the agent would have exited with."""
        return 1 if self.is_error else 0


class ResultReader(Protocol):
    """Reads an agent's standard output for its final result, in pieces of any size."""

    @property
    def result(self) -> FinalResult | None:
        """The final result, if it is the last that the agent had to say so far."""

    def feed(self, received: bytes) -> bool:
        """Read on. Must neither block nor raise. Returns whether `result` is another one now."""
