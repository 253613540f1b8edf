"""One operator on the control socket: JSON-RPC, one message in each line.

Owns the conversation and its end, and the barrier of a control connection. When an operator leaves, the executions that
it started are ended unless they are to be detached: a `ccexecctl run` that is killed leaves nothing behind. Must not
know what the methods do.
"""

import logging
import math
from collections.abc import Mapping
from functools import partial

import attrs
import trio

from ccexecd.control.callers import Groups, principal_of
from ccexecd.control.listener import credentials, groups_of
from ccexecd.core.principals import Principal, Scope
from ccexecd.core.sessions import Parting
from ccexecd.engine import Engine
from ccexecd.protocol.codec import dumps
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.framing import LineBuffer, LineTooLongError
from ccexecd.protocol.jsonrpc import RPCError, error
from ccexecd.service.dispatch import Dispatcher, Method
from ccexecd.service.peer import OPERATOR, Peer
from ccexecd.service.rates import Rates
from ccexecd.service.refusals import Refusals
from ccexecd.service.writer import Writer

log = logging.getLogger(__name__)

_READ = 64 * 1024
_LAST_WORDS = 2.0  # seconds for a peer to get its answers after it has stopped sending, or when the daemon ends


def line(message: bytes) -> bytes:
    """Frame one message."""
    return message + b"\n"


@attrs.frozen
class Shared:
    """What all connections of operators share.

    Attributes:
        engine: runs their executions.
        methods: name -> method; a caller's scopes decide which of them it may call.
        groups: groups whose members may call, besides root and the daemon's own user.
        rates: how often callers without the scope `admin` may call.
        refusals: counts and logs those who are refused.
    """

    engine: Engine
    methods: Mapping[str, Method]
    groups: Groups
    rates: Rates
    refusals: Refusals


async def serve(stream: trio.SocketStream, shared: Shared) -> None:
    """Serve one operator until it leaves. The barrier: nothing but cancellation leaves this function.

    Args:
        stream: the accepted connection; it is closed at the end.
        shared: what all connections of operators share.
    """
    who = credentials(stream)
    try:
        async with stream:
            principal = principal_of(who, groups_of(stream) if shared.groups.all else (), shared.groups)
            if principal is not None:
                await _converse(stream, shared, principal, f"control socket, pid {who.pid}")
            else:
                message = f"uid {who.uid} on the control socket"
                shared.refusals.record("control_socket", f"uid:{who.uid}", message, peer_pid=who.pid)
                await stream.send_all(line(dumps(error(None, _not_permitted(who.uid)))))
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        log.debug("an operator went away", extra={"peer_pid": who.pid})
    except* Exception:  # the barrier of a control connection
        log.exception("a control connection failed", extra={"peer_pid": who.pid})


def _not_permitted(uid: int) -> RPCError:
    text = f"uid {uid} may not operate this daemon; its own user, root and the groups of its configuration may"
    return RPCError(ErrorCode.NOT_PERMITTED, text)


async def _converse(stream: trio.SocketStream, shared: Shared, principal: Principal, origin: str) -> None:
    writer = Writer(stream.socket.fileno(), shared.engine.config.stream_timeout)
    reading, writing = trio.CancelScope(), trio.CancelScope(shield=True)
    rates = (
        None if principal.may(Scope.ADMIN) else shared.rates
    )  # no limit for operators: their `stop` must get through
    drop = partial(reading.cancel, reason="the session has ended")
    peer = Peer(
        shared.engine, writer, line, OPERATOR, principal, lambda _: drop(), rates, origin, refusals=shared.refusals
    )

    async def write() -> None:
        with writing:
            await writer.run()
        reading.cancel(reason=writer.broken)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        try:
            async with trio.open_nursery() as calls:
                with reading:
                    await _read(stream, Dispatcher(shared.methods, peer, calls), peer)
                # A peer that has only stopped sending may still read: `echo '{…}' | nc -N -U control.sock`.
                calls.cancel_scope.deadline = trio.current_time() + (0 if writer.broken else _LAST_WORDS)
        finally:
            daemon_ends = trio.current_effective_deadline() == -math.inf
            with trio.move_on_after(_LAST_WORDS, shield=True) as patience:
                if daemon_ends:  # all executions have ended by now: let the peer read their logs to the end
                    await peer.delivered()
            peer.gone(Parting.CLOSED)
            with trio.CancelScope(shield=True, deadline=patience.deadline):
                await writer.drained()
            writing.cancel(reason="the operator has gone")


async def _read(stream: trio.SocketStream, dispatcher: Dispatcher, peer: Peer) -> None:
    buffer = LineBuffer()
    while received := await stream.receive_some(_READ):
        try:
            messages = buffer.feed(bytes(received))
        except LineTooLongError as too_long:
            peer.queue(error(None, RPCError(ErrorCode.INVALID_REQUEST, f"Invalid request: {too_long}")))
            peer.flush()
            return
        requests = [message for message in messages if message.strip()]
        for number, message in enumerate(requests):
            if number:
                await trio.lowlevel.checkpoint()  # many requests in one read must not hold up the event loop
            await dispatcher.receive(message)
