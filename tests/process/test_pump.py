"""Pipes that are read: everything, in order, whoever watches; and as slowly as is asked for."""

import errno
import fcntl
import hashlib
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ccexecd.process.pump import PIPE_SIZES, READ_SIZE, Pump, Source, open_pipe

from .programs import python
from .stage import PATIENCE, open_descriptors, running_pump, wait_for

F_GETPIPE_SZ = 1032


async def end_of(source: Source) -> None:
    """Wait until its pipe is at its end."""
    with trio.fail_after(PATIENCE):
        await source.ended.wait()


@contextmanager
def writer(code: str, write_end: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python code that writes to a pipe."""
    process = subprocess.Popen(python(code), stdout=write_end)
    os.close(write_end)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def limited_descriptors() -> Iterator[Callable[[int], None]]:
    """Leave this process only so many descriptors, for a while."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def leave(count: int) -> None:
        taken = os.dup(0)
        os.close(taken)  # the lowest that is free
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken + count, limits[1]))

    yield leave
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# Pipes


async def test_a_terminal_ends_when_the_last_who_has_it_closes_it():
    """The kernel says so with an error and not with an empty read; what was written before that has come."""
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    pieces: list[bytes] = []
    async with running_pump() as pump:
        source = pump.add(ours, pieces.append)
        another = os.dup(theirs)
        os.write(theirs, b"some")
        os.close(theirs)
        await wait_for(lambda: pieces == [b"some"], "it has come")
        assert not source.ended.is_set()
        os.write(another, b"last words")
        os.close(another)
        await end_of(source)
    assert b"".join(pieces) == b"somelast words"


def test_a_pipe_holds_a_mebibyte_and_is_never_waited_for():
    """An agent that exits with a full pipe loses what does not fit."""
    read_end, write_end = open_pipe()
    assert fcntl.fcntl(write_end, F_GETPIPE_SZ) == PIPE_SIZES[0] == 1 << 20
    assert not os.get_blocking(read_end)
    assert os.get_blocking(write_end)
    assert not os.get_inheritable(read_end)
    assert not os.get_inheritable(write_end)
    os.close(read_end)
    os.close(write_end)


def test_a_pipe_that_may_not_be_enlarged_is_used_as_it_is(monkeypatch):
    """A user other than root may own only so many buffers."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "too many")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    read_end, write_end = open_pipe()
    os.write(write_end, b"x")
    assert os.read(read_end, 10) == b"x"
    os.close(read_end)
    os.close(write_end)


def test_no_descriptor_is_left_where_there_was_none_for_a_pipe(limited_descriptors):
    """The error is the kernel's; nothing has been taken."""
    before = open_descriptors()
    limited_descriptors(1)
    with pytest.raises(OSError, match="Too many open files"):
        open_pipe()
    assert open_descriptors() == before


# Reading


