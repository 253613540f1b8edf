"""One connection at the external door, from its first byte to its last.

A connection is a conversation: requests are read one after another, each is authorised before anything else is said
about it, and then answered, refused, or handed to the site as a WebSocket. A refusal ends the conversation, because
what else is in flight may not be a request at all. Around it stands the barrier, `serve_connection`: whatever goes
wrong in one connection ends that connection and no other.

Owns that order. wire.py owns how messages are read and written. Must not decide what is served, and to whom: the `Site`
says so.
"""

import logging
from contextlib import suppress
from http import HTTPStatus

import attrs
import trio

from ccexecd.core.principals import Principal
from ccexecd.external.address import format_address, network_of
from ccexecd.external.auth import CHALLENGE, authorize, screen
from ccexecd.external.request import Reason, Reject, Request, Response
from ccexecd.external.site import Site
from ccexecd.external.socket_owner import ConnectedSocket
from ccexecd.external.throttle import too_often
from ccexecd.external.upgrade import Upgrade, check_handshake, select_subprotocol
from ccexecd.external.wire import Wire

_log = logging.getLogger(__name__)


async def serve_connection(
    stream: trio.abc.HalfCloseableStream, site: Site, accepted: trio.SocketStream | None = None
) -> None:
    """Serve one connection and close it. The barrier: nothing but cancellation leaves this function.

    Args:
        stream: The connection. It is closed when this ends in any way.
        site: What is served.
        accepted: The TCP connection, if `stream` is what TLS carries inside of it: it tells who the peer is. None if
            `stream` is the TCP connection itself.
    """
    if accepted is None and isinstance(stream, trio.SocketStream):
        accepted = stream
    sock = accepted.socket if accepted is not None else None
    conversation = _Conversation(Wire(stream, _spell_peer(sock), site.limits), site, sock)
    peer = conversation.wire.peer
    try:
        await conversation.hold()
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        _log.debug("the client went away", extra={"peer": peer})
    except* Exception as crash:  # noqa: BLE001 - the barrier of a connection
        site.counters.crashed += 1
        _log.exception("a connection failed", exc_info=crash, extra={"peer": peer})
        await conversation.apologise()
    finally:
        await trio.aclose_forcefully(stream)


def _spell_peer(sock: ConnectedSocket | None) -> str:
    """Write the other end's address for the log; a reset may have taken it away already."""
    if sock is not None:
        with suppress(OSError):
            host, port, *_ = sock.getpeername()
            return format_address(host, port)
    return "unknown"


@attrs.frozen
class _Conversation:
    """The requests and answers of one connection."""

    wire: Wire
    site: Site
    sock: ConnectedSocket | None

    async def hold(self) -> None:
        """Serve the connection if there is room for it, or say that there is none."""
        counters, limits = self.site.counters, self.site.limits
        counters.accepted += 1
        if counters.open < limits.connections:
            counters.open += 1
            try:
                await self._serve()
            finally:
                counters.open -= 1
        elif counters.turning_away < limits.turned_away:
            counters.turning_away += 1
            try:
                await self._turn_away(limits.connections)
            finally:
                counters.turning_away -= 1

    async def apologise(self) -> None:
        """Answer 500 after a fault of ours, unless another answer has begun. Nothing but cancellation leaves this."""
        if self.wire.can_answer:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.wire.send(
                    Response.json({"error": "internal error; the daemon's log says more"}, 500), last=True
                )
                await self.wire.part()

    async def _turn_away(self, limit: int) -> None:
        message = f"{limit} connections are open, which is the limit (max_connections); try again in a moment"
        await self._refuse(Reject(503, message, (("Retry-After", "1"),)))
        await self.wire.part()

    async def _serve(self) -> None:
        """Answer requests until the conversation ends or turns into a WebSocket."""
        try:
            upgrade = await self._answer_requests()
        except Reject as refusal:
            await self._refuse(refusal)
            upgrade = None
        if upgrade is not None:
            self.wire.hand_over()
            self.site.counters.upgrades += 1
            await self.site.websocket(upgrade)
        await self.wire.part()

    async def _answer_requests(self) -> Upgrade | None:
        """Answer one request after another.

        Returns:
            The WebSocket that a request has asked for, or None when no further request will be answered.

        Raises:
            Reject: A request cannot be served.
        """
        served = 0
        while True:
            request = await self.wire.read_request(fresh=not served)
            if request is None:
                return None
            self.site.counters.requests += 1
            request = await self._let_in(request)
            if request.principal is not None and request.path in self.site.websocket_paths:
                return self._upgrade(request, request.principal)
            served += 1
            if not await self._answer(request, last=served >= self.site.limits.requests):
                return None

    async def _let_in(self, request: Request) -> Request:
        """Authorise a request before anything is said about its path, even that nothing is served there."""
        route = self.site.routes.get(request.path)
        if route is None or not route.public:
            return attrs.evolve(request, principal=await self._admit(request))
        refusal = screen(request, self.site.policy)
        if refusal is not None:
            raise refusal
        return request

    async def _answer(self, request: Request, *, last: bool) -> bool:
        """Answer a request, unless the caller's token expires first. Returns whether another request may follow."""
        route = self.site.routes.get(request.path)
        if route is None:
            raise Reject(404, f"nothing is served at this path; a WebSocket opens at {self.site.websocket_paths[0]}")
        route.check(request)
        if request.principal is not None and not request.principal.may(route.scope):
            message = f"{request.principal.name} may not do this: it needs the scope {route.scope.value!r}"
            raise Reject(403, message, reason=Reason.SCOPE)
        with self.site.token_lifetimes.limit(request.principal):
            await self.wire.send(await route.answer(request), last=last)
            return self.wire.begin_next()
        if self.wire.can_answer:
            raise Reject(401, "the token shown admits nobody any more", CHALLENGE, reason=Reason.EXPIRED_TOKEN)
        return False

    async def _admit(self, request: Request) -> Principal:
        verdict = authorize(request, self.sock, self.site.policy)
        if isinstance(verdict, Reject):
            raise await self._slowed(verdict)
        is_handshake = request.path in self.site.websocket_paths
        count = self.site.rates.handshake if is_handshake else self.site.rates.request
        wait = count(verdict.name)
        if wait:
            what = "handshakes" if is_handshake else "requests"
            raise too_often(f"too many {what} of this principal in a short time; try again later", wait)
        return verdict

    async def _slowed(self, refusal: Reject) -> Reject:
        """Return the refusal; after a delay if the peer has often shown wrong credentials, or 429 in place of it."""
        if refusal.status == HTTPStatus.UNAUTHORIZED:
            wait = self.site.throttle.failed(network_of(self.wire.peer))
            if wait is None:
                return too_often(
                    "too many wrong credentials from this address; try again later", self.site.throttle.patience
                )
            await trio.sleep(wait)
        return refusal

    def _upgrade(self, request: Request, principal: Principal) -> Upgrade:
        key = check_handshake(request)
        subprotocol = select_subprotocol(request.elements("sec-websocket-protocol"), self.site.subprotocols)
        return Upgrade(self.wire.stream, request, key, subprotocol, self.wire.early, principal)

    async def _refuse(self, refusal: Reject) -> None:
        """Answer with a refusal, and put it on record."""
        self.site.counters.refused[refusal.status] += 1
        reason = refusal.reason.value if refusal.reason else f"http_{refusal.status}"
        peer = self.wire.peer
        self.site.refusals.record(reason, network_of(peer), refusal.message, peer=peer, status=refusal.status)
        await self.wire.send(refusal.response(), last=True)
