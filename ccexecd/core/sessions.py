"""What happens to a session and its executions when its connection ends.

Owns the rules of docs/protocol.md about lost connections, as one table. Must not end anything.
"""

from enum import Enum
from typing import Literal

from ccexecd.core.execution import Reason


class Parting(Enum):
    """How a connection left its session."""

    CLOSED = "closed"
    """The client closed it, on purpose."""

    CUT = "cut"
    """It broke: reset, ping time-out, no close frame."""

    EXPIRED = "expired"
    """Cut before, and the window for resuming it has passed; or idle for too long."""

    SHUTDOWN = "shutdown"
    """The daemon ends."""


REASONS = {
    Parting.CLOSED: Reason.DISCONNECTED,
    Parting.CUT: Reason.DISCONNECTED,
    Parting.EXPIRED: Reason.SESSION_EXPIRED,
    Parting.SHUTDOWN: Reason.SHUTDOWN,
}
"""The reason of an execution that is ended by a parting."""


def ends(on_disconnect: Literal["auto", "cancel", "detach"], parting: Parting) -> bool:
    """Whether a parting ends a live execution with this `on_disconnect`."""
    if parting is Parting.SHUTDOWN:
        return True
    if on_disconnect == "detach":
        return False
    return on_disconnect == "cancel" or parting is not Parting.CUT
