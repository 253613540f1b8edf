"""Detects which executions are agents, whoever asked for them, and makes the listener that each of those gets.

Owns that choice, and keeps the start of the daemon short: the code that reads and judges agents is imported with the
first agent.
"""

from ccexecd.agents.recognition import is_agent
from ccexecd.process.execution import Execution
from ccexecd.process.listening import Listener


def agent_listener(execution: Execution) -> Listener | None:
    """Make a listener for an execution that is an agent; None for any other command."""
    if not is_agent(execution.spec):
        return None
    from ccexecd.agent_listener import listen_to_agent  # noqa: PLC0415  # see above

    return listen_to_agent(execution)
