"""What the tests of processes stand on: a real keeper, pump and engine, and the certainty that nothing stays behind.

Owns the look at /proc from outside: what the tested code believes is never asked for what is there. Must not know what
is tested.
"""

import ctypes
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import trio

from ccexecd.config import Config
from ccexecd.core.entries import Chunk, Stream
from ccexecd.core.execution import Event
from ccexecd.core.spec import Spec
from ccexecd.engine import Engine
from ccexecd.process.execution import Execution
from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.leader import Launch, Leader, SpawnError
from ccexecd.process.pump import Pump
from ccexecd.process.supervisor import Start, supervise

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds until whatever a test waits for is taken as not coming: far beyond what any of it takes."""

_LOOK = 0.005  # between two looks at a condition

_LAST_BREATH = 3.0
"""Seconds that what a test has started may still be there after it: a keeper that was let go takes 0.01 s to leave."""

OF_GLIBC = 1 << 31 | 1 << 32
"""Signals 32 and 33, which its posix_spawn ignores; nobody else can use them (nptl(7))."""


async def wait_for(condition: Callable[[], T], what: str) -> T:
    """Wait until a condition holds, and give what it gave."""
    ends = time.monotonic() + PATIENCE
    while not (met := condition()):
        if time.monotonic() > ends:
            raise AssertionError(f"in vain: waited {PATIENCE} s until {what}")
        await trio.sleep(_LOOK)
    return met


# Looking at processes


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, group, session …; empty when there is none."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return []


def state_of(pid: int) -> str:
    """One letter; empty when there is no such process."""
    return (stat_of(pid) or [""])[0]


def thread_states(pid: int) -> set[str]:
    """The states of all threads of a process."""
    states = set()
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                states.add((thread / "stat").read_text().rpartition(") ")[2][0])
    return states


def is_alive(pid: int) -> bool:
    """Whether any thread of a process lives: a zombie is not alive."""
    return bool(thread_states(pid) - {"Z", "X"})


_spared: set[int] = set()
"""What was there before the test began, such as a machine that other tests use: neither it nor what is below counts."""


def family(pid: int | None = None) -> set[int]:
    """Every process below one (this one, unless told), dead ones that nobody has reaped included.

    Found by parent, from all of /proc: another way than that of the code that is tested.
    """
    parents = {}
    for each in Path("/proc").iterdir():
        if each.name.isdigit() and (fields := stat_of(int(each.name))):
            parents[int(each.name)] = int(fields[1])
    found: set[int] = set()
    fresh = {pid or os.getpid()}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found - _spared
        found |= fresh
    return found


def living(pid: int | None = None) -> set[int]:
    """The living processes below one."""
    return {each for each in family(pid) if is_alive(each)}


def described(pids: set[int]) -> dict[int, str]:
    """What processes are, for a failing test."""
    words = {}
    for pid in pids:
        with suppress(OSError):
            words[pid] = f"{state_of(pid)} {Path(f'/proc/{pid}/cmdline').read_bytes()[-120:]!r}"
    return words


def open_descriptors(pid: int | None = None) -> int:
    """How many descriptors a process has: this one, unless told."""
    return len(list(Path(f"/proc/{pid or 'self'}/fd").iterdir()))


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail when a process that was started inside still is there afterwards, alive or a zombie."""
    _be_subreaper(True)
    before = family()
    _spared.update(before)
    try:
        yield
        left = _left_after(before)
    finally:
        end_all_but(before)
        _spared.difference_update(before)
        _be_subreaper(False)
    assert not left, f"left behind: {left}"


def end_all_but(spared: set[int]) -> None:
    """Kill and reap what is below this process, until nothing else is."""
    while new := family() - spared:
        for pid in new:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap(new)


def _left_after(before: set[int]) -> dict[int, str]:
    """Reap what has been inherited, until nothing is there that was not before, or a while has passed."""
    ends = time.monotonic() + _LAST_BREATH
    while new := family() - before:
        _reap(new)
        if time.monotonic() > ends:
            return described(new)
        time.sleep(_LOOK)
    return {}


