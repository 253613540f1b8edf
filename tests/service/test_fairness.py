"""Fairness: whoever floods requests or output takes a bounded share of every answer that somebody else waits for.

Measured inside of the daemon, in processor time of its event loop: from the last look at sockets before a question was
seen, to its answer being written. That is what a client waits for besides the kernel's scheduling, and it does not
depend on what else the machine does.
"""

import gc
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import trio

from tests.abuse.sockets import WebSocket, handshake, vanish
from tests.e2e.daemon_process import eventually
from tests.e2e.frames import call
from tests.in_process import Running, running

TRIPS = 500
"""Round trips in a round, of which the 99th percentile is taken."""

ROUNDS = 7
"""Of idle and of load, by turns; the median of the pairs' ratios counts: no lucky round decides."""

MOST = 3.0
"""How many times as long a question may take under load as without."""

FLOODS = """
import socket, sys, threading
one = socket.create_connection((sys.argv[1], int(sys.argv[2])))
handshake, flood = map(bytes.fromhex, sys.argv[3:])
one.sendall(handshake)
def read():
    while one.recv(1 << 20):
        pass
threading.Thread(target=read, daemon=True).start()
one.sendall(flood)
print("floods", flush=True)
while True:
    one.sendall(flood)
"""
"""A client that asks as fast as it is let."""


class Observer(trio.abc.Instrument):
    """Sees when the event loop looks at its sockets, and when one client's question is seen."""

    def __init__(self) -> None:
        self.reader: trio.lowlevel.Task | None = None
        self.began = 0.0
        self._looked = 0.0
        self._is_looking = False

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002
        """The loop looks: whom it wakes until it has looked, it wakes for what has come to a socket."""
        self._is_looking = True

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002
        """The loop has looked."""
        self._looked = time.thread_time()
        self._is_looking = False

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """The first reader of a WebSocket is the client's."""
        if self.reader is None and task.name.endswith("_Guard._run"):
            self.reader = task

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """The question is there; it may have come right after the look before this one."""
        if task is self.reader and self._is_looking:
            self.began = self._looked


def ask(one: WebSocket, question: bytes) -> None:
    """One after another."""
    for _ in range(TRIPS):
        one.socket.sendall(question)
        one.message()


@contextmanager
def flooded(daemon: Running) -> Iterator[None]:
    """One connection that floods requests, one program that floods output, one watcher that never reads."""
    with ExitStack() as stack:
        watcher = stack.enter_context(socket.socket())
        watcher.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        watcher.connect(daemon.address)
        watcher.sendall(handshake() + call("execute", 1, argv=["yes"]))
        said = [handshake().hex(), b"".join(call("hook_status", number) for number in range(100)).hex()]
        command = [sys.executable, "-I", "-S", "-c", FLOODS, *map(str, daemon.address), *said]
        flood = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(flood.kill)
        yield
        vanish(watcher)


@pytest.fixture
def _collector_of_a_daemon() -> Iterator[None]:
    """What the tests before have left in memory is not looked through meanwhile; the rest as a daemon has it."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.mark.alone
@pytest.mark.usefixtures("_collector_of_a_daemon")
async def test_a_flood_leaves_others_their_time(tmp_path):
    """The 99th percentile of the time for a small question stays within three times of what it is without floods."""
    observer = Observer()
    async with running(tmp_path, resume_window=0) as daemon:
        trio.lowlevel.add_instrument(observer)
        try:
            with socket.create_connection(daemon.address) as plain:
                one = await trio.to_thread.run_sync(WebSocket, plain)
                (connection,) = daemon.daemon._shared.connections
                taken: list[float] = []
                flush = connection._writer.flush

                def flushed() -> None:
                    flush()
                    if observer.began:
                        taken.append(time.thread_time() - observer.began)
                        observer.began = 0.0

                connection._writer.flush = flushed
                question = call("hook_status", 7)

                async def p99() -> float:
                    taken.clear()
                    observer.began = 0.0
                    await trio.to_thread.run_sync(ask, one, question)
                    return statistics.quantiles(taken, n=100)[98]

                await p99()  # nobody's first time is typical
                idle, loaded = [], []
                for _ in range(ROUNDS):
                    idle.append(await p99())
                    with flooded(daemon):
                        await eventually(lambda: len(daemon.daemon._shared.connections) == 3, "they flood")
                        loaded.append(await p99())
                    await eventually(lambda: len(daemon.daemon._shared.connections) == 1, "they are gone", 30)
                vanish(plain)
        finally:
            trio.lowlevel.remove_instrument(observer)
    ratio = statistics.median(under / without for under, without in zip(loaded, idle, strict=True))
    figures = json.dumps({"idle": idle, "loaded": loaded})
    assert ratio < MOST, f"{ratio:.1f} times: {figures}"
