"""One connected client as the methods see it, at either door.

Owns the connection's session, its subscriptions and its manner (how the protocol is spoken to it). Must not touch a
socket: the writer does.
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
    """How the protocol is spoken on a connection.

    Attributes:
        framing: framing of executions whose request names none.
        lenient: whether unknown params are ignored instead of refused.
        one_at_a_time: whether a second live execution is refused, and a reply to `execute` waits for the start.
        prefixes: whether an execution may be named by the beginning of its id.
    """

    framing: Framing
    lenient: bool = False
    one_at_a_time: bool = False
    prefixes: bool = False


V1 = Manner("lines")
"""Clients of subprotocol `ccexec.v1`."""

EARLIER = Manner("line", lenient=True, one_at_a_time=True)
"""Clients that offer no subprotocol: those of the earlier protocol."""

OPERATOR = Manner("raw", prefixes=True)
"""Callers on the control socket."""


class Peer:
    """One connection.

    Args:
        engine: the engine that its calls are about.
        writer: sends to it.
        wrap: makes a message into a frame of its transport.
        manner: how the protocol is spoken to it.
        principal: the caller; its session belongs to the same one.
        drop: closes the connection.
        rates: how often it may call; None for no limit.
        origin: where the connection comes from, for the audit.
        refusals: counts and logs calls that it lacks the scope for; None for neither.

    Attributes:
        principal: the caller.
        session: its session; None until it has one.
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
        """The execution in memory with an id (or its beginning, if the manner allows), if the caller may see it."""
        return self.engine.find(execution_id, prefix=self.manner.prefixes, visible=self.sees)

    async def recall(self, execution_id: str) -> list[PastExecution]:
        """The same among past executions; two at most. Raises HistoryUnavailableError if they cannot be read now."""
        return await self.engine.recall(execution_id, self.principal.sees_only, prefix=self.manner.prefixes)

    def count(self, method: str) -> None:
        """Count a call by it.

        Raises:
            RPCError: it has made too many in a short time.
        """
        if self._rates is not None:
            self._rates.call(self.principal.name, method)

    def turned_away(self, message: str) -> None:
        """Note that it was refused a method whose scope it lacks."""
        if self._refusals is not None:
            name = self.principal.name
            self._refusals.record("scope", name, message, audited=(f"scope of {name}", self.origin), peer=self.origin)

    def sees(self, execution: Execution) -> bool:
        """Whether it may see an execution. What it may not see is treated as if it did not exist."""
        return self.principal.sees(execution.principal)

    async def claim_session(self) -> Session:
        """Its session, which is made on the first call; concurrent calls get the same one."""
        async with self._claiming:
            if self.session is None:
                self.session = await self.engine.open_session(self.principal.name, self.origin)
                self.session.drop_connection = self._drop
            return self.session

    def take_over(self, session: Session) -> None:
        """Hold another session from now on; the one that it held so far ends."""
        if self.session is session:
            return
        if self.session is not None:
            self.engine.sessions.connection_lost(self.session, Parting.CLOSED)
        self.session = session
        session.peer = self.origin
        self.engine.sessions.take_over(session, self._drop)

    def watch(self, execution: Watched, from_seq: int | None) -> None:
        """Send it an execution's log from an entry's number on; a second call moves the position."""
        self.take_place(execution, from_seq)
        self.begin_watching(execution.id)

    def take_place(self, execution: Watched, from_seq: int | None) -> None:
        """Subscribe to an execution without sending yet: its output is kept for this peer until `begin_watching`."""
        self.unwatch(execution.id)
        subscription = Subscription(execution, from_seq, self._writer, self._wrap, self._ended)
        self._subscriptions[execution.id] = subscription

    def begin_watching(self, execution_id: str) -> None:
        """Begin to send; does nothing if the subscription has been closed."""
        if execution_id in self._subscriptions:
            self._subscriptions[execution_id].begin()

    def unwatch(self, execution_id: str) -> bool:
        """Send an execution's log no longer. Returns whether there was a subscription."""
        subscription = self._subscriptions.get(execution_id)
        if subscription is not None:
            subscription.close()
        return subscription is not None

    def is_watching(self, execution_id: str) -> bool:
        """Whether it has a subscription to an execution."""
        return execution_id in self._subscriptions

    async def delivered(self) -> None:
        """Wait until all logs that it watches have been sent to their ends. The executions must have finished."""
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
        """Send what was queued."""
        self._writer.flush()

    async def room(self) -> None:
        """Wait while too many bytes of replies wait to be sent."""
        await self._writer.room()

    def gone(self, parting: Parting) -> None:
        """Clean up after the connection has ended: close subscriptions, and tell the session how it ended."""
        for subscription in list(self._subscriptions.values()):
            subscription.close()
        session, self.session = self.session, None
        if session is not None and session.drop_connection == self._drop:
            self.engine.sessions.connection_lost(session, parting)

    def _ended(self, execution_id: str) -> None:
        self._subscriptions.pop(execution_id, None)
