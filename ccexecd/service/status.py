"""The method `status`: of one execution, with the resources that it uses, or, without an id, of the daemon."""

from collections.abc import Awaitable, Callable
from typing import Any

from ccexecd.engine import Engine, PastExecution
from ccexecd.process.measure import usage
from ccexecd.protocol import messages
from ccexecd.service.dispatch import Method
from ccexecd.service.listing import described_of, has_processes, told
from ccexecd.service.naming import known
from ccexecd.service.peer import Peer


def status_method(of_daemon: Callable[[], Awaitable[dict[str, Any]]]) -> Method:
    """Make the method.

    Args:
        of_daemon: gives the daemon's own status.
    """

    def status(peer: Peer, wanted: messages.Status) -> Awaitable[dict[str, Any]]:
        if wanted.execution_id is None:
            return of_daemon()
        return _of_execution(peer, wanted.execution_id)

    return Method(messages.Status, status)


def counts_of(engine: Engine) -> dict[str, int]:
    """How many executions there are, by what they do, and how many may run at the same time."""
    live = len(engine.live)
    return {
        "live": live,
        "finished": len(engine.executions) - live - len(engine.held),
        "total_started": engine.started_total,
        "running": engine.turns.running,
        "queued": len(engine.turns),
        "held": len(engine.held),
        "max_running": engine.turns.max_running,
    }


async def _of_execution(peer: Peer, name: str) -> dict[str, Any]:
    execution = await known(peer, name)
    if isinstance(execution, PastExecution):
        return {**told(execution.looked_up, peer.engine.gate.redactor), "resources": None}
    described = told(described_of(execution), peer.engine.gate.redactor)
    if not has_processes(execution):
        return {**described, "resources": None}
    return {**described, "resources": await usage(await execution.processes())}
