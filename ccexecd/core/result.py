"""The final result of an agent, as far as it decides the outcome of its execution.

Owns the record. Must not know any agent.
"""

import attrs


@attrs.frozen
class FinalResult:
    """The last result that an agent has reported, after which it should end.

    Attributes:
        agent: kind of agent, as requests name it.
        subtype: the agent's own word for how the run went.
        is_error: whether the agent reports a failure.
    """

    agent: str
    subtype: str
    is_error: bool

    @property
    def exit_code(self) -> int:
        """The exit code that the agent would have ended with."""
        return 1 if self.is_error else 0
