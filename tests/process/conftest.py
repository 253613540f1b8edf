"""What the tests of processes share: after each, nothing that it started is left."""

from collections.abc import Iterator

import pytest

from ccexecd.process.control_groups import Base, claim

from .stage import groups_in_use, nothing_left

NO_GROUPS = "this user may make no control groups here (version 2, delegated or without systemd)"


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    """Walk what is below this process once a test is over, and fail on whatever it left."""
    with nothing_left():
        yield


@pytest.fixture
def base() -> Iterator[Base]:
    """A control group of our own, as a daemon makes it."""
    base = claim()
    if base is None:
        pytest.skip(NO_GROUPS)
    yield base
    base.dissolve()


@pytest.fixture
def groups() -> Iterator[None]:
    """Executions get control groups."""
    trial = claim()
    if trial is None:
        pytest.skip(NO_GROUPS)
    trial.dissolve()
    with groups_in_use():
        yield


@pytest.fixture(params=["walk", "control groups"])
def containment(request: pytest.FixtureRequest) -> None:
    """How what belongs to an execution is known: both ways hold the same promises."""
    if request.param == "control groups":
        request.getfixturevalue("groups")
