"""Who accompanies executions without being asked: for an agent, somebody who listens to what it says.

Owns that choice, and that nobody waits for it: what reads and judges agents is imported when the first one runs.
"""

from ccexecd.agents.recognition import is_agent
from ccexecd.process.execution import Execution
from ccexecd.process.listening import Listener


def accompany(execution: Execution) -> Listener | None:
    """A listener for an execution that is an agent; None for any other command."""
    if not is_agent(execution.spec):
        return None
    from ccexecd.agent_listener import listen_to_agent  # noqa: PLC0415  # see above

    return listen_to_agent(execution)
