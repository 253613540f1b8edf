"""HTTP/1.1 messages on a stream, each within its time and its size.

Owns the h11 state machine of one connection and every deadline on its bytes. h11 knows the grammar; what this adds is
an absolute deadline for each head and body (a byte every nine seconds extends nothing), a limit for each, a time-out
for each block that is written, and an ending that does not destroy the last answer. Must not know paths or users, and
refuses malformed messages only.
"""

from contextlib import aclosing, suppress
from email.utils import formatdate
from http import HTTPStatus

import attrs
import h11
import trio

from ccexecd.external.request import ByteSource, Reject, Request, Response, check_head_bytes, explain_unreadable
from ccexecd.external.site import Limits

_HEAD_READ = 4096  # bytes; small, so that a head cannot outgrow its limit by much within one read
_BLOCK = 65536  # bytes; bodies are read, and answers written, in blocks of this size
_NOT_ANSWERED = frozenset({h11.IDLE, h11.SEND_RESPONSE})
_BOTH_DONE = {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}


@attrs.define(eq=False)
class Wire:
    """One connection's side of HTTP.

    Attributes:
        stream: The connection.
        peer: The other end's address, for the log.
        limits: How much time and space its messages may take.
    """

    stream: trio.abc.HalfCloseableStream
    peer: str
    limits: Limits
    _http: h11.Connection = attrs.field(init=False)
    _method: str = attrs.field(default="", init=False)  # of the current request; empty when its head was unreadable
    _announced: int = attrs.field(default=0, init=False)  # length of its body, as far as it is known in advance

    def __attrs_post_init__(self) -> None:
        self._http = h11.Connection(h11.SERVER, self.limits.head_bytes)

    @property
    def early(self) -> bytes:
        """Bytes that have arrived behind the current head."""
        return self._http.trailing_data[0]

    @property
    def can_answer(self) -> bool:
        """Whether no answer to the current request has begun yet."""
        return self._http.our_state in _NOT_ANSWERED

    def hand_over(self) -> None:
        """Stop speaking HTTP, so that nothing of ours is sent on a stream that is a WebSocket now."""
        self._http.send_failed()

    def begin_next(self) -> bool:
        """Get ready for another request; False when this connection can take none."""
        if self._http.states != _BOTH_DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def read_request(self, *, fresh: bool) -> Request | None:
        """Read the next head.

        Args:
            fresh: Whether this is the connection's first request: its deadline runs from the start, while a later one
                may be waited for.

        Returns:
            The request, or None when the client has closed, or has nothing more to ask.

        Raises:
            Reject: What came is not a request that can be looked at.
        """
        self._method = ""
        if not (fresh or await self._wait_for_next()):
            return None
        head = await self._read_head()
        if head is None:
            return None
        self._method = head.method.decode("ascii")
        request = Request.from_head(head, self.peer, self._read_body)
        self._announced = request.content_length or 0
        if not request.has_body:
            self._http.next_event()  # h11 wants to be asked for the end of the message, too
        return request

    async def _wait_for_next(self) -> bool:
        """Wait until the next request begins to arrive; False when it does not."""
        if self.early:  # pipelined
            return True
        with trio.move_on_after(self.limits.idle_timeout) as idle:
            await self._feed(_HEAD_READ)
        return not idle.cancelled_caught

    async def _read_head(self) -> h11.Request | None:
        try:
            with trio.fail_after(self.limits.head_timeout):
                event = await self._receive_head()
        except trio.TooSlowError:
            seconds = f"{self.limits.head_timeout:g} s"
            raise Reject(408, f"the request head was not complete after {seconds}; send it in one piece") from None
        except h11.RemoteProtocolError as error:
            raise explain_unreadable(error, self.limits.head_bytes) from error
        return event if isinstance(event, h11.Request) else None

    async def _receive_head(self) -> object:
        """Feed h11 until it has an event, and never with bytes that it cannot digest."""
        while True:
            check_head_bytes(self.early)
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            await self._feed(_HEAD_READ)

    async def _feed(self, max_bytes: int) -> None:
        """Give h11 what arrives next, the end included."""
        self._http.receive_data(bytes(await self.stream.receive_some(max_bytes)))

    async def _read_body(self, limit: int | None) -> bytes:
        limit = self.limits.body_bytes if limit is None else limit
        if self._announced > limit:
            raise _too_long(limit)
        try:
            with trio.fail_after(self.limits.body_timeout):
                return await self._receive_body(limit)
        except trio.TooSlowError:
            seconds = f"{self.limits.body_timeout:g} s"
            raise Reject(408, f"the request body was not complete after {seconds}; send less or faster") from None
        except h11.RemoteProtocolError as error:
            raise explain_unreadable(error, self.limits.head_bytes) from error

    async def _receive_body(self, limit: int) -> bytes:
        if self._http.they_are_waiting_for_100_continue:
            await self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
        body = bytearray()
        while self._http.their_state is h11.SEND_BODY:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                await self._feed(_BLOCK)
            elif isinstance(event, h11.Data):
                body += event.data
            if len(body) > limit:
                raise _too_long(limit)
        return bytes(body)

    async def send(self, response: Response, *, last: bool) -> None:
        """Send an answer.

        Args:
            response: The answer.
            last: Whether to announce that the connection ends with it. It also does when the answer comes in pieces,
                and when a body was left unread: what follows on the wire would be taken for a request.

        Raises:
            trio.BrokenResourceError: The client has gone, or does not read.
        """
        body = response.body
        last = last or not isinstance(body, bytes) or self._http.their_state is h11.SEND_BODY
        status = HTTPStatus(response.status)
        headers = _headers(response, last=last)
        head = self._http.send(h11.Response(status_code=status, reason=status.phrase, headers=headers))
        if not isinstance(body, bytes):
            await self._send_pieces(head, body)
            return
        content = b"" if self._method == "HEAD" else self._http.send(h11.Data(data=body))
        await self._write(head + content + self._http.send(h11.EndOfMessage()))

    async def _send_pieces(self, head: bytes, source: ByteSource) -> None:
        """Send a body piece by piece, until it ends or the client has gone."""
        async with aclosing(source):
            if self._method == "HEAD":
                await self._write(head + self._http.send(h11.EndOfMessage()))
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_when_gone, nursery.cancel_scope)
                await self._write(head)
                async for piece in source:
                    await self._write(self._http.send(h11.Data(data=piece)))
                await self._write(self._http.send(h11.EndOfMessage()))
                nursery.cancel_scope.cancel(reason="the answer is complete")

    async def _cancel_when_gone(self, answer: trio.CancelScope) -> None:
        """Watch the client while it is answered. What it sends meanwhile is void, since the connection will end."""
        with suppress(trio.BrokenResourceError):
            while await self.stream.receive_some(_BLOCK):
                pass
        answer.cancel(reason=f"the client {self.peer} has gone")

    async def _write(self, data: bytes) -> None:
        """Send bytes; a client that takes a block too slowly counts as gone."""
        with memoryview(data) as view:
            for start in range(0, len(view), _BLOCK):
                try:
                    with trio.fail_after(self.limits.write_timeout):
                        await self.stream.send_all(view[start : start + _BLOCK])
                except trio.TooSlowError:
                    raise trio.BrokenResourceError("the client does not read") from None

    async def part(self) -> None:
        """End the conversation so that its last answer arrives.

        Closing a socket with unread input sends a reset, and a reset throws away the answer that the client was about
        to read. So close our side only, and read on for a bounded while until the client closes its own.

        Raises:
            trio.BrokenResourceError: The client has gone.
        """
        with trio.move_on_after(self.limits.drain_timeout):
            await self.stream.send_eof()
            left = self.limits.drain_bytes
            while left > 0 and (data := await self.stream.receive_some(_BLOCK)):
                left -= len(data)


def _too_long(limit: int) -> Reject:
    return Reject(413, f"the request body is longer than {limit} bytes; send less")


def _headers(response: Response, *, last: bool) -> list[tuple[str, str]]:
    """Complete the headers of an answer. Nothing here may be cached, or taken by a browser for a script."""
    headers = [
        ("Date", formatdate(usegmt=True)),
        ("Content-Type", response.content_type),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        *response.headers,
    ]
    if isinstance(response.body, bytes):
        headers.append(("Content-Length", str(len(response.body))))
    if last:
        headers.append(("Connection", "close"))
    return headers
