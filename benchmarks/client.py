"""The client of the benchmark: fast enough (picows, orjson, uvloop) not to be what is measured, and it trusts nobody.

Owns the connection, one command at a time on it, and the noting of what arrived when. What the output should have been
is `checks`.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import orjson
from picows import WSCloseCode, WSListener, WSMsgType, ws_connect

now = time.monotonic_ns
"""Nanoseconds of CLOCK_MONOTONIC, the clock of the ticker as well."""

CONNECT_SECONDS = 30.0
"""How long a server may take for handshake and greeting."""

MAX_FRAME = 64 << 20
"""Bytes of the largest frame accepted: peers have no limit of their own."""

_READ_BUFFER = 256 << 10
_DATA = (WSMsgType.TEXT, WSMsgType.CONTINUATION)


class RefusedError(Exception):
    """The server answered a request with an error, or ended the connection instead."""


class Sink(Protocol):
    """Takes standard output as it arrives."""

    def take(self, text: str, at: int) -> None:
        """Take a piece, which arrived at a time of `now`."""


class Nothing:
    """For commands without output, and those whose output does not matter."""

    def take(self, text: str, at: int) -> None:
        pass


class Execution:
    """One command: when what happened, and how it ended.

    Attributes:
        done: set when `process.completed` has arrived; an error in its place raises RefusedError.
        dropped_bytes: what the server itself said that it left out, since we were too slow.
        flaws: notifications out of order, and the like.
    """

    __slots__ = (
        "done",
        "done_ns",
        "dropped_bytes",
        "exit_code",
        "first_ns",
        "flaws",
        "last_ns",
        "last_seq",
        "sent_ns",
        "sink",
    )

    def __init__(self, sink: Sink | None):
        self.sink = sink or Nothing()
        self.done = asyncio.get_running_loop().create_future()
        self.sent_ns = now()
        self.first_ns = self.last_ns = self.done_ns = self.last_seq = self.dropped_bytes = 0
        self.exit_code: int | None = None
        self.flaws: list[str] = []

    def output(self, params: dict) -> None:
        at = now()
        self.first_ns = self.first_ns or at
        self.last_ns = at
        if params.get("truncated"):
            self.flaws.append("a line was truncated")
        if params["type"] == "stdout":
            self.sink.take(params["data"], at)

    def completed(self, params: dict) -> None:
        self.done_ns = now()
        self.exit_code = params["exit_code"]
        if self.done.done():
            self.flaws.append("completed twice")
        else:
            self.done.set_result(self)

    def follow(self, params: dict) -> None:
        """Check the numbers of a server that numbers its notifications."""
        seq = params.get("seq")
        if seq is not None:
            if seq != self.last_seq + 1:
                self.flaws.append(f"notification {seq} after {self.last_seq}")
            self.last_seq = seq

    def gap(self, params: dict) -> None:
        self.dropped_bytes += params["dropped_bytes"]
        self.last_seq = params["to_seq"]


class Connection(WSListener):
    """One WebSocket; `connect` makes it."""

    def __init__(self, params: dict):
        super().__init__()
        self._params = params
        self._transport = None
        self._parts: list[bytes] = []
        self._replies: dict[int, asyncio.Future] = {}
        self._request = 0
        self._execution: Execution | None = None
        self.greeting = asyncio.get_running_loop().create_future()

    def execute(self, command: str, sink: Sink | None = None) -> Execution:
        """Start a shell command; `.done` of the result is awaited."""
        self._execution = execution = Execution(sink)
        self._send("execute", {"command": command, **self._params})
        return execution

    async def run(self, command: str, sink: Sink | None = None) -> Execution:
        """Run a shell command to its end."""
        return await self.execute(command, sink).done

    async def control(self, verb: str) -> int:
        """PAUSE, RESUME or CANCEL what runs; return the nanoseconds until the reply."""
        sent = now()
        reply = self._send("control", {"type": verb})
        return await reply - sent

    def stop_reading(self) -> None:
        """Be a reader that stalls."""
        self._transport.underlying_transport.pause_reading()

    def read_again(self) -> None:
        """Stall no longer."""
        self._transport.underlying_transport.resume_reading()

    async def close(self) -> None:
        """Say goodbye, so that the server ends what runs for this client."""
        self._transport.send_close(WSCloseCode.OK)
        try:
            async with asyncio.timeout(5):
                await self._transport.wait_disconnected()
        except TimeoutError:
            self._transport.disconnect(graceful=False)

    def on_ws_connected(self, transport) -> None:
        self._transport = transport

    def on_ws_frame(self, transport, frame) -> None:
        if frame.msg_type in _DATA:
            if frame.fin and not self._parts:
                self._receive(orjson.loads(frame.get_payload_as_memoryview()))
                return
            self._parts.append(frame.get_payload_as_bytes())
            if frame.fin:
                message = b"".join(self._parts)
                self._parts.clear()
                self._receive(orjson.loads(message))
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), b"")
            transport.disconnect()

    def on_ws_disconnected(self, transport) -> None:  # noqa: ARG002  # picows gives it
        waiting = [self.greeting, *self._replies.values()]
        if self._execution:
            waiting.append(self._execution.done)
        for future in waiting:
            if not future.done():
                future.set_exception(RefusedError("the server ended the connection"))
                future.exception()  # whoever still waits is told; if nobody does, asyncio need not complain

    def _send(self, method: str, params: dict) -> asyncio.Future:
        self._request += 1
        reply = self._replies[self._request] = asyncio.get_running_loop().create_future()
        message = {"jsonrpc": "2.0", "id": self._request, "method": method, "params": params}
        self._transport.send(WSMsgType.TEXT, orjson.dumps(message))
        return reply

    def _receive(self, message: dict) -> None:
        method = message.get("method")
        if method is None:
            self._reply(message)
        elif method == "connected":
            self.greeting.set_result(message["params"])
        elif self._execution and method.startswith("process."):
            self._tell(self._execution, method, message["params"])

    def _tell(self, execution: Execution, method: str, params: dict) -> None:
        if method == "process.gap":
            execution.gap(params)
            return
        execution.follow(params)
        if method == "process.output":
            execution.output(params)
        elif method == "process.completed":
            execution.completed(params)

    def _reply(self, message: dict) -> None:
        reply = self._replies.pop(message["id"])
        if "error" not in message:
            reply.set_result(now())
            return
        error = RefusedError(message["error"]["message"])
        reply.set_exception(error)
        reply.exception()
        if self._execution and not self._execution.done.done():
            self._execution.done.set_exception(error)


async def until(condition: Callable[[], object], seconds: float, pause: float = 0.002) -> None:
    """Wait for something that arrives.

    Args:
        condition: what to wait for.
        seconds: how long at most.
        pause: seconds between two looks.

    Raises:
        TimeoutError: it has not come.
    """
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # an event for each notification would slow the client down
            await asyncio.sleep(pause)


async def connect(url: str, params: dict, subprotocol: str | None) -> Connection:
    """Connect, and wait for the greeting.

    Args:
        url: of the server.
        params: further params of every `execute`.
        subprotocol: what to ask for in the handshake.
    """
    headers = {"Sec-WebSocket-Protocol": subprotocol} if subprotocol else None
    _, connection = await ws_connect(
        lambda: Connection(params),
        url,
        max_frame_size=MAX_FRAME,
        websocket_handshake_timeout=CONNECT_SECONDS,
        read_buffer_init_size=_READ_BUFFER,
        extra_headers=headers,
    )
    async with asyncio.timeout(CONNECT_SECONDS):
        await connection.greeting
    return connection
