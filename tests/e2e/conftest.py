"""What end-to-end tests share: a daemon as a real process, and the certainty that nothing of it stays behind."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from .client import connect
from .daemon_process import Daemon, wait_for


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all tests of a module: what one client did to it must not matter to the next."""
    one = Daemon(tmp_path_factory.mktemp("daemon"))
    yield one
    one.stop()


@pytest.fixture
def daemon(shared_daemon: Daemon) -> Iterator[Daemon]:
    """The module's daemon; when the test is over, nothing that it had executed is left."""
    yield shared_daemon
    wait_for(lambda: not shared_daemon.processes(), "the test's executions are gone", 15)
    wait_for(lambda: not shared_daemon.request("status")["sessions"], "the test's sessions are gone", 15)
    assert shared_daemon.process.poll() is None, f"the daemon has ended:\n{shared_daemon.log}"


@pytest.fixture
def start_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Daemon]]:
    """Start a daemon with configuration keys of the test's own; it is stopped, and checked, at the end."""
    started: list[Daemon] = []

    def start(**config: object) -> Daemon:
        started.append(Daemon(tmp_path_factory.mktemp("daemon"), **config))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def client(daemon: Daemon) -> partial:
    """Open connections to the module's daemon: ``async with client() as one``."""
    return partial(connect, daemon.address)
