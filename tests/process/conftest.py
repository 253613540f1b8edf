"""What the tests of processes share: after each, nothing that it started is left."""

from collections.abc import Iterator

import pytest

from .stage import nothing_left


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    """Walk what is below this process once a test is over, and fail on whatever it left."""
    with nothing_left():
        yield
