"""Many executions of all kinds through one daemon, and a look at what they left behind.

Owns the mixture of commands and the checks of `soak.py`.
"""

import asyncio
import hashlib
import itertools
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from checks import Kept, WrongOutputError, must_have_worked
from client import Connection, RefusedError, until
from processes import descendants, descriptors, resident_mib
from targets import Server, ccexecd

WARM_UP = 1500
"""Executions before the first look: after them every list of bounded length is full."""

WAIT_SECONDS = 60.0
"""How long one execution may take, and the daemon to settle afterwards."""


@dataclass(frozen=True)
class Command:
    """One kind of execution: the shell command, what it writes to stdout, and its exit code.

    Attributes:
        is_cancelled: it would not end by itself; it is cancelled as soon as its output is there.
    """

    text: str
    output: str = ""
    exit_code: int = 0
    is_cancelled: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 of the output."""
        return hashlib.sha256(self.output.encode()).hexdigest()


COMMANDS = (
    Command("true"),
    Command("echo one; echo two >&2", "one\n"),
    Command("exec seq 1 20000", "".join(f"{number}\n" for number in range(1, 20001))),
    Command("printf 'no line feed'; exit 7", "no line feed", 7),
    Command("kill -9 $$", exit_code=-9),
    Command("sleep 0.01 & (sleep 0.02 &) ; echo left", "left\n"),
    Command("echo up; exec sleep 300", "up\n", -15, is_cancelled=True),
)


@dataclass(frozen=True)
class Look:
    """What the daemon and its keeper have."""

    descriptors: int
    memory_mib: float
    zombies: int
    children: int

    def __str__(self) -> str:
        return (
            f"{self.descriptors} descriptors, {self.memory_mib:.1f} MiB, "
            f"{self.zombies} zombies, {self.children} children"
        )


async def soak(program: Path, work: Path, executions: int, connections: int, growth: float) -> list[str]:
    """Run so many, and look before and after.

    Args:
        program: `ccexecd`.
        work: a directory for its state.
        executions: how many, besides the warm-up.
        connections: how many at the same time.
        growth: MiB of memory that may come on top.

    Returns:
        What is wrong.
    """
    async with ccexecd(program).running(work) as server:
        started = await _look(server)
        print(f"started: {started}")
        problems = await _run_all(server, WARM_UP, connections)
        before = await _look(server)
        print(f"after {WARM_UP}: {before}")
        began = time.monotonic()
        problems += await _run_all(server, executions, connections)
        rate = executions / (time.monotonic() - began)
        after = await _look(server)
        print(f"after {executions} more, {rate:.0f}/s: {after}")
    return [*problems, *_leaks(started, before, after, growth)]


def _leaks(started: Look, before: Look, after: Look, growth: float) -> Iterator[str]:
    if after.zombies:
        yield f"{after.zombies} zombies"
    if after.children != started.children:
        yield f"{after.children - started.children} processes more than at the start"
    if after.descriptors > before.descriptors:
        yield f"{after.descriptors - before.descriptors} descriptors more than after the warm-up"
    grown = after.memory_mib - before.memory_mib
    if grown > growth:
        yield f"{grown:.1f} MiB of memory more than after the warm-up; allowed are {growth:g}"


async def _run_all(server: Server, count: int, width: int) -> list[str]:
    """So many executions, the kinds in turn, over connections that come and go; return what went wrong."""
    problems: list[str] = []
    kinds = itertools.islice(itertools.cycle(COMMANDS), count)

    async def work_off() -> None:
        while batch := list(itertools.islice(kinds, 10 * len(COMMANDS))):
            connection = await server.connect()
            for command in batch:
                try:
                    async with asyncio.timeout(WAIT_SECONDS):
                        await _run(connection, command)
                except (WrongOutputError, RefusedError, TimeoutError) as error:
                    problems.append(f"{command.text}: {str(error) or type(error).__name__}")
            await connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(work_off())
    return problems


async def _run(connection: Connection, command: Command) -> None:
    kept = Kept()
    execution = connection.execute(command.text, kept)
    if command.is_cancelled:
        await until(lambda: kept.parts, WAIT_SECONDS)
        await connection.control("CANCEL")
    await execution.done
    must_have_worked(execution, command.exit_code)
    kept.must_be(command.digest, len(command.output))


async def _look(server: Server) -> Look:
    """Look when it has settled: what clients left is ended, and its threads have gone."""
    with suppress(TimeoutError):  # then what is left is told
        await until(lambda: len(descendants(server.pid)) < len(server.pids), WAIT_SECONDS, 0.1)
    await asyncio.sleep(2)
    below = descendants(server.pid)
    return Look(
        sum(map(descriptors, server.pids)),
        resident_mib(server.pids),
        sum(state == "Z" for state in below.values()),
        len(below),
    )
