"""What outlives a connection, a watcher's patience, and the daemon itself: every byte that is to be kept."""

import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from .client import Client, RefusedError, Watched, connect
from .daemon_process import Daemon, eventually, wait_for

LINES = """
import random, sys
chance = random.Random(int(sys.argv[1]))
for number in range(int(sys.argv[2])):
    sys.stdout.write(f"{number} " + "x" * chance.randrange(400) + "\\n")
    if not chance.randrange(50):
        sys.stderr.write(f"{number} on stderr\\n")
        sys.stderr.flush()
"""
"""A program whose output nobody can guess, and everybody can compute."""


NINE = "head -c 900000 /dev/zero | tr '\\0' x"
"""900,000 bytes on one line."""


def expected(seed: int, count: int) -> tuple[bytes, bytes]:
    """What it writes to its two streams."""
    chance = random.Random(seed)
    out, err = [], []
    for number in range(count):
        out.append(f"{number} " + "x" * chance.randrange(400) + "\n")
        if not chance.randrange(50):
            err.append(f"{number} on stderr\n")
    return "".join(out).encode(), "".join(err).encode()


def again(daemon: Daemon, **config: object) -> Daemon:
    """Another daemon in the place of one that has gone."""
    return Daemon(daemon.state_dir, **config)


@pytest.fixture
def restarted(start_daemon) -> Iterator:
    """End a daemon, killed or asked to stop, and start the next one in its place."""
    started: list[Daemon] = []

    def restart(daemon: Daemon, *, kill: bool = False, **config: object) -> Daemon:
        if kill:
            daemon.kill()
        else:
            daemon.stop()
        started.append(again(daemon, **config))
        return started[-1]

    yield restart
    for each in started:
        each.stop()


async def attached(one: Client, execution_id: str, from_seq: int = 0) -> Watched:
    """Watch an execution from a position on."""
    reply = await one.request("attach", execution_id=execution_id, from_seq=from_seq)
    return Watched(one, {**reply, "execution_id": execution_id}, from_seq=max(from_seq, 1))