async def test_thirty_megabytes_arrive_whole_and_in_order():
    """Nothing is lost, doubled or exchanged, in however many pieces it comes."""
    size = 30 << 20
    code = (
        "import os\n"
        "block = bytes(range(256)) * 4096 + b'odd'\n"
        f"left = {size}\n"
        "while left:\n"
        "    left -= os.write(1, block[:left])\n"
    )
    block = bytes(range(256)) * 4096 + b"odd"
    expected = hashlib.sha256()
    received = hashlib.sha256()
    total = 0

    def take(part: bytes) -> None:
        nonlocal total
        assert 0 < len(part) <= READ_SIZE
        received.update(part)
        total += len(part)

    async with running_pump() as pump:
        read_end, write_end = open_pipe()
        source = pump.add(read_end, take)
        with writer(code, write_end):
            await end_of(source)
    for _ in range(size // len(block)):
        expected.update(block)
    expected.update(block[: size % len(block)])
    assert total == size
    assert received.digest() == expected.digest()


async def test_bytes_are_passed_on_as_they_are():
    """NUL, and what is no text in any encoding."""
    everything = bytes(range(256)) + b"\0" * 1000 + b"\xff\xfe\xc3"
    received = []
    async with running_pump() as pump:
        read_end, write_end = open_pipe()
        source = pump.add(read_end, received.append)
        os.write(write_end, everything)
        os.close(write_end)
        await end_of(source)
    assert b"".join(received) == everything


async def test_what_is_written_is_passed_on_at_once():
    """No waiting for more, or for a line to end."""
    received = []
    async with running_pump() as pump:
        read_end, write_end = open_pipe()
        source = pump.add(read_end, received.append)
        for text in (b"a", b"b\n", b"no line feed"):
            os.write(write_end, text)
            await wait_for(lambda text=text: received[-1:] == [text], f"{text!r} has arrived")
        os.close(write_end)
        await end_of(source)


async def test_a_pipe_at_its_end_is_closed():
    """Once the last writer has gone; no descriptor and no entry stays."""
    async with running_pump() as pump:
        await wait_all_tasks_blocked()
        before = open_descriptors()
        read_end, write_end = open_pipe()
        second_writer = os.dup(write_end)
        source = pump.add(read_end, lambda _: None)
        os.close(write_end)
        await wait_all_tasks_blocked(0.01)
        assert not source.ended.is_set()
        os.close(second_writer)
        await end_of(source)
        assert open_descriptors() == before
        assert not pump._sources
        source.close()  # again: nothing happens


async def test_more_pipes_than_one_step_takes_are_all_read():
    """Hundreds that are ready at the same moment."""
    received: dict[int, bytes] = {}
    async with running_pump() as pump:
        sources = []
        for number in range(300):
            read_end, write_end = open_pipe()
            os.write(write_end, str(number).encode())
            os.close(write_end)
            sources.append(pump.add(read_end, lambda part, number=number: received.__setitem__(number, part)))
        for source in sources:
            await end_of(source)
    assert received == {number: str(number).encode() for number in range(300)}


async def test_a_flood_does_not_hold_up_the_others():
    """A program that writes without end gets one read at a time, like everybody else."""
    rounds = []
    async with running_pump() as pump:
        read_end, write_end = open_pipe()
        flood = pump.add(read_end, lambda _: None)
        quiet_end, quiet_write_end = open_pipe()
        quiet = pump.add(quiet_end, rounds.append)
        with writer("import os\nwhile True: os.write(1, bytes(1 << 20))", write_end):
            for number in range(20):
                os.write(quiet_write_end, b"%d" % number)
                with trio.fail_after(2):
                    await wait_for(lambda number=number: rounds[-1:] == [b"%d" % number], "it is heard")
        os.close(quiet_write_end)
        await end_of(flood)
        await end_of(quiet)


# Closing


async def test_closing_takes_what_is_there_though_somebody_holds_the_other_end():
    """A whole pipe of it, and no byte of what comes after."""
    received = []
    pump = Pump()  # nobody reads yet
    read_end, write_end = open_pipe()
    source = pump.add(read_end, received.append)
    os.set_blocking(write_end, False)
    written = 0
    with suppress(BlockingIOError):
        while True:
            written += os.write(write_end, b"x" * 65536)
    assert written >= 1 << 20
    source.close()
    assert source.ended.is_set()
    assert sum(map(len, received)) == written
    with pytest.raises(BrokenPipeError):
        os.write(write_end, b"y")
    os.close(write_end)


async def test_closing_does_not_follow_a_flood():
    """What still writes gets EPIPE; it is not read for ever."""
    async with running_pump() as pump:
        read_end, write_end = open_pipe()
        source = pump.add(read_end, lambda _: None)
        with writer("import os\nwhile True: os.write(1, bytes(1 << 20))", write_end) as process:
            await trio.lowlevel.checkpoint()
            source.close()
            assert source.ended.is_set()
            await wait_for(lambda: process.poll() is not None, "it has ended by EPIPE")


async def test_a_source_that_was_closed_in_the_same_step_is_passed_over():
    """What one read leads to may close another pipe that is ready, too."""
    received = []
    pump = Pump()
    sources: list[Source] = []

    def take(part: bytes) -> None:
        received.append(part)
        if len(received) == 1:
            for source in sources[1:]:
                source.close()

    for _ in range(3):
        read_end, write_end = open_pipe()
        os.write(write_end, b"x")
        os.close(write_end)
        sources.append(pump.add(read_end, take))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.run)
        for source in sources:
            await end_of(source)
        nursery.cancel_scope.cancel()
    assert received == [b"x"] * 3


async def test_what_a_stopped_pump_has_not_read_can_still_be_taken():
    """The pump has been cancelled with everything else; an execution that winds down takes its last words."""
    received = []
    async with running_pump() as pump:
        read_end, write_end = open_pipe()
        source = pump.add(read_end, received.append)
        await wait_all_tasks_blocked()
    source.hold()
    source.go_on()
    os.write(write_end, b"last words")
    source.close()
    assert received == [b"last words"]
    os.close(write_end)


# Pace


async def test_what_is_held_is_not_read_and_loses_nothing():
    """The program waits as for any full pipe, and goes on when it is read again."""
    received = []
    async with running_pump() as pump:
        read_end, write_end = open_pipe()
        source = pump.add(read_end, received.append)
        source.hold()
        source.hold()
        os.write(write_end, b"a")
        await wait_all_tasks_blocked(0.01)
        assert not received
        source.go_on()
        source.go_on()
        await wait_for(lambda: received == [b"a"], "it is read")
        os.write(write_end, b"b")
        source.hold()
        os.close(write_end)
        await wait_all_tasks_blocked(0.01)
        assert received == [b"a"]
        source.close()
        assert received == [b"a", b"b"]
        source.go_on()  # it has ended: nothing happens
        source.hold()


async def test_a_held_pipe_whose_writer_has_gone_costs_nothing():
    """A hung-up pipe is always ready; one that is held must not keep the pump turning."""
    turns = 0
    async with running_pump() as pump:
        read_end, write_end = open_pipe()
        source = pump.add(read_end, lambda _: None)
        source.hold()
        os.close(write_end)
        poll = pump._epoll.poll

        class Counting:
            def __getattr__(self, name: str) -> object:
                return getattr(epoll, name)

            def poll(self, *words: int) -> object:
                nonlocal turns
                turns += 1
                return poll(*words)

        epoll, pump._epoll = pump._epoll, Counting()  # type: ignore[assignment]
        await trio.sleep(0.05)
        assert turns <= 1
        source.go_on()
        await end_of(source)


async def test_an_alarm_rings_though_nothing_is_read():
    """In the order of their times, not in that of asking."""
    rung = []
    async with running_pump() as pump:
        read_end, write_end = open_pipe()

        def ask(_: bytes) -> None:
            for seconds in (0.06, 0.02, 0.04):
                pump.alarm(seconds, lambda seconds=seconds: rung.append(seconds))

        source = pump.add(read_end, ask)
        os.write(write_end, b"x")
        await wait_for(lambda: len(rung) == 3, "all have rung")
        assert rung == [0.02, 0.04, 0.06]
        os.close(write_end)
        await end_of(source)
