"""JSON-RPC on one connection, from its opening to its end.

Owns requests and their answers, the only task that writes, and noticing that a connection has died. Must not open
another one, and must not know any method.
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
"""Seconds for the daemon to have read that the connection is closed by intent, and to close its side."""

Notified = Callable[[str, dict[str, Any]], None]
"""Called with method and params of each notification, in order. Must not wait."""

Answered = Callable[[Any], None]
"""Called with a result before anything that follows it is read. Must not wait."""


@attrs.define
class _Pending:
    """A request whose answer has not come.

    Attributes:
        arrived: set when it has, or never will.
        on_result: told first.
        result: what came.
        error: what came instead.
    """

    on_result: Answered | None
    arrived: anyio.Event = attrs.field(factory=anyio.Event)
    result: Any = None
    error: Exception | None = None

    def settle(self, result: Any, error: Exception | None) -> None:
        """Have it over."""
        self.result, self.error = result, error
        if error is None and self.on_result is not None:
            self.on_result(result)
        self.arrived.set()


class Connection:
    """One opened connection. `run` has to be running for anything to happen.

    Args:
        opened: it.
        notified: told of notifications.
        probe_interval: seconds of silence after which the daemon is asked for a sign of life.

    Attributes:
        ended: why it is over; None while it is not.
        over: set when it is.
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
        """Exchange messages until the connection is over; then every request that waits is told so."""
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
        """Ask, and wait for the answer.

        Args:
            method: as the wire contract names it.
            params: by name; what is None is left out.
            on_result: told of the result before a notification that follows it.

        Raises:
            CutError: the connection is over, and nobody knows whether the request was heeded.
            CtlError: the daemon refused it, JSON cannot hold it, or no connection will do better.
        """
        if self.ended is not None:
            raise self.ended
        request_id = next(self._ids)
        frame = self._frame({"jsonrpc": "2.0", "id": request_id, "method": method, "params": _given(params)})
        pending = self._pending[request_id] = _Pending(on_result)
        self._put(frame)
        await pending.arrived.wait()
        if pending.error is not None:
            raise pending.error
        return pending.result

    def tell(self, method: str, params: dict[str, Any]) -> None:
        """Ask without wanting an answer."""
        if self.ended is None:
            self._put(self._frame({"jsonrpc": "2.0", "method": method, "params": _given(params)}))

    async def close(self) -> None:
        """End it by intent: what the daemon runs for it is ended, too."""
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
        """Be the only one that writes; a send that was begun is finished, or the connection is over."""
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
            pass  # the reader is told why, too, and what was sent before

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
        except (CutError, CtlError) as error:
            self._end(error)
        except anyio.EndOfStream:
            self._end(CutError("the daemon closed the connection"))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            self._end(CutError(f"the connection broke: {error.__cause__ or error}"))

    async def _receive(self) -> bytes:
        """Wait for input; of a peer that has been silent, ask for a sign of life, once."""
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
            raise RefusedError(message["error"])  # it did not even read what we sent


def _given(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}