class TestAnotherDaemon:
    """What one daemon knew, the next one knows."""

    async def test_a_finished_execution_is_there_as_it_was(self, start_daemon, restarted):
        """Its description, its end and its output, pushed or pulled, by the operator and by clients."""
        daemon = start_daemon()
        async with connect(daemon.address) as one:
            done = await one.run("sh", "-c", "echo out; echo err >&2; printf end; exit 3", labels={"job": "nightly"})
            known = await one.request("status", execution_id=done.id)
        daemon = restarted(daemon)
        async with connect(daemon.address) as other:
            assert await other.request("status", execution_id=done.id) == known
            listed = (await other.request("list", label="job=nightly"))["executions"]
            assert [each["execution_id"] for each in listed] == [done.id]
            watched = await attached(other, done.id)
            assert (await watched.completed())["exit_code"] == 3
            assert (watched.stdout, watched.stderr) == ("out\nend", "err\n")
            assert [each["params"] for each in watched.notifications] == [each["params"] for each in done.notifications]
            pulled = await other.request("read_output", execution_id=done.id)
            assert "".join(chunk["data"] for chunk in pulled["chunks"] if chunk["type"] == "stdout") == "out\nend"
            assert pulled["outcome"]["exit_code"] == 3
            assert (await other.request("wait", execution_id=done.id))["exit_code"] == 3
            for method in ("write_stdin", "control"):
                params = {"data": "x"} if method == "write_stdin" else {"type": "CANCEL"}
                with pytest.raises(RefusedError, match="-32005"):
                    await other.request(method, execution_id=done.id, **params)
        assert daemon.request("status", execution_id=done.id[:8])["exit_code"] == 3

    async def test_a_silent_one_goes_on_where_its_watcher_was(self, start_daemon, restarted):
        """Whoever has seen its start, and nothing else, is told its end by the next daemon."""
        daemon = start_daemon()
        async with connect(daemon.address) as one:
            running = await one.execute("sleep", "300")
            journal = daemon.state_dir / "output" / running.id / "journal"
            await eventually(journal.exists, "it has lived for a moment")
            daemon.kill()
            await one.cut()
        [started] = [each["params"] for each in running.notifications]
        daemon = restarted(daemon, kill=True)
        async with connect(daemon.address) as other:
            watched = await attached(other, running.id, from_seq=2)
            assert (await watched.completed())["seq"] == 2
        async with connect(daemon.address) as other:
            watched = await attached(other, running.id)
            await watched.completed()
            assert watched.notifications[0]["params"] == started

    async def test_what_ran_when_it_was_killed_is_lost_with_its_output(self, start_daemon, restarted):
        """To the last byte that it had read, and with the end that nobody knows."""
        daemon = start_daemon()
        async with connect(daemon.address) as one:
            running = await one.execute("sh", "-c", "echo first; printf half; sleep 300")
            await running.printed("first")
            await eventually(
                lambda: (daemon.state_dir / "output" / running.id / "stdout").read_bytes() == b"first\nhalf",
                "it is read",
            )
            daemon.kill()
            await one.cut()
        daemon = restarted(daemon, kill=True)
        async with connect(daemon.address) as other:
            watched = await attached(other, running.id)
            outcome = await watched.completed()
            assert (outcome["reason"], outcome["exit_code"], outcome["pid"]) == ("lost", None, running.pid)
            assert watched.stdout == "first\nhalf"
            assert (await other.request("status", execution_id=running.id))["reason"] == "lost"

    async def test_a_history_that_is_gone_is_made_again(self, start_daemon, restarted):
        """From the output alone: what had finished as it was, and what ran as lost; with when they started."""
        daemon = start_daemon()
        async with connect(daemon.address) as one:
            done = await one.run("echo", "hello", labels={"job": "nightly"})
            running = await one.execute("sh", "-c", "echo first; sleep 300")
            await running.printed("first")
            known = {each: await one.request("status", execution_id=each) for each in (done.id, running.id)}
            daemon.kill()
            await one.cut()
        for file in daemon.state_dir.glob("history.db*"):
            file.unlink()
        daemon = restarted(daemon, kill=True)
        async with connect(daemon.address) as other:
            again = await other.request("status", execution_id=done.id)
            moment = datetime.fromisoformat
            late = moment(again.pop("finished_at")) - moment(known[done.id].pop("finished_at"))
            assert abs(late.total_seconds()) < 1
            assert again == known[done.id]
            lost = await other.request("status", execution_id=running.id)
            assert (lost["reason"], lost["started_at"]) == ("lost", known[running.id]["started_at"])

    @pytest.mark.parametrize("moment", range(6))
    async def test_killed_at_any_moment_of_many_executions(self, start_daemon, restarted, moment):
        """Whatever was told as started is known; whatever output was told is there; nothing is told twice."""
        programs = ["echo {}", "echo {}; printf more; sleep 300", "exec sleep 300"]
        daemon = start_daemon()
        told: dict[str, Watched] = {}
        async with connect(daemon.address) as one:
            for number in range(10 * (moment + 1)):
                execution = await one.execute("sh", "-c", programs[number % 3].format(number))
                told[execution.id] = execution
            daemon.process.kill()
            seen = {name: (execution.output(), list(execution.notifications)) for name, execution in told.items()}
            await one.cut()
        daemon = restarted(daemon, kill=True)
        async with connect(daemon.address) as other, connect(daemon.address) as resuming:
            listed = {each["execution_id"]: each for each in (await other.request("list"))["executions"]}
            assert listed.keys() == told.keys()
            for name, (before, notifications) in seen.items():
                watched = await attached(other, name)
                outcome = await watched.completed()
                assert watched.output().startswith(before)
                assert len(watched.output()) == outcome["stdout_bytes"] == listed[name]["stdout_bytes"]
                assert outcome["reason"] == listed[name]["reason"]
                assert outcome["reason"] in ("exited", "lost")
                last_seq = notifications[-1]["params"]["seq"] if notifications else outcome["seq"]
                if last_seq < outcome["seq"]:
                    rest = await attached(resuming, name, from_seq=last_seq + 1)
                    await rest.completed()
                    assert len(before + rest.output()) == outcome["stdout_bytes"]

    async def test_output_is_kept_as_long_as_there_is_room(self, start_daemon, restarted):
        """The oldest goes; what it was is still known, and a position in it is -32007."""
        daemon = start_daemon(spool_total_bytes=2 << 20)
        async with connect(daemon.address) as one:
            first, *_, last = [await one.run(command=NINE) for _ in range(4)]
        await eventually(lambda: not (daemon.state_dir / "output" / first.id).exists(), "the oldest has gone")
        await eventually(lambda: daemon.request("status")["output"]["bytes_on_disk"] <= 2 << 20, "no more is kept")
        daemon = restarted(daemon)
        async with connect(daemon.address) as other:
            known = await other.request("status", execution_id=first.id)
            assert (known["exit_code"], known["stdout_bytes"]) == (0, 900_000)
            with pytest.raises(RefusedError, match="-32007"):
                await other.request("attach", execution_id=first.id, from_seq=1)
            pulled = await other.request("read_output", execution_id=last.id, max_bytes=16 << 20)
            assert sum(len(chunk["data"]) for chunk in pulled["chunks"]) == 900_000


