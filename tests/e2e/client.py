"""A client of the daemon over a real WebSocket, for tests.

Owns the conversation: replies find their requests, notifications are kept in the order in which they came, and
whatever is waited for has a bound. What the contract promises of every execution (`seq` without a hole, output whole
and in order, `process.completed` once and last) is checked here each time, not in each test. Says nothing about what a
command ought to print.
"""

import base64
import itertools
import json
import socket
import ssl
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

Message = dict[str, Any]

PATIENCE = 30.0
"""Seconds until whatever a test waits for is taken as not coming: far beyond what any of it takes."""


class RefusedError(Exception):
    """A request was answered with an error.

    Attributes:
        code: its number.
        facts: its `data`.
    """

    def __init__(self, error: Message) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.facts: Any = error.get("data")


class ClosedError(Exception):
    """The connection has ended, and what was waited for has not come.

    Attributes:
        code: the close code; 1006 when there was no close frame.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"the connection was closed with {code}")
        self.code = code


class Client:
    """One connection.

    Attributes:
        received: every message so far, in order; the first is the greeting.
        texts: the same as they came.
        notified: the notifications of each execution, by its id.
        subprotocol: what the daemon selected.
    """

    def __init__(self, websocket: WebSocketConnection, stream: trio.SocketStream) -> None:
        self.received: list[Message] = []
        self.texts: list[str] = []
        self.notified: defaultdict[str, list[Message]] = defaultdict(list)
        self.subprotocol = websocket.subprotocol
        self._websocket = websocket
        self._stream = stream
        self._ids = itertools.count(1)
        self._arrival = trio.Event()
        self._over = False

    @property
    def greeting(self) -> Message:
        """The params of the first message."""
        return self.received[0]["params"]

    async def send(self, message: object) -> None:
        """Send a message: a text as it is, anything else as JSON.

        Raises:
            ClosedError: the connection has ended.
        """
        with trio.fail_after(PATIENCE):
            try:
                await self._websocket.send_message(message if isinstance(message, str | bytes) else json.dumps(message))
            except ConnectionClosed:
                raise ClosedError(self.close_code) from None

    async def request(self, method: str, **params: Any) -> Any:
        """Ask, and give the result.

        Raises:
            RefusedError: the answer is an error.
        """
        return await self.answer(await self.ask(method, **params))

    async def ask(self, method: str, **params: Any) -> int:
        """Send a request and give its id."""
        number = next(self._ids)
        await self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        return number

    async def answer(self, number: object) -> Any:
        """The result of the request with this id.

        Raises:
            RefusedError: the answer is an error.
        """
        reply = await self.until(lambda message: "method" not in message and message.get("id") == number)
        if "error" in reply:
            raise RefusedError(reply["error"])
        return reply["result"]

    async def batch(self) -> list[Message]:
        """The first answer to a batch."""
        return await self._first(lambda message: isinstance(message, list), PATIENCE)

    async def until(self, wanted: Callable[[Message], bool], within: float = PATIENCE) -> Message:
        """The first message that is wanted, among those that have come or are still to come; no batch is looked at.

        Raises:
            ClosedError: the connection has ended without it.
            trio.TooSlowError: it did not come.
        """
        return await self._first(lambda message: isinstance(message, dict) and wanted(message), within)

    async def _first(self, wanted: Callable[[Any], bool], within: float) -> Any:
        seen = 0
        with trio.fail_after(within):
            while True:
                arrival = self._arrival
                for message in self.received[seen:]:
                    if wanted(message):
                        return message
                seen = len(self.received)
                if self._over:
                    raise ClosedError(self.close_code)
                await arrival.wait()

    async def notification(self, method: str, execution_id: str | None = None) -> Message:
        """The params of the first notification of a method, of an execution where one is named."""
        found = await self.until(
            lambda message: (
                message.get("method") == method and execution_id in (None, message["params"].get("execution_id"))
            )
        )
        return found["params"]

    async def execute(self, *argv: str, **params: Any) -> "Watched":
        """Start an execution: the words given, or `command=` for the shell."""
        return Watched(self, await self.request("execute", **({"argv": argv} if argv else {}), **params))

    async def run(self, *argv: str, within: float = PATIENCE, **params: Any) -> "Watched":
        """Run an execution to its end, all of its promises checked."""
        execution = await self.execute(*argv, **params)
        await execution.completed(within)
        return execution

    async def closed(self) -> int:
        """Wait for the other side to close; gives the close code."""
        with trio.fail_after(PATIENCE):
            while not self._over:
                await self._arrival.wait()
        return self.close_code

    @property
    def close_code(self) -> int:
        """With what the connection was closed."""
        reason = self._websocket.closed
        return reason.code if reason is not None else 1006

    async def close(self, code: int = 1000) -> None:
        """Say goodbye."""
        with trio.fail_after(PATIENCE):
            await self._websocket.aclose(code)

    async def cut(self) -> None:
        """Vanish without a goodbye: a reset, as of a crashed client or a lost machine."""
        reset = struct.pack("ii", 1, 0)  # linger 0 (socket(7)): close discards and sends RST
        plain = getattr(self._stream, "transport_stream", self._stream)  # that of TLS
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        await trio.aclose_forcefully(plain)

    async def read(self) -> None:
        """Take what comes until the connection ends: the task of `connect`."""
        try:
            while True:
                text = await self._websocket.get_message()
                self.texts.append(text)
                self._take(json.loads(text))
                self._wake()
        except ConnectionClosed:
            self._over = True
            self._wake()

    def _take(self, message: Message) -> None:
        self.received.append(message)
        if isinstance(message, dict) and "execution_id" in message.get("params", {}):
            self.notified[message["params"]["execution_id"]].append(message)

    def _wake(self) -> None:
        self._arrival.set()
        self._arrival = trio.Event()


class Watched:
    """One execution as a client sees it.

    Attributes:
        client: who watches.
        reply: the result of `execute` or `attach`.
        id: its id.
        pid: its leader.
        notifications: all that has come of it, in order.
    """

    def __init__(self, client: Client, reply: Message, from_seq: int = 1) -> None:
        self.client = client
        self.reply = reply
        self.id: str = reply["execution_id"]
        self.pid: int = reply.get("pid", 0)
        self.notifications = client.notified[self.id]
        self._from_seq = from_seq

    def sequence(self) -> list[str]:
        """The methods of its notifications in order, runs of the same one taken as one."""
        return [method for method, _ in itertools.groupby(each["method"] for each in self.notifications)]

    def pieces(self, stream: str = "stdout") -> list[Message]:
        """The params of its output notifications of one stream."""
        outputs = (each["params"] for each in self.notifications if each["method"] == "process.output")
        return [params for params in outputs if params["type"] == stream]

    @property
    def gaps(self) -> list[Message]:
        """The params of its `process.gap` notifications."""
        return [each["params"] for each in self.notifications if each["method"] == "process.gap"]

    def output(self, stream: str = "stdout") -> bytes:
        """What it has printed so far, put together; every piece must follow the one before, but for a gap."""
        pieces = self.pieces(stream)
        parts = [decoded(piece) for piece in pieces]
        if not self.gaps:
            for (before, part), after in zip(zip(pieces, parts, strict=True), pieces[1:], strict=False):
                assert after["offset"] == before["offset"] + len(part) or "\ufffd" in before["data"], "a hole"
        return b"".join(parts)

    @property
    def stdout(self) -> str:
        """What it has printed on its standard output so far."""
        return self.output().decode()

    @property
    def stderr(self) -> str:
        """What it has printed on its standard error so far."""
        return self.output("stderr").decode()

    async def printed(self, text: str) -> Message:
        """Wait for output that holds a text; gives the params that brought it."""
        found = await self.client.until(
            lambda message: (
                message.get("method") == "process.output"
                and message["params"]["execution_id"] == self.id
                and text in message["params"]["data"]
            )
        )
        return found["params"]

    async def control(self, kind: str, **params: Any) -> Message:
        """PAUSE, RESUME, CANCEL, KILL or SIGNAL it."""
        return await self.client.request("control", type=kind, execution_id=self.id, **params)

    async def completed(self, within: float = PATIENCE) -> Message:
        """Wait for its end; gives the params of `process.completed`, once all of its promises are checked."""
        await self.client.until(
            lambda message: (
                message.get("method") == "process.completed" and message["params"]["execution_id"] == self.id
            ),
            within,
        )
        self._check_promises()
        return self.notifications[-1]["params"]

    def _check_promises(self) -> None:
        methods = [each["method"] for each in self.notifications]
        assert methods.count("process.completed") == 1, "process.completed comes exactly once"
        assert methods[-1] == "process.completed", "and last"
        expected = self._from_seq
        for each in self.notifications:
            first, last = span(each)
            assert first == expected, "seq grows by one, without a hole that no gap tells of"
            expected = last + 1
        if self._from_seq == 1 and not self.gaps:
            assert methods[0] in {"process.started", "process.queued", "hook.warning"}
        for stream in ("stdout", "stderr"):
            if not self.gaps:
                check_parts(self.pieces(stream))
            last = (self.pieces(stream) or [None])[-1]
            if last is not None and not last["truncated"]:  # what is cut for display is shorter than what was written
                said = self.notifications[-1]["params"][f"{stream}_bytes"]
                assert last["offset"] + size(last) == said or "\ufffd" in last["data"]


async def refused(one: Client, method: str, **params: object) -> RefusedError:
    """Ask for what must be refused; gives the refusal."""
    with pytest.raises(RefusedError) as caught:
        await one.request(method, **params)
    return caught.value


def span(notification: Message) -> tuple[int, int]:
    """The first and the last position that a notification stands for."""
    params = notification["params"]
    if notification["method"] == "process.gap":
        return params["from_seq"], params["to_seq"]
    return params["seq"], params["seq"]


def decoded(piece: Message) -> bytes:
    """The bytes of one output notification. U+FFFD for bytes that are not text cannot be undone."""
    if piece.get("encoding") == "base64":
        return base64.b64decode(piece["data"])
    return piece["data"].encode()


def size(piece: Message) -> int:
    """How many bytes of its stream an output notification stands for, unless U+FFFD is in it."""
    return len(decoded(piece))


def check_parts(pieces: list[Message]) -> None:
    """The parts of each long line are all there, one after the other."""
    expected = 0
    for piece in pieces:
        if "chunk_index" not in piece:
            assert expected == 0, "a long line ended before its last part"
            continue
        assert piece["chunk_index"] == expected
        expected = (expected + 1) % piece["total_chunks"]
    assert expected == 0, "a long line ended before its last part"


@asynccontextmanager
async def connect(
    address: tuple[str, int],
    *,
    subprotocol: str | None = "ccexec.v1",
    path: str = "/ws/mcp",
    token: str | None = None,
    ssl: ssl.SSLContext | None = None,
) -> AsyncIterator[Client]:
    """Open a connection, greeted already; it says goodbye at the end, unless it has been cut or closed before.

    Args:
        address: of the daemon.
        subprotocol: to offer; None is the manner of earlier clients.
        path: where the WebSocket is.
        token: to show.
        ssl: what to believe of the server, where it speaks TLS.
    """
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(PATIENCE):
                stream = await trio.open_tcp_stream(*address)
                if ssl is not None:
                    stream = trio.SSLStream(stream, ssl, server_hostname="localhost", https_compatible=True)
                websocket = await wrap_client_stream(
                    nursery,
                    stream,
                    "localhost",
                    path,
                    subprotocols=[subprotocol] if subprotocol else None,
                    extra_headers=[(b"Authorization", f"Bearer {token}".encode())] if token else None,
                    receive_buffer_size=64 * 1024,
                )
            client = Client(websocket, stream)
            nursery.start_soon(client.read)
            await client.until(lambda _: True)
            try:
                yield client
            except BaseException as error:
                failure = error
                with trio.move_on_after(1, shield=True):  # the daemon should not keep its session for a resume
                    await websocket.aclose()
                raise
            else:
                await client.close()
            finally:
                await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup:
        if failure is None:
            raise
        raise failure from None  # a failed assertion reads better outside of the nursery's group
