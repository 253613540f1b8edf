"""What happens to a session and its executions when its connection goes.

The rules of the contract's "What a lost connection means", as one table.
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
"""Why an execution ends that a parting ends."""


def ends(on_disconnect: Literal["auto", "cancel", "detach"], parting: Parting) -> bool:
    """Whether a live execution is ended by a parting."""
    if parting is Parting.SHUTDOWN:
        return True
    if on_disconnect == "detach":
        return False
    return on_disconnect == "cancel" or parting is not Parting.CUT