class TestCuts:
    """A connection that breaks again and again."""

    @pytest.mark.parametrize("seed", range(4))
    async def test_every_byte_once_and_in_order(self, start_daemon, seed):
        """Cut at random, resumed, attached where it was: both streams are what the program wrote, by their hashes."""
        chance = random.Random(seed)
        daemon = start_daemon(max_buffer_size=256 * 1024)
        stream = Stream()
        async with connect(daemon.address) as one:
            execution = await one.execute("python3", "-c", LINES, str(seed), "60000")
            claim = {name: one.greeting[name] for name in ("session_id", "resume_token")}
            await self._some(execution, chance)
            await one.cut()
        stream.take(execution)
        cuts = 1
        while not is_over(execution):
            async with connect(daemon.address) as one:
                await one.request("resume_session", **claim)
                execution = await attached(one, execution.id, stream.position)
                await self._some(execution, chance)
                await one.cut()
            stream.take(execution)
            cuts += 1
        assert cuts > 5
        out, err = expected(seed, 60_000)
        assert stream.hashes["stdout"].digest() == hashlib.sha256(out).digest()
        assert stream.hashes["stderr"].digest() == hashlib.sha256(err).digest()

    async def _some(self, execution: Watched, chance: random.Random) -> None:
        """Wait until some of it has come."""
        wanted = chance.randrange(1, 40)

        def some() -> bool:
            return len(execution.notifications) >= wanted or is_over(execution)

        await eventually(some, "some of it has come", 30)


class Stream:
    """What came over all connections together.

    Attributes:
        position: the next entry.
        hashes: of both streams.
    """

    def __init__(self) -> None:
        self.position = 1
        self.hashes = {"stdout": hashlib.sha256(), "stderr": hashlib.sha256()}
        self._sizes = {"stdout": 0, "stderr": 0}

    def take(self, execution: Watched) -> None:
        """What one connection brought."""
        for each in execution.notifications:
            params = each["params"]
            assert params["seq"] == self.position, "no gap, nothing twice"
            self.position += 1
            if each["method"] == "process.output":
                assert params["offset"] == self._sizes[params["type"]]
                self.hashes[params["type"]].update(params["data"].encode())
                self._sizes[params["type"]] += len(params["data"])


def written(daemon: Daemon, execution_id: str) -> int:
    """How much an execution has written to its standard output."""
    return daemon.request("status", execution_id=execution_id)["stdout_bytes"]


def is_over(execution: Watched) -> bool:
    """Whether its end has been told."""
    return bool(execution.notifications) and execution.notifications[-1]["method"] == "process.completed"


