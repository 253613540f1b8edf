"""How much of the daemon one principal may take, at either door.

Owns the three kinds of buckets and what is said when one is empty. A bucket is looked at on every call: it costs less
than a microsecond, and nothing where the rate is 0.
"""

import time
from collections.abc import Callable

from ccexecd.config import Config
from ccexecd.core.rates import Buckets
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import RPCError


class Rates:
    """Handshakes, requests and executions of every principal, by name.

    Args:
        config: the configuration in force; `reconfigure` replaces it.
        clock: seconds that never go back.
    """

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Use other rates from now on; everybody starts with full buckets."""
        self._handshakes = Buckets(config.handshake_rate)
        self._requests = Buckets(config.request_rate)
        self._executions = Buckets(config.execution_rate)

    def handshake(self, principal: str) -> float:
        """Count a WebSocket handshake. Returns 0, or the seconds after which another one will do."""
        return self._handshakes.take(principal, self._clock())

    def request(self, principal: str) -> float:
        """Count a request over HTTP. Returns 0, or the seconds after which another one will do."""
        return self._requests.take(principal, self._clock())

    def execution(self, principal: str, number: int = 1) -> float:
        """Count executions. Returns 0, or the seconds after which they will do."""
        return self._executions.take(principal, self._clock(), number)

    def call(self, principal: str, method: str) -> None:
        """Count a call.

        Raises:
            RPCError: there have been too many; nothing of this one is to be done.
        """
        wait = self.request(principal)
        if wait:
            raise too_many("requests", wait)
        if method == "execute":
            wait = self.execution(principal)
            if wait:
                raise too_many("executions", wait)


def too_many(what: str, wait: float) -> RPCError:
    """What is said to whoever has done too much in too short a time.

    Args:
        what: of what, in the plural.
        wait: seconds after which another one will do.
    """
    text = f"too many {what} of this principal in a short time; nothing of this one has been done: send it again later"
    return RPCError(ErrorCode.QUEUE_FULL, text, {"retry_after": round(wait, 3) or 0.001})
