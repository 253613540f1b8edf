"""A client that does everything right while others do not, and notices every disturbance.

Owns its thread, and in there one connection for as long as the daemon is abused: a program that prints numbers all the
time, of which none may be missing, and another that is written to. Whoever abuses the daemon calls `serves` before,
during and after.
"""

import threading
from typing import Any

import trio

from tests.e2e.client import Client, Watched, connect

COUNTS = "import time\nfor number in range(1, 10**9): print(number, flush=True); time.sleep(0.02)"
"""A program that never stops printing numbers."""


class GoodClient:
    """One client on a WebSocket.

    Args:
        address: of the daemon.

    Attributes:
        served: how often it has been served.
        executions: how many of its executions are live between two services.
    """

    executions = 2

    def __init__(self, address: tuple[str, int]) -> None:
        self.served = 0
        self._address = address
        self._failure: BaseException | None = None
        self._ready, self._leaving = threading.Event(), trio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()
        self._check()

    def serves(self) -> None:
        """See that it is served: output goes on, input is echoed, a program runs, a request is answered.

        Raises:
            Exception: it is not, or not in bounded time.
        """
        self._check()
        trio.from_thread.run(self._is_served, trio_token=self._token)
        self.served += 1

    def leave(self) -> None:
        """Say goodbye, once every number that was printed has come."""
        self._check()
        trio.from_thread.run(self._finish, trio_token=self._token)
        self._thread.join()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise AssertionError("the good client was disturbed") from self._failure

    def _run(self) -> None:
        try:
            trio.run(self._live)
        except BaseException as failure:  # noqa: BLE001  # it is raised where it is noticed
            self._failure = failure
        finally:
            self._ready.set()

    async def _live(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with connect(self._address) as one:
            self._one: Client = one
            self._counting: Watched = await one.execute("python3", "-c", COUNTS, labels={"for": "good"})
            self._echoing: Watched = await one.execute("cat", stdin="open", labels={"for": "good"})
            await one.run("true", stdio="file")  # the first one that writes into a file opens what all of them share
            await self._counting.printed("1\n")
            self._ready.set()
            await self._leaving.wait()

    async def _is_served(self) -> None:
        word = f"served {self.served}\n"
        before = len(self._counting.notifications)
        await self._one.request("write_stdin", execution_id=self._echoing.id, data=word)
        await self._echoing.printed(word)
        assert (await self._one.run("echo", "-n", word)).stdout == word
        assert (await self._one.request("status", execution_id=self._counting.id))["state"] == "RUNNING"
        await self._one.until(lambda _: len(self._counting.notifications) > before)
        del self._one.received[1:], self._one.texts[:]  # what has been looked at
        for finished in set(self._one.notified) - {self._counting.id, self._echoing.id}:
            del self._one.notified[finished]

    async def _finish(self) -> None:
        await self._one.request("close_stdin", execution_id=self._echoing.id)
        echoed: dict[str, Any] = await self._echoing.completed()
        assert echoed["exit_code"] == 0
        assert self._echoing.stdout == "".join(f"served {number}\n" for number in range(self.served))
        await self._counting.control("CANCEL")
        await self._counting.completed()
        numbers = [int(line) for line in self._counting.stdout.split()]
        assert numbers == list(range(1, len(numbers) + 1)), "output was lost"
        assert not self._counting.gaps
        self._leaving.set()