class TestMuch:
    """A gibibyte goes through, and the daemon stays as small as it was."""

    @pytest.mark.alone
    async def test_memory_is_flat(self, start_daemon):
        """With a watcher that has left and one that reads nothing; any part of it can be read, and all is on disk."""
        daemon = start_daemon(spool_execution_bytes=2 << 30, spool_total_bytes=4 << 30)
        line = "0123456789abcdef" * 4 + "\n"
        size = 1 << 30
        async with connect(daemon.address) as one:
            await one.run("true")
            before = psutil.Process(daemon.process.pid).memory_info().rss
            flood = await one.execute("sh", "-c", f"yes {line[:-1]} | head -c {size}")
            await one.request("detach", execution_id=flood.id)
            outcome = await one.request("wait", execution_id=flood.id, timeout=120)
            assert (outcome["stdout_bytes"], outcome["dropped_bytes"]) == (size, 0)
            after = psutil.Process(daemon.process.pid).memory_info().rss
            assert after - before < 24 << 20
            known = await one.request("status", execution_id=flood.id)
            for seq in (2, known["next_seq"] // 2, known["next_seq"] - 2):
                pulled = await one.request("read_output", execution_id=flood.id, from_seq=seq, max_bytes=1)
                [chunk] = pulled["chunks"]
                start = chunk["offset"] % len(line)
                assert chunk["data"] == (line * (len(chunk["data"]) // len(line) + 2))[start:][: len(chunk["data"])]
            assert psutil.Process(daemon.process.pid).memory_info().rss - before < 24 << 20
        assert (daemon.state_dir / "output" / flood.id / "stdout").stat().st_size == size


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="a small file system is mounted: needs root"
)
class TestAFullDisk:
    """The disk is full in the middle: executions go on, and the daemon says so."""

    @pytest.fixture
    def small_disk(self, tmp_path: Path) -> Iterator[Path]:
        """A file system of 8 MiB."""
        place = tmp_path / "disk"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], check=True)
        yield place
        subprocess.run(["umount", "-l", place], check=True)

    async def test_it_goes_on_and_recovers(self, small_disk):
        """More than fits: nothing fails, the window has the end; with room again, the rest is kept again."""
        daemon = Daemon(small_disk, max_buffer_size=1 << 20, spool_total_bytes=1 << 30)
        try:
            async with connect(daemon.address) as one:
                flood = await one.execute(
                    "sh", "-c", "seq -f 'line %020.0f' 1000000; read go; echo after", stdin="open"
                )
                await eventually(lambda: written(daemon, flood.id) == 26_000_000, "all is written")
                health = daemon.request("health")
                assert (health["status"], health["problems"]) == ("degraded", ["output is not kept on disk"])
                assert "No space left on device" in daemon.request("status")["problems"]["output is not kept on disk"]
                assert (await one.run("echo", "hello")).stdout == "hello\n"  # others run, too
                os.truncate(small_disk / "output" / flood.id / "stdout", 0)  # somebody makes room
                await one.request("write_stdin", execution_id=flood.id, data="\n")
                outcome = await flood.completed(30)
                await eventually(lambda: daemon.request("health")["status"] == "healthy", "it is well again", 20)
                dropped = sum(gap["dropped_bytes"] for gap in flood.gaps)
                assert len(flood.output()) + dropped == outcome["stdout_bytes"] == 26_000_006
                assert flood.output().endswith(b"after\n")
                with (small_disk / "output" / flood.id / "stdout").open("rb") as file:
                    file.seek(-6, os.SEEK_END)
                    assert file.read() == b"after\n"
        finally:
            daemon.may_log_errors = True
            daemon.stop()

    def test_a_disk_that_is_full_from_the_start(self, small_disk):
        """A daemon that comes up without room for a database serves all the same."""
        (small_disk / "ballast").write_bytes(b"x" * ((8 << 20) - 64 * 1024))
        daemon = Daemon(small_disk)
        try:
            wait_for(lambda: daemon.request("health")["status"], "it answers", 10)
            (small_disk / "ballast").unlink()
            wait_for(lambda: daemon.request("health")["status"] == "healthy", "it is well again", 20)
        finally:
            daemon.may_log_errors = True
            daemon.stop()
