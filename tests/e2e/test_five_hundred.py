"""Five hundred at once, each with something to say all the time: nothing is lost."""

import resource
import shutil
from collections.abc import Iterator

import orjson
import pytest
import trio

from .frames import RawSocket, call

SESSIONS = 500

LINES = 300
"""Of each program, one every 10 ms."""

PRINTS = """\
exec {{never}}<> <(:)
for ((line = 0; line < {lines}; line++)); do echo "{name} $line"; read -t 0.009 -u $never; done
exit 0
"""
"""For bash, because five hundred of anything larger need gigabytes; it sleeps by reading what never comes."""


@pytest.fixture
def _many_sockets() -> Iterator[None]:
    """This process may open as many as it is allowed to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def gathered(address: tuple[str, int], name: int, received: dict[int, bytes]) -> None:
    """Run one program on a connection of its own, and take all that is told of it."""
    raw = await RawSocket.open(address)
    async with raw.stream:
        command = PRINTS.format(lines=LINES, name=name)
        await raw.send(call("execute", name, argv=["bash", "-c", command]))
        data = bytearray(raw._received)
        while b'"process.completed"' not in data[-2000:]:
            data += await raw.stream.receive_some(65536)
        received[name] = bytes(data)


def notifications(received: bytes) -> Iterator[dict]:
    """The messages in what a connection was sent."""
    position = 0
    while position < len(received):
        length, start = received[position + 1], position + 2
        if length == 126:
            length, start = int.from_bytes(received[start : start + 2]), start + 2
        position = start + length
        yield orjson.loads(received[start:position])


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.usefixtures("_many_sockets")
async def test_five_hundred_sessions_lose_nothing(start_daemon):
    """Each with a program that prints 100 lines a second: every line is told to its own, in order, and the end last."""
    daemon = start_daemon(max_sessions=SESSIONS + 10)
    received: dict[int, bytes] = {}
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            for name in range(SESSIONS):
                nursery.start_soon(gathered, daemon.address, name, received)
    for name, data in received.items():
        greeting, reply, *told = notifications(data)
        assert (greeting["method"], reply["id"], reply["result"]["status"]) == ("connected", name, "started")
        assert [each["params"]["seq"] for each in told] == list(range(1, len(told) + 1))
        output = "".join(each["params"]["data"] for each in told if each["method"] == "process.output")
        assert output == "".join(f"{name} {line}\n" for line in range(LINES))
        last = told[-1]
        assert (last["method"], last["params"]["exit_code"], last["params"]["stdout_bytes"]) == (
            "process.completed",
            0,
            len(output),
        )
