"""How often each principal may call, at either door.

Owns the three kinds of token buckets, and the error when one is empty. Each call takes from a bucket, which costs less
than a microsecond, and nothing if the rate is 0 (no limit).
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
        clock: returns monotonic seconds.
    """

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Use other rates from now on; every principal starts with full buckets."""
        self._handshakes = Buckets(config.handshake_rate)
        self._requests = Buckets(config.request_rate)
        self._executions = Buckets(config.execution_rate)

    def handshake(self, principal: str) -> float:
        """Count a WebSocket handshake. Returns 0 if it is admitted, else the seconds until another attempt will be."""
        return self._handshakes.take(principal, self._clock())

    def request(self, principal: str) -> float:
        """Count an HTTP request or a call. Returns 0 if it is admitted, else the seconds until another one will be."""
        return self._requests.take(principal, self._clock())

    def execution(self, principal: str, number: int = 1) -> float:
        """Count executions. Returns 0 if they are admitted, else the seconds until another attempt will be."""
        return self._executions.take(principal, self._clock(), number)

    def call(self, principal: str, method: str) -> None:
        """Count a call of a method.

        Raises:
            RPCError: there have been too many; this call must not be carried out.
        """
        wait = self.request(principal)
        if wait:
            raise too_many("requests", wait)
        if method == "execute":
            wait = self.execution(principal)
            if wait:
                raise too_many("executions", wait)


def too_many(what: str, wait: float) -> RPCError:
    """The error for a principal that exceeds a rate.

    Args:
        what: what there was too much of, in the plural.
        wait: seconds until another attempt will be admitted.
    """
    text = f"too many {what} of this principal in a short time; nothing of this one has been done: send it again later"
    return RPCError(ErrorCode.QUEUE_FULL, text, {"retry_after": round(wait, 3) or 0.001})
