"""Finds an agent's final result: the result that no further turn has followed.

An agent may stay after its final result: a server that it started keeps it, or an unfinished hook. Told turn by turn
through its standard input, it reports a result after each; the next turn takes that back. So does every event that
follows, but for those that are known to belong to its end: to be ended in the middle of a turn is worse than to stay.
Owns that rule.
"""

from ccexecd.agents.events import Event, Other, Result
from ccexecd.core.result import FinalResult


class FinalResultReader:
    """Finds the final result among events.

    Args:
        agent: name of the kind of agent.

    Attributes:
        result: the latest result; None if an event has followed that may begin another turn.
    """

    def __init__(self, agent: str) -> None:
        self.result: FinalResult | None = None
        self._agent = agent

    def take(self, event: Event) -> bool:
        """Take an event. Returns whether `result` has changed."""
        before = self.result
        if isinstance(event, Result):
            self.result = FinalResult(self._agent, event.subtype[:100], event.is_error or event.subtype != "success")
        elif not (isinstance(event, Other) and event.is_closing):
            self.result = None
        return self.result is not before
