"""One connection of the API, against a real server's half of WebSocket. Real cuts are in tests/e2e/test_api_link.py."""

from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, TextMessage

from ccexecctl.api.connection import Connection
from ccexecctl.api.endpoint import Opened
from ccexecctl.api.framing import WebSocket
from ccexecctl.errors import CtlError

pytestmark = pytest.mark.anyio


class Server(ByteStream):
    """The other side: keeps what it hears, and says what it is told to."""

    def __init__(self) -> None:
        self.half = WSConnection(ConnectionType.SERVER)
        self.heard: list[Any] = []
        self._grown = anyio.Event()
        self._say, self._said = anyio.create_memory_object_stream[bytes](10)

    async def send(self, item: bytes) -> None:
        """Hear the client."""
        await anyio.lowlevel.checkpoint()
        self.half.receive_data(item)
        self.heard += self.half.events()
        self._grown.set()

    async def receive(self, max_bytes: int = 65536) -> bytes:  # noqa: ARG002
        """Give the client what was said."""
        return await self._said.receive()

    async def send_eof(self) -> None:
        """Nothing is to be done."""

    async def aclose(self) -> None:
        """Nothing is kept open."""
        self._say.close()
        self._said.close()

    async def has_heard(self, count: int) -> None:
        """Wait until it has heard so many messages."""
        while len(self.heard) < count:
            self._grown = anyio.Event()
            await self._grown.wait()

    def say(self, data: bytes) -> None:
        """Say it to the client."""
        self._say.send_nowait(data)


async def test_an_answer_that_comes_after_goodbye():
    """What it makes the client want to say is not said any more, and the goodbye arrives: the daemon goes by that."""
    server, framing = Server(), WebSocket("host:1", "/ws/mcp")
    server.half.receive_data(framing.handshake())
    list(server.half.events())
    framing.feed(server.half.send(AcceptConnection()))
    connection = Connection(Opened(server, framing, []), lambda method, params: None, 60)  # noqa: ARG005
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await connection.request("execute", {}, lambda told: connection.tell("control", told)))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run)
            tasks.start_soon(ask)
            await server.has_heard(1)
            late = server.half.send(TextMessage('{"jsonrpc": "2.0", "id": 1, "result": {"execution_id": "e"}}'))
            tasks.start_soon(connection.close)
            await server.has_heard(2)
            with pytest.raises(CtlError, match="being closed"):
                await connection.request("status", {})
            server.say(late + server.half.send(server.heard[1].response()))
    assert [type(event) for event in server.heard] == [TextMessage, CloseConnection]
    assert server.heard[1].code == 1000
    assert answers == [{"execution_id": "e"}]
