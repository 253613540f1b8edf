"""An agent's final result, as far as it decides how its execution ends.

Owns the record. Must not know any agent.
"""

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
