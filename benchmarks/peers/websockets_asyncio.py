"""A command runner over WebSocket, as one writes it by hand with websockets and asyncio.

One notification for each piece of output, signals to the process group, and nothing else (no supervision, no record,
no access control). What the client does not take makes the command wait, since `send` does. PORT is where it listens;
LOOP=uvloop runs it on that loop.
"""

import asyncio
import codecs
import json
import os
import signal
import uuid
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

READ_SIZE = 65536
"""Bytes of output in one notification at most: what a pipe holds."""

VERBS = {
    "PAUSE": (signal.SIGSTOP, "paused"),
    "RESUME": (signal.SIGCONT, "resumed"),
    "CANCEL": (signal.SIGTERM, "cancelled"),
}


class Client:
    def __init__(self, socket: ServerConnection):
        self.socket = socket
        self.process: Process | None = None
        self.watch: asyncio.Task | None = None

    async def serve(self):
        await self.notify("connected", session_id=str(uuid.uuid4()))
        try:
            async for text in self.socket:
                await self.receive(json.loads(text))
        except ConnectionClosed:
            pass
        finally:
            self.signal(signal.SIGKILL)
            if self.watch:
                self.watch.cancel()

    async def send(self, **message):
        await self.socket.send(json.dumps({"jsonrpc": "2.0", **message}))

    async def notify(self, method, **params):
        await self.send(method=method, params=params)

    async def receive(self, request):
        match request["method"]:
            case "execute" if self.watch and not self.watch.done():
                await self.send(id=request["id"], error={"code": -32602, "message": "a process is already running"})
            case "execute":
                await self.execute(request["id"], request["params"]["command"])
            case "control":
                await self.control(request["id"], request["params"]["type"])
            case _:
                await self.send(id=request["id"], error={"code": -32601, "message": "no such method"})

    async def execute(self, request_id, command):
        self.process = process = await asyncio.create_subprocess_shell(
            command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
        await self.send(id=request_id, result={"status": "started", "pid": process.pid, "pgid": process.pid})
        self.watch = asyncio.create_task(self.follow(process))

    async def follow(self, process: Process):
        with suppress(ConnectionClosed):
            await asyncio.gather(self.forward("stdout", process.stdout), self.forward("stderr", process.stderr))
            code = await process.wait()
            status = "completed" if code == 0 else "failed"
            await self.notify("process.completed", status=status, exit_code=code, pid=process.pid)

    async def forward(self, kind, stream: asyncio.StreamReader):
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while piece := await stream.read(READ_SIZE):
            if text := decoder.decode(piece):
                await self.notify("process.output", type=kind, data=text, truncated=False)
        if text := decoder.decode(b"", final=True):
            await self.notify("process.output", type=kind, data=text, truncated=False)

    async def control(self, request_id, verb):
        if self.process is None or self.process.returncode is not None:
            await self.send(id=request_id, error={"code": -32003, "message": "nothing is running"})
            return
        number, status = VERBS[verb]
        self.signal(number)
        await self.send(id=request_id, result={"status": status})
        await self.notify(f"process.{status}", status=status, pid=self.process.pid)

    def signal(self, number):
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


async def main():
    async with serve(
        lambda socket: Client(socket).serve(),
        "127.0.0.1",
        int(os.environ["PORT"]),
        compression=None,
        max_size=10 << 20,
    ) as server:
        await server.serve_forever()


if __name__ == "__main__":
    if os.environ.get("LOOP") == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
