"""One daemon for the whole abuse, a good client that must not notice it, and what may be left of it at the end."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import attrs
import psutil
import pytest

from tests.abuse.good_client import GoodClient
from tests.e2e.daemon_process import Daemon, wait_for

MEGABYTE = 1 << 20

MOST_GROWTH = 80 * MEGABYTE
"""Memory that the daemon may hold more after everything: 1000 executions that have finished (17 MB), what waits for the
collector of cycles (15 MB at most), and what the allocator does not give back of the largest messages."""


@attrs.frozen
class Holdings:
    """What a daemon holds."""

    descriptors: list[str]
    keepers: list[str]
    memory: int

    @classmethod
    def of(cls, daemon: Daemon, keeper: int) -> "Holdings":
        return cls(opened(daemon.pid), opened(keeper), psutil.Process(daemon.pid).memory_info().rss)


def opened(pid: int) -> list[str]:
    """What a process has open; what it closes at this moment is left out."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(path.readlink()))
    return sorted(found)


@attrs.define(eq=False)
class Abused:
    """A daemon that is being abused.

    Attributes:
        daemon: it.
        good: who must be served all the time.
    """

    daemon: Daemon
    good: GoodClient

    @property
    def address(self) -> tuple[str, int]:
        """Of its port."""
        return self.daemon.address

    @property
    def control_socket(self) -> Path:
        """Of its operator."""
        return self.daemon.state_dir / "control.sock"

    def is_at_rest(self) -> bool:
        """Whether nobody is left but the good client."""
        status = self.daemon.request("status")
        left = (status["connections"], status["sessions"], status["executions"]["live"])
        return left == (1, 1, GoodClient.executions)


@pytest.fixture(scope="module")
def abused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Abused]:
    """The daemon, the same for every input at one door; at the end it holds no more than at the beginning."""
    daemon = Daemon(tmp_path_factory.mktemp("abused"), resume_window=0, ws_max_size=MEGABYTE)
    one = Abused(daemon, GoodClient(daemon.address))
    for _ in range(20):
        one.good.serves()
    daemon.request("list")  # the first look at what has left the memory opens the history once more
    keeper = daemon.keeper
    before = Holdings.of(daemon, keeper)
    try:
        yield one
        one.good.serves()
        wait_for(one.is_at_rest, "everybody else is gone", 15)
        with suppress(AssertionError):  # what is closed at this moment; if it is not, the lists say what it is
            wait_for(lambda: len(opened(keeper)) <= len(before.keepers), "no more descriptors in the keeper", 5)
        with suppress(AssertionError):
            wait_for(lambda: len(opened(daemon.pid)) <= len(before.descriptors), "no more in the daemon", 5)
        after = Holdings.of(daemon, keeper)
        assert len(after.descriptors) <= len(before.descriptors), (
            f"{before.descriptors} have become {after.descriptors}"
        )
        assert len(after.keepers) <= len(before.keepers), f"{before.keepers} have become {after.keepers}"
        assert after.memory - before.memory < MOST_GROWTH, f"{before} has become {after}"
        one.good.leave()
        daemon.stop()  # which looks for errors in its log, and for processes that are left
    finally:
        if daemon.process.poll() is None:
            daemon.kill()


@pytest.fixture
def hostile(abused: Abused) -> Iterator[Abused]:
    """The daemon for one input: the good client was served before it, is during it, and when its author has gone."""
    before, complaints = abused.good.served, len(abused.daemon.errors())
    yield abused
    assert abused.good.served > before, "nobody looked whether others are served meanwhile"
    wait_for(abused.is_at_rest, "everybody else is gone", 15)
    abused.good.serves()
    assert abused.daemon.process.poll() is None
    assert not abused.daemon.errors()[complaints:]
