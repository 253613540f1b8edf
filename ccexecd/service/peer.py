"""One connected client as the methods see it, whichever door it came through.

Owns the connection's session, its subscriptions and the manner in which it is spoken to. Must not touch a socket: the
writer does.
"""

from collections.abc import Callable
from typing import Any

import attrs
import trio

from ccexecd.core.framing import Framing
from ccexecd.core.principals import Principal
from ccexecd.core.sessions import Parting
from ccexecd.engine import Engine, Execution, PastExecution, Session
from ccexecd.protocol.codec import dumps
from ccexecd.protocol.jsonrpc import notification
from ccexecd.service.delivery import Subscription, Watched, Wrap
from ccexecd.service.rates import Rates
from ccexecd.service.refusals import Refusals
from ccexecd.service.writer import Writer


@attrs.frozen
class Manner:
    """How a connection is spoken to.

    Attributes:
        framing: of executions that do not choose one.
        lenient: unknown params are passed over (clients without a subprotocol) instead of refused.
        one_at_a_time: a second live execution is refused, as clients without a subprotocol expect.
        prefixes: an execution may be named by the beginning of its id, as people do.
    """

    framing: Framing
    lenient: bool = False
    one_at_a_time: bool = False
    prefixes: bool = False


V1 = Manner("lines")
"""Clients of subprotocol `ccexec.v1`."""

EARLIER = Manner("line", lenient=True, one_at_a_time=True)
"""Clients that offer no subprotocol: the earlier protocol's."""

OPERATOR = Manner("raw", prefixes=True)
"""The control socket."""


class Peer:
    """One connection.

    Args:
        engine: what it talks to.
        writer: how to answer it.
        wrap: makes a frame of a message.
        manner: how it is spoken to.
        principal: whose it is, and so its session.
        drop: closes the connection.
        rates: how often it may call; None for as often as it likes.
        origin: where the connection comes from.
        refusals: where it is counted, and put on record, what it may not do.

    Attributes:
        principal: whose it is.
        session: its claim; None until it has one.
    """

    def __init__(
        self,
        engine: Engine,
        writer: Writer,
        wrap: Wrap,
        manner: Manner,
        principal: Principal,
        drop: Callable[[Parting], None],
        rates: Rates | None = None,
        origin: str = "",
        *,
        refusals: Refusals | None = None,
    ) -> None:
        self.engine = engine
        self.manner = manner
        self.principal = principal
        self.session: Session | None = None
        self._writer = writer
        self._wrap = wrap
        self.origin = origin
        self._drop = drop
        self._rates = rates
        self._refusals = refusals
        self._subscriptions: dict[str, Subscription] = {}
        self._claiming = trio.Lock()

    def find(self, execution_id: str) -> Execution | None:
        """An execution that is there for it: its principal's own, unless that one sees all."""
        return self.engine.find(execution_id, prefix=self.manner.prefixes, visible=self.sees)

    async def recall(self, execution_id: str) -> list[PastExecution]:
        """Those of the past that are there for it, by id or, where it may, by its beginning: two at most."""
        return await self.engine.recall(execution_id, self.principal.sees_only, prefix=self.manner.prefixes)

    def count(self, method: str) -> None:
        """Count a call of it.

        Raises:
            RPCError: there have been too many.
        """
        if self._rates is not None:
            self._rates.call(self.principal.name, method)

    def turned_away(self, message: str) -> None:
        """It has called what it lacks the scope for."""
        if self._refusals is not None:
            name = self.principal.name
            self._refusals.record("scope", name, message, audited=(f"scope of {name}", self.origin), peer=self.origin)

    def sees(self, execution: Execution) -> bool:
        """Whether an execution is there for it; what is not is spoken of as if it did not exist."""
        return self.principal.sees(execution.principal)

    async def claim_session(self) -> Session:
        """Its session, made on the first call; whoever calls while it is being made gets the same one."""
        async with self._claiming:
            if self.session is None:
                self.session = await self.engine.open_session(self.principal.name, self.origin)
                self.session.drop_connection = self._drop
            return self.session

    def take_over(self, session: Session) -> None:
        """Hold another session from now on, instead of its own, which ends."""
        if self.session is session:
            return
        if self.session is not None:
            self.engine.sessions.connection_lost(self.session, Parting.CLOSED)
        self.session = session
        session.peer = self.origin
        self.engine.sessions.take_over(session, self._drop)

    def watch(self, execution: Watched, from_seq: int | None) -> None:
        """Send an execution's log from a position on; a second call moves the position."""
        self.take_place(execution, from_seq)
        self.begin_watching(execution.id)

    def take_place(self, execution: Watched, from_seq: int | None) -> None:
        """Be counted as a watcher of an execution from now on; what it writes is kept for us until we begin."""
        self.unwatch(execution.id)
        subscription = Subscription(execution, from_seq, self._writer, self._wrap, self._ended)
        self._subscriptions[execution.id] = subscription

    def begin_watching(self, execution_id: str) -> None:
        """Send what is there, and what comes; nothing if the place has been given up."""
        if execution_id in self._subscriptions:
            self._subscriptions[execution_id].begin()

    def unwatch(self, execution_id: str) -> bool:
        """Send it no longer. Returns whether it was being sent."""
        subscription = self._subscriptions.get(execution_id)
        if subscription is not None:
            subscription.close()
        return subscription is not None

    def is_watching(self, execution_id: str) -> bool:
        """Whether it is sent an execution's log."""
        return execution_id in self._subscriptions

    async def delivered(self) -> None:
        """Wait until the end of everything that it watches, which has all finished, has been sent."""
        while self._subscriptions and not self._writer.broken:
            await self._writer.drained()
            await trio.lowlevel.checkpoint()
        await self._writer.drained()

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification that belongs to no execution's sequence."""
        self._writer.send(self._wrap(notification(method, params)))

    def queue(self, message: object) -> None:
        """Send a reply with the next flush."""
        self._writer.queue(self._wrap(dumps(message)))

    def flush(self) -> None:
        """Send what waits."""
        self._writer.flush()

    async def room(self) -> None:
        """Wait while too much waits to be sent."""
        await self._writer.room()

    def gone(self, parting: Parting) -> None:
        """The connection has ended: its subscriptions go, and the session hears how."""
        for subscription in list(self._subscriptions.values()):
            subscription.close()
        session, self.session = self.session, None
        if session is not None and session.drop_connection == self._drop:
            self.engine.sessions.connection_lost(session, parting)

    def _ended(self, execution_id: str) -> None:
        self._subscriptions.pop(execution_id, None)
