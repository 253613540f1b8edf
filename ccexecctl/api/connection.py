"""JSON-RPC on one connection, from its opening to its end.

Owns requests and their answers, the only task that writes, and noticing that the connection has died. Must not open
another connection, and must not know any method.
"""

import itertools
from collections.abc import Callable
from typing import Any

import anyio
import attrs
import orjson
from anyio.abc import ByteStream

from ccexecctl.api.endpoint import Opened
from ccexecctl.api.framing import CutError, Framing
from ccexecctl.errors import CtlError, RefusedError, UnreachableError, UsageError

RECEIVE_SIZE = 1 << 18
"""Bytes of one read."""

FAREWELL_PATIENCE = 2.0
"""Seconds for the daemon to read that the connection is closed on purpose, and to close its side."""

Notified = Callable[[str, dict[str, Any]], None]
"""Called with method and params of each notification, in order. Must not wait."""

Answered = Callable[[Any], None]
"""Called with a result before anything that follows it is read. Must not wait."""


@attrs.define
class _Pending:
    """A request whose answer has not come.

    Attributes:
        arrived: set when the answer has come, or is known never to come.
        on_result: called with the result before any later message is read; None for nothing.
        result: the result.
        error: the error; None if there is a result.
    """

    on_result: Answered | None
    arrived: anyio.Event = attrs.field(factory=anyio.Event)
    result: Any = None
    error: Exception | None = None

    def settle(self, result: Any, error: Exception | None) -> None:
        """Set result or error, and wake the caller."""
        self.result, self.error = result, error
        if error is None and self.on_result is not None:
            self.on_result(result)
        self.arrived.set()


class Connection:
    """One opened connection. `run` has to be running for anything to happen.

    Args:
        opened: the connection, as `Endpoint.open` gives it.
        notified: called with each notification.
        probe_interval: seconds of silence after which the daemon is asked for a sign of life.

    Attributes:
        ended: why the connection is over; None while it is open.
        over: set when the connection is over.
    """

    def __init__(self, opened: Opened, notified: Notified, probe_interval: float) -> None:
        self.ended: CutError | CtlError | None = None
        self._stream: ByteStream = opened.stream
        self._framing: Framing = opened.framing
        self._early = opened.early
        self._notified = notified
        self._probe_interval = probe_interval
        self._ids = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._unsent: list[bytes] = []
        self._has_unsent = anyio.Event()
        self._is_closing = False
        self.over = anyio.Event()
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        """Exchange messages until the connection is over; then every request that waits fails."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write)
                    await self._read()
                    tasks.cancel_scope.cancel()
        finally:
            self._end(CutError("the connection was closed"))
            for pending in self._pending.values():
                pending.settle(None, self.ended)
            self._pending.clear()
            self.over.set()
            await anyio.aclose_forcefully(self._stream)

    async def request(self, method: str, params: dict[str, Any], on_result: Answered | None = None) -> Any:
        """Send a request and wait for its result.

        Args:
            method: a method of docs/protocol.md.
            params: its params by name; those that are None are left out.
            on_result: called with the result before a notification that follows it is read.

        Returns:
            The result.

        Raises:
            CutError: the connection is over, and it is not known whether the request was carried out.
            CtlError: the daemon refused it, JSON cannot hold it, or another connection would fail as well.
        """
        if self.ended is not None:
            raise self.ended
        if self._is_closing:
            raise CtlError("the connection is being closed", "ask before the client is closed")
        request_id = next(self._ids)
        frame = self._frame({"jsonrpc": "2.0", "id": request_id, "method": method, "params": _given(params)})
        pending = self._pending[request_id] = _Pending(on_result)
        self._put(frame)
        await pending.arrived.wait()
        if pending.error is not None:
            raise pending.error
        return pending.result

    def tell(self, method: str, params: dict[str, Any]) -> None:
        """Send a request and ignore the answer; nothing is sent once the connection ends, or has been said to."""
        if self.ended is None and not self._is_closing:
            self._put(self._frame({"jsonrpc": "2.0", "method": method, "params": _given(params)}))

    async def close(self) -> None:
        """Close the connection on purpose; the daemon then ends what it runs for it."""
        self._is_closing = True
        self._put(self._framing.farewell())
        with anyio.move_on_after(FAREWELL_PATIENCE, shield=True):
            await self.over.wait()
        self._scope.cancel()

    def _frame(self, message: dict[str, Any]) -> bytes:
        try:
            return self._framing.frame(orjson.dumps(message))
        except orjson.JSONEncodeError as error:
            why = f"{message['method']!r} cannot be sent with these params: {error}"
            raise UsageError(why, "JSON has text in UTF-8, numbers, lists and objects") from error

    def _put(self, frames: bytes) -> None:
        self._unsent.append(frames)
        self._has_unsent.set()

    async def _write(self) -> None:
        """Write queued messages; no other task writes. A send that has begun is finished, or the connection ends."""
        try:
            while True:
                await self._has_unsent.wait()
                self._has_unsent = anyio.Event()
                frames, self._unsent = b"".join(self._unsent), []
                if frames:
                    await self._stream.send(frames)
                if self._is_closing and not self._unsent and not self._framing.says_goodbye:
                    self._scope.cancel()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # `_read` meets the error as well, after all that the daemon had sent before

    async def _read(self) -> None:
        try:
            for message in self._early:
                self._heed(message)
            while True:
                arrived = self._framing.feed(await self._receive())
                for message in arrived.messages:
                    self._heed(message)
                if arrived.replies:
                    self._put(arrived.replies)
                if arrived.ending is not None:
                    raise arrived.ending
        except (CutError, CtlError) as error:
            self._end(error)
        except anyio.EndOfStream:
            self._end(CutError("the daemon closed the connection"))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            self._end(CutError(f"the connection broke: {error.__cause__ or error}"))

    async def _receive(self) -> bytes:
        """Wait for input; ask a peer that has been silent for `probe_interval` once for a sign of life."""
        for _ in range(2):
            with anyio.move_on_after(self._probe_interval):
                return await self._stream.receive(RECEIVE_SIZE)
            self._put(self._framing.probe())
        raise CutError(f"no sign of life from the daemon for {2 * self._probe_interval:g} s")

    def _end(self, why: CutError | CtlError) -> None:
        self.ended = self.ended or why

    def _heed(self, text: bytes) -> None:
        try:
            message = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise UnreachableError("cannot understand the daemon: it is not JSON", "is that ccexecd?") from error
        if not isinstance(message, dict):
            raise UnreachableError("cannot understand the daemon: it is not an object", "is that ccexecd?")
        if "method" in message:
            params = message.get("params")
            self._notified(str(message["method"]), params if isinstance(params, dict) else {})
        elif (pending := self._pending.pop(message.get("id", 0), None)) is not None:
            body = message.get("error")
            pending.settle(message.get("result"), RefusedError(body) if isinstance(body, dict) else None)
        elif isinstance(message.get("error"), dict) and message.get("id") is None:
            raise RefusedError(message["error"])  # an error without an id: the daemon could not read a request


def _given(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}
