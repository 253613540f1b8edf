"""What the external door serves, to whom, and how much of it.

Owns the settings and the figures that all connections share. The door makes one `Site` and may replace its parts while
connections are open: a new policy counts for the next request, new limits for the next connection.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import attrs

from ccexecd.config import Config
from ccexecd.external.auth import Policy
from ccexecd.external.request import Route
from ccexecd.external.throttle import Throttle
from ccexecd.external.token_lifetime import TokenLifetimes
from ccexecd.external.upgrade import Upgrade
from ccexecd.service.rates import Rates
from ccexecd.service.refusals import Refusals


@attrs.frozen
class Limits:
    """How much one client may take.

    Attributes:
        head_bytes: The longest request head, enforced to within one read of 4 KiB. (h11, IIS: 16 KiB)
        head_timeout: Seconds for a whole head, however steadily it trickles (slow loris).
        idle_timeout: Seconds that a connection may stay open between two requests.
        requests: Requests per connection, so that no client holds one for ever.
        body_bytes: The longest request body.
        body_timeout: Seconds for a whole body.
        write_timeout: Seconds for a client to take 64 KiB of an answer.
        drain_bytes: Bytes read and thrown away at the end, so that a reset does not destroy the answer on its way.
        drain_timeout: Seconds for reading them.
        connections: Connections served at the same time, WebSockets included. One more is answered 503.
        turned_away: Connections being answered 503 at the same time. One more is closed without an answer.
    """

    head_bytes: int = 16 * 1024
    head_timeout: float = 10.0
    idle_timeout: float = 15.0
    requests: int = 100
    body_bytes: int = 10 * 1024 * 1024
    body_timeout: float = 30.0
    write_timeout: float = 10.0
    drain_bytes: int = 256 * 1024
    drain_timeout: float = 1.0
    connections: int = 1024
    turned_away: int = 64


@attrs.define
class Counters:
    """What has happened at the door since the daemon started, and what is going on.

    Attributes:
        open: Connections being served now.
        turning_away: Connections being answered 503 now.
        accepted: Connections accepted.
        requests: Requests whose head was in order.
        upgrades: WebSocket handshakes handed on.
        refused: Refusals by HTTP status.
        crashed: Connections that ended by a fault of ours.
    """

    open: int = 0
    turning_away: int = 0
    accepted: int = 0
    requests: int = 0
    upgrades: int = 0
    refused: Counter[int] = attrs.field(factory=Counter)
    crashed: int = 0


@attrs.define
class Site:
    """Everything that a connection needs to know.

    Attributes:
        policy: Who may enter.
        websocket: Takes over a connection that has become a WebSocket and returns when it has ended, with its last
            frame sent. It need not close the stream; an exception that it lets out ends that connection only.
        routes: What plain HTTP serves, by path.
        websocket_paths: Where a WebSocket can be opened. Earlier clients use ``/ws``.
        subprotocols: The WebSocket subprotocols that are spoken, the preferred first.
        limits: How much one client may take.
        counters: The figures.
        rates: How often each principal may ask.
        refusals: Who was refused, by reason.
        throttle: What wrong credentials cost whoever shows them.
        token_lifetimes: Answers under way to callers that were admitted by a token.
    """

    policy: Policy
    websocket: Callable[[Upgrade], Awaitable[None]]
    routes: Mapping[str, Route] = attrs.field(factory=dict)
    websocket_paths: tuple[str, ...] = ("/ws/mcp", "/ws")
    subprotocols: tuple[str, ...] = ("ccexec.v1",)
    limits: Limits = Limits()
    counters: Counters = attrs.field(factory=Counters)
    rates: Rates = attrs.field(factory=lambda: Rates(Config()))
    refusals: Refusals = attrs.field(factory=Refusals)
    throttle: Throttle = attrs.field(factory=Throttle)
    token_lifetimes: TokenLifetimes = attrs.field(factory=TokenLifetimes)
