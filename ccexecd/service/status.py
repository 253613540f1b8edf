"""`status`: of one execution, or, without an id, of the daemon."""

from collections.abc import Callable
from typing import Any

from ccexecd.protocol import messages
from ccexecd.service.dispatch import Method
from ccexecd.service.methods import describe, known
from ccexecd.service.peer import Peer


def status_method(of_daemon: Callable[[], dict[str, Any]]) -> Method:
    """The method, given who knows about the daemon."""

    def status(peer: Peer, wanted: messages.Status) -> dict[str, Any]:
        return of_daemon() if wanted.execution_id is None else describe(known(peer, wanted.execution_id))

    return Method(messages.Status, status)
