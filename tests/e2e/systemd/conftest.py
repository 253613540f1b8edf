"""Machines for the tests: bare ones, and one with ccexecd as contrib/systemd/README.md installs it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .machine import Machine, Service, missing, readme_commands


@pytest.fixture(scope="session")
def bootable() -> None:
    """Skip where no machine can be booted, saying what is missing."""
    if reason := missing():
        pytest.skip(reason)


@pytest.fixture
def boot(bootable: None, tmp_path: Path) -> Iterator[Callable[[], Machine]]:
    """Boot bare machines, without ccexecd; they end with the test."""
    booted: list[Machine] = []

    def one() -> Machine:
        booted.append(Machine(tmp_path / f"boot-{len(booted)}.log"))
        return booted[-1]

    yield one
    for each in booted:
        each.close()


@pytest.fixture(scope="session")
def machine(bootable: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with ccexecd installed as contrib/systemd/README.md says."""
    booted = Machine(tmp_path_factory.mktemp("systemd") / "boot.log", readme_commands("Install"))
    yield booted
    booted.close()


@pytest.fixture
def service(machine: Machine) -> Iterator[Service]:
    """The installed service, stopped and without a configuration file; its journal is shown when the test fails."""
    one = Service(machine)
    one.reset()
    yield one
    print(one.journal())
    one.reset()
