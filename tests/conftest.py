"""What every test shares: Trio is the only event loop."""

import ctypes
from collections.abc import Iterator

import pytest

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on Trio, as the daemon does."""
    return "trio"


@pytest.fixture(autouse=True)
def _no_subreaper_afterwards() -> Iterator[None]:
    """A test that makes this process a subreaper, as the daemon is one, does not leave it so to the next test."""
    yield
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