def _reap(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _be_subreaper(wanted: bool) -> None:
    """As the daemon does it; taken back, because other tests want orphans to go where orphans go."""
    assert ctypes.CDLL(None).prctl(36, int(wanted), 0, 0, 0) == 0


# Real parts

_with_groups = False


@contextmanager
def groups_in_use() -> Iterator[None]:
    """Keepers that are started inside give each execution a control group, where this user may make some."""
    global _with_groups  # noqa: PLW0603  # whoever opens a stage need not know how it is contained
    _with_groups = True
    yield
    _with_groups = False


@contextmanager
def _plainly() -> Iterator[None]:
    """A failing test shows its one error, without the nurseries around it."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None


@asynccontextmanager
async def running_pump() -> AsyncIterator[Pump]:
    """A pump at work."""
    pump = Pump()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.run)
        yield pump
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def running_keeper(umask: int = 0o022) -> AsyncIterator[KeeperClient]:
    """A client with its keeper."""
    keeper = KeeperClient(umask, with_groups=_with_groups)
    with _plainly():
        async with trio.open_nursery() as nursery:
            await nursery.start(keeper.run)
            yield keeper
            nursery.cancel_scope.cancel()


async def spawn(keeper: KeeperClient, launch: Launch, *stdio: int) -> Leader:
    """Start a leader with copies of these descriptors, and wait until it runs; raises what came of it instead."""
    settled: list[Leader | SpawnError] = []
    known = trio.Event()

    def settle(result: Leader | SpawnError) -> None:
        settled.append(result)
        known.set()

    keeper.spawn(launch, [os.dup(fd) for fd in stdio], settle)
    with trio.CancelScope(shield=True):
        await known.wait()
    if isinstance(settled[0], SpawnError):
        raise settled[0]
    return settled[0]


def launch_of(execution: Execution) -> Launch:
    """What the engine would have started for it."""
    spec = execution.spec
    return Launch(spec.argv, spec.cwd, {**os.environ, **spec.env}, spec.grace, limits=spec.limits.as_set())


class Stage:
    """Keeper and pump, on which executions run that nobody but the test owns."""

    def __init__(self, keeper: KeeperClient, pump: Pump, nursery: trio.Nursery) -> None:
        self.keeper = keeper
        self.pump = pump
        self.nursery = nursery

    def begin(self, argv: tuple[str, ...], *, window: int = 1 << 20, **spec: object) -> Execution:
        """Have something executed."""
        execution, start = self.start(argv, window=window, **spec)
        self.nursery.start_soon(supervise, execution, self.keeper, self.pump, start)
        return execution

    def start(self, argv: tuple[str, ...], *, window: int = 1 << 20, **spec: object) -> tuple[Execution, Start]:
        """Have something started that nobody supervises yet."""
        execution = Execution(Spec(argv, argv[0], **{"grace": 5.0, **spec}), "session", self.keeper, self.pump, window)  # type: ignore[arg-type]
        execution.apply(Event.ADMIT)
        return execution, Start(execution, self.keeper, launch_of(execution))

    async def run(self, argv: tuple[str, ...], **spec: object) -> Execution:
        """Have something executed, and wait for its end."""
        execution = self.begin(argv, **spec)
        await end_of(execution)
        return execution


def text_of(execution: Execution, stream: Stream) -> bytes:
    """What its log still has of one of its streams."""
    cursor = execution.log.cursor(0)
    entries = list(iter(cursor.take, None))
    cursor.close()
    return b"".join(each.piece.text for each in entries if isinstance(each, Chunk) and each.stream == stream)


async def end_of(execution: Execution) -> None:
    """Wait until it has finished."""
    with trio.fail_after(PATIENCE):
        await execution.finished.wait()


async def lines_of(execution: Execution, count: int) -> None:
    """Wait until it has written so many lines to its standard output."""
    await wait_for(lambda: text_of(execution, "stdout").count(b"\n") >= count, f"{count} lines are there")


@asynccontextmanager
async def open_stage(umask: int = 0o022) -> AsyncIterator[Stage]:
    """Keeper and pump; what still runs at the end is ended."""
    pump = Pump()
    with _plainly():
        async with running_keeper(umask) as keeper, trio.open_nursery() as below:
            below.start_soon(pump.run)
            async with trio.open_nursery() as nursery:
                yield Stage(keeper, pump, nursery)
                nursery.cancel_scope.cancel()
            below.cancel_scope.cancel()


@asynccontextmanager
async def running_engine(environ: Mapping[str, str] = os.environ, **config: object) -> AsyncIterator[Engine]:
    """Everything below the doors."""
    pump = Pump()
    with _plainly():
        async with running_keeper() as keeper, trio.open_nursery() as below:
            below.start_soon(pump.run)
            engine = Engine(Config(**config), keeper, pump, environ)  # type: ignore[arg-type]
            async with trio.open_nursery() as nursery:
                await nursery.start(engine.run)
                yield engine
                nursery.cancel_scope.cancel()
            below.cancel_scope.cancel()
