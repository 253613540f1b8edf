"""`status`: of one execution, with what it uses, or, without an id, of the daemon."""

from collections.abc import Awaitable, Callable
from typing import Any

from ccexecd.process.execution import Execution
from ccexecd.process.measure import usage
from ccexecd.protocol import messages
from ccexecd.service.dispatch import Method
from ccexecd.service.listing import describe, has_processes
from ccexecd.service.methods import known
from ccexecd.service.peer import Peer


def status_method(of_daemon: Callable[[], Awaitable[dict[str, Any]]]) -> Method:
    """The method, given who knows about the daemon."""

    def status(peer: Peer, wanted: messages.Status) -> Awaitable[dict[str, Any]]:
        if wanted.execution_id is None:
            return of_daemon()
        return _of_execution(known(peer, wanted.execution_id))

    return Method(messages.Status, status)


async def _of_execution(execution: Execution) -> dict[str, Any]:
    resources = await usage(await execution.processes()) if has_processes(execution) else None
    return {**describe(execution), "resources": resources}
