"""One client on its WebSocket: greeting, messages, liveness, close.

Owns the tasks of a connection: the reader, which never waits on work, the writer, the heartbeat, and the calls that
are under way. Must not know what the methods do.
"""

import logging
from collections.abc import Mapping

import attrs
import trio

from ccexecd import __version__
from ccexecd.config import Config
from ccexecd.core.sessions import Parting
from ccexecd.engine import Engine
from ccexecd.external.token_lifetime import time_left
from ccexecd.external.upgrade import Upgrade
from ccexecd.external.websocket import WebSocket, text_frame
from ccexecd.fairness import yield_to_requests
from ccexecd.protocol.errors import CloseCode, ErrorCode
from ccexecd.protocol.jsonrpc import RPCError, error
from ccexecd.service.dispatch import Dispatcher, Method
from ccexecd.service.peer import EARLIER, V1, Peer
from ccexecd.service.rates import Rates
from ccexecd.service.refusals import Refusals
from ccexecd.service.writer import Writer

log = logging.getLogger(__name__)

CAPABILITIES = ("execute", "control", "stream", "stdin", "attach", "resume")
"""The capabilities that the greeting names; clients of the earlier protocol look for the first three."""

_FAREWELLS = {
    Parting.CUT: (CloseCode.TAKEN_OVER, "another connection has taken the session over"),
    Parting.EXPIRED: (CloseCode.NORMAL, "the session was idle for too long"),
    Parting.CLOSED: (CloseCode.NORMAL, "the session has ended"),
    Parting.SHUTDOWN: (CloseCode.GOING_AWAY, "the daemon ends"),
}

_WITHDRAWN = (CloseCode.NOT_AUTHORISED, "the token admits nobody any more")


@attrs.frozen
class Shared:
    """What all connections of clients share.

    Attributes:
        engine: runs their executions.
        methods: name -> method that they may call.
        epoch: an id of this run of the daemon, so that clients notice a restart.
        rates: how often each principal may call; None for no limit.
        refusals: counts calls that are refused for lack of a scope.
        connections: the open connections.
    """

    engine: Engine
    methods: Mapping[str, Method]
    epoch: str
    rates: Rates | None = None
    refusals: Refusals | None = None
    connections: "set[Connection]" = attrs.field(factory=set)


class Connection:
    """One open WebSocket.

    Args:
        shared: what all connections share.
        upgrade: the handshake to accept.
    """

    def __init__(self, shared: Shared, upgrade: Upgrade) -> None:
        self._shared = shared
        self._upgrade = upgrade
        self._config: Config = shared.engine.config
        stream = upgrade.stream
        if not isinstance(stream, trio.SocketStream):
            raise TypeError(f"a WebSocket needs a socket to write to, not {type(stream).__name__}")
        self._writer = Writer(stream.socket.fileno(), self._config.stream_timeout)
        self._reading = trio.CancelScope()
        self._listening = True
        self._farewell = Parting.CUT
        self._last_words = _FAREWELLS[Parting.CUT]
        self._peer = Peer(
            shared.engine,
            self._writer,
            text_frame,
            V1 if upgrade.subprotocol else EARLIER,
            upgrade.principal,
            self.leave,
            shared.rates,
            origin=upgrade.request.peer,
            refusals=shared.refusals,
        )

    async def serve(self) -> None:
        """Serve the client until it leaves, or is told to leave."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            websocket = await WebSocket.accept(self._upgrade, self._writer, nursery, self._config.ws_max_size)
            self._shared.connections.add(self)
            try:
                await self._greet()
                nursery.start_soon(self._keep_alive, websocket)
                if self._upgrade.principal.expires_at is not None:
                    nursery.start_soon(self._withdraw_in, time_left(self._upgrade.principal))
                async with trio.open_nursery() as calls:
                    with self._reading:
                        await self._read(websocket, Dispatcher(self._shared.methods, self._peer, calls))
                    calls.cancel_scope.cancel(reason="the connection ends")
            finally:
                self._shared.connections.discard(self)
                left_by_itself = not self._reading.cancelled_caught
                self._peer.gone(websocket.parting if left_by_itself else self._farewell)
            if not self._writer.broken:
                if left_by_itself:
                    websocket.complain()
                else:
                    await websocket.close(*self._last_words)
                with trio.move_on_after(1, shield=True):
                    await self._writer.drained()
            nursery.cancel_scope.cancel(reason="the connection has ended")

    def announce(self, method: str, params: dict[str, object]) -> None:
        """Send a notification about the daemon."""
        self._peer.notify(method, params)

    async def finish(self, parting: Parting) -> None:
        """Let everything that the client watches be sent, then close the connection."""
        await self._peer.delivered()
        self.leave(parting)

    def leave(self, parting: Parting) -> None:
        """Close the connection with the close code for this parting."""
        self._farewell, self._last_words = parting, _FAREWELLS[parting]
        self._reading.cancel(reason=_FAREWELLS[parting][1])

    def withdraw(self, name: str) -> None:
        """Close the connection if it was admitted by the token with this name; its session stays as after a cut."""
        if self._upgrade.principal.via == "token" and self._upgrade.principal.name == name:
            self._farewell, self._last_words = Parting.CUT, _WITHDRAWN
            self._reading.cancel(reason=_WITHDRAWN[1])

    async def _withdraw_in(self, seconds: float) -> None:
        await trio.sleep(seconds)
        self.withdraw(self._upgrade.principal.name)

    async def _greet(self) -> None:
        session = await self._peer.claim_session()
        self._peer.notify(
            "connected",
            {
                "session_id": session.id,
                "version": __version__,
                "capabilities": list(CAPABILITIES),
                "resume_token": session.resume_token,
                "server_epoch": self._shared.epoch,
                "limits": {
                    "max_sessions": self._config.max_sessions,
                    "max_message_bytes": self._config.ws_max_size,
                    "max_buffer_bytes": self._config.max_buffer_size,
                    "resume_window": self._config.resume_window,
                },
            },
        )

    async def _read(self, websocket: WebSocket, dispatcher: Dispatcher) -> None:
        while (message := await websocket.receive()) is not None:
            self._listening = False
            if isinstance(message, str):
                await dispatcher.receive(message.encode())
            else:
                fault = RPCError(
                    ErrorCode.INVALID_REQUEST, "Invalid request: messages are text frames, not binary ones"
                )
                self._peer.queue(error(None, fault))
                self._peer.flush()
            if websocket.is_one_of_many:
                await yield_to_requests(own=1)
            self._listening = True

    async def _write(self) -> None:
        """Run the writer; when it gives up the client, stop reading from it."""
        await self._writer.run()
        log.info("a connection is given up: %s", self._writer.broken, extra={"peer": self._upgrade.request.peer})
        self._reading.cancel(reason=self._writer.broken)

    async def _keep_alive(self, websocket: WebSocket) -> None:
        """Send pings; a client that does not answer one in time is given up.

        While we read nothing, because the client has as many calls under way as it may, a late pong does not count.
        """
        while True:
            await trio.sleep(self._config.ws_ping_interval)
            with trio.move_on_after(self._config.ws_ping_timeout) as patience:
                if not await websocket.ping():
                    return
            if patience.cancelled_caught and self._listening:
                self._writer.give_up(f"no pong for {self._config.ws_ping_timeout:g} s")
                return
