"""A short program that the daemon runs for itself."""

import errno
import os
import signal

import pytest
import trio

from ccexecd.process.leader import Launch, SpawnError
from ccexecd.process.oneshot import MOST_STDERR, MOST_STDOUT, run_program

from .stage import Stage, living, open_descriptors, open_stage, wait_for


def shell(script: str) -> Launch:
    return Launch(("/bin/sh", "-c", script), "/", dict(os.environ), 0.0)


async def run(stage: Stage, script: str, stdin: bytes = b"", time_limit: float = 20.0):
    return await run_program(stage.keeper, stage.pump, shell(script), stdin, time_limit)


async def test_it_is_told_and_heard():
    """However much it is told, whether it reads that or not; how it ended is known."""
    async with open_stage() as stage:
        before = open_descriptors()
        told = b"x" * 1_000_000 + b"\n"
        done = await run(stage, "wc -c; echo no >&2; exit 3", told)
        assert (done.exit_code, done.stdout, done.stderr) == (3, b"1000001\n", b"no\n")
        assert not done.timed_out
        assert (await run(stage, "kill -9 $$", told)).exit_code == -signal.SIGKILL
        assert open_descriptors() == before


async def test_what_it_writes_is_bounded_and_holds_nobody_up():
    """The beginning is kept, and it is known that there was more."""
    async with open_stage() as stage:
        done = await run(stage, "head -c 3000000 /dev/zero; head -c 1000000 /dev/zero >&2")
        assert done.exit_code == 0
        assert (len(done.stdout), done.is_truncated, len(done.stderr)) == (MOST_STDOUT, True, MOST_STDERR)


@pytest.mark.parametrize("script", ["sleep 1000 & setsid sleep 1000 & sleep 1000", "trap '' TERM; while :; do :; done"])
async def test_one_that_hangs_is_ended_with_all_of_its_tree(script):
    """Nothing of it is left when its time is over, and what it had written is there."""
    async with open_stage() as stage:
        before = living()
        done = await run(stage, f"echo begun; {script}", time_limit=0.3)
        assert done.timed_out
        assert done.stdout == b"begun\n"
        assert living() == before


async def test_what_outlives_it_is_ended():
    """Its answer does not wait for what it left running in the background."""
    async with open_stage() as stage:
        before = living()
        done = await run(stage, "sleep 1000 & setsid sleep 1000 & echo done")
        assert (done.exit_code, done.stdout) == (0, b"done\n")
        assert living() == before


async def test_cancelled_it_is_ended_first():
    """Whoever cancels it finds nothing of it afterwards."""
    async with open_stage() as stage:
        before = living()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, stage, "sleep 1000 & sleep 1000")
                await wait_for(lambda: len(living() - before) >= 3, "it runs")
                scope.cancel()
        assert living() == before


async def test_what_cannot_be_started_is_told():
    """As for any other program; no descriptor is left."""
    async with open_stage() as stage:
        before = open_descriptors()
        with pytest.raises(SpawnError, match="No such file"):
            await run_program(stage.keeper, stage.pump, Launch(("/no/such",), "/", {}, 0.0), b"", 1.0)
        assert open_descriptors() == before


async def test_what_cannot_be_read_is_not_left_running(monkeypatch):
    """Where the kernel takes no more to wait for, it is as if it could not be started."""
    async with open_stage() as stage:
        before, descriptors = living(), open_descriptors()
        added = []

        def add_one(fd, sink):
            if added:
                raise OSError(errno.ENOSPC, "No space left on device")
            added.append(fd)
            return type(stage.pump).add(stage.pump, fd, sink)

        monkeypatch.setattr(stage.pump, "add", add_one)
        with pytest.raises(SpawnError, match="No space"):
            await run(stage, "sleep 1000 & sleep 1000")
        assert (living(), open_descriptors()) == (before, descriptors)
